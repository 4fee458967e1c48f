// The kinds of MalformedCampaign: fields at random among the values that must not be, bytes changed, files cut, on one specimen of
// each format. Structures lie where OutputImage and Tests/tools/vhd.py put them.

import BlockIO
import DiskImage
import Foundation
import Testing

private func le32(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: UInt32(truncatingIfNeeded: number).littleEndian) { Array($0) } }
private func le64(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: number.littleEndian) { Array($0) } }
private func be32(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: UInt32(truncatingIfNeeded: number).bigEndian) { Array($0) } }
private func be64(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

private let most32 = UInt64(UInt32.max), most64 = UInt64.max
private let MiB = UInt64(1) << 20, diskMax = UInt64(64) << 40

extension SeededRandom {
    fileprivate mutating func from(_ low: UInt64, to high: UInt64) -> UInt64 { UInt64.random(in: low...high, using: &self) }
}

/// Of one specimen.
struct MalformedKinds {
    typealias Bytes = (inout SeededRandom) -> [UInt8]
    typealias Steps = (inout SeededRandom) -> [Damage.Step]

    private(set) var kinds: [MalformedKind] = []
    private let specimen: Specimen
    private let prefix: String
    private var end: UInt64 { specimen.fileBytes - 512 }

    static func all(_ folder: TestFolder) throws -> [MalformedKind] {
        try dynamic(folder) + fixed(folder) + differencing(folder) + parent(folder) + batmap(folder) + vhdx(folder) + vhdxLog(folder) + qcow2(folder)
    }

    private init(_ specimen: Specimen, _ prefix: String) { (self.specimen, self.prefix) = (specimen, prefix) }

    private mutating func add(_ name: String, _ outcome: Damage.Outcome, _ steps: @escaping Steps) {
        kinds.append(MalformedKind(name: "\(prefix), \(name)", specimen: specimen) { random in Damage(steps(&random), outcome) })
    }

    private mutating func vhd(_ name: String, _ place: Lie.Place, _ offset: Int, _ names: String, _ bytes: @escaping Bytes) {
        add(name, .refused([names])) { random in [.vhd(Lie(place, offset, bytes(&random), names))] }
    }

    private mutating func mapped(_ name: String, _ place: Int, _ names: String, _ bytes: @escaping Bytes) {
        add(name, .refused([names])) { random in [.mapped(FileLie(place, bytes(&random), names))] }
    }

    /// The same in one of the entries of 8 bytes of a table.
    private mutating func entry(_ name: String, of table: Int, _ entries: Range<Int>, _ names: String, _ bytes: @escaping Bytes) {
        add(name, .refused([names])) { random in
            let place = table + 8 * Int.random(in: entries, using: &random)
            return [.mapped(FileLie(place, bytes(&random), names))]
        }
    }

    private mutating func cutAndExtended() {
        let bytes = specimen.fileBytes
        add("cut", .refusedOrEqual) { random in [.cut(random.from(0, to: bytes - 1))] }
        add("extended", .equal) { random in [.append(random.bytes(Int(random.from(1, to: 128)) * 512))] }
    }

    /// The lies of the suite that has them one by one: a kind for each field, and two fields at once.
    private mutating func listed<Listed>(_ lies: [Listed], _ names: (Listed) -> String, _ step: @escaping (Listed) -> Damage.Step) {
        for (name, group) in Dictionary(grouping: lies, by: names).sorted(by: { $0.key < $1.key }) {
            add("listed: \(name)", .refused([name])) { random in [step(group.randomElement(using: &random)!)] }
        }
        let whole = lies.filter { if case .cut = step($0) { false } else { true } }
        add("two fields at once", .refused([])) { random in (0..<2).map { _ in step(whole.randomElement(using: &random)!) } }
    }

    private static func step(_ lie: Lie) -> Damage.Step {
        if case .cut(let bytes) = lie.place { return .cut(UInt64(bytes)) }
        return .vhd(lie)
    }

    // MARK: VHD

    /// 64 MiB, 32 entries at 1536, blocks 0 and 1 behind it.
    private static func dynamic(_ folder: TestFolder) throws -> [MalformedKind] {
        let disk = try Specimen(folder.write("dynamic.vhd", MalformedVHDTests.soundDynamic()), .vhdDynamic, checked: [0..<(4 << 20)])
        var kinds = MalformedKinds(disk, "vhd-dynamic")
        kinds.listed(MalformedVHDTests.dynamic, \.names, step)
        kinds.footersAndHeader()
        let (endSector, blockSectors) = (kinds.end / 512, UInt64(4097))
        kinds.vhd("entry behind the file", .table, 8, "table, entry 2") { be32($0.from(endSector - blockSectors + 2, to: most32 - 1)) }
        kinds.vhd("entry over a structure", .table, 12, "table, entry 3") { be32($0.from(0, to: 3)) }
        kinds.vhd("entry over a block", .table, 124, "table, entry") { be32($0.from(10, to: blockSectors)) }
        kinds.add("bitmap damaged", .equal) { _ in [.change(3584...4095)] }
        kinds.add("a guest's footer at the end", .equal) { random in
            let footer = VHDFooter.fixed(sizeBytes: 512 * random.from(1, to: 4096), uniqueID: random.bytes(16), timeStamp: 1)
            return [.append(random.bytes(512 * Int(random.from(1, to: 4000)))), .append(footer)]
        }
        return kinds.kinds
    }

    private mutating func footersAndHeader() {
        let end = end
        add("footer copy, a byte changed", .equal) { _ in [.change(0...511)] }
        add("footer at the end, a byte changed", .equal) { _ in [.change(end...end + 511)] }
        add("both footers, a byte changed", .refused(["footer"])) { _ in [.change(0...511), .change(end...end + 511)] }
        add("dynamic header, a byte changed", .refused(["dynamic header"])) { _ in [.change(512...1535)] }
        add("footer at the end cut", .equal) { [.cut($0.from(end, to: end + 511))] }
        cutAndExtended()
        vhd("features at random", .both, 8, "features") { be32($0.from(4, to: most32)) }
        vhd("version at random", .both, 12, "format version") { be32($0.from(0x0001_0001, to: most32)) }
        vhd("header outside", .both, 16, "data offset") { be64($0.from(end / 512 + 1, to: 1 << 54) * 512) }
        vhd("size at random", .both, 48, "current size") { be64($0.from((2040 << 30) + 1, to: most64)) }
        vhd("size of half a sector", .both, 48, "current size") { be64($0.from(1, to: 4096) * 512 + $0.from(1, to: 511)) }
        vhd("size beyond the table", .both, 48, "table entries") { be64($0.from(130 << 11, to: 2040 << 21) * 512) }
        vhd("type at random", .both, 60, "disk type") { be32($0.from(5, to: most32)) }
        vhd("saved state at random", .both, 84, "saved state") { [UInt8($0.from(2, to: 255))] }
        vhd("table between sectors", .header, 16, "table offset") { be64($0.from(0, to: most64 / 2) * 2 + 1) }
        vhd("table outside", .header, 16, "table offset") { be64($0.from(end / 512 + 1, to: 1 << 54) * 512) }
        vhd("table entries at random", .header, 28, "table entries") { be32($0.from((8 << 20) + 1, to: most32)) }
        vhd("too few table entries", .header, 28, "table entries") { be32($0.from(0, to: 2)) }
        vhd("block size at random", .header, 32, "block size") { be32($0.from(1, to: most32 / 2) * 2 + 1) }
    }

    private static func fixed(_ folder: TestFolder) throws -> [MalformedKind] {
        var random = SeededRandom(seed: 1)
        let bytes = random.bytes(1 << 20) + VHDFooter.fixed(sizeBytes: 1 << 20, uniqueID: [1], timeStamp: 1)
        var kinds = MalformedKinds(try Specimen(folder.write("fixed.vhd", bytes), .vhdFixed), "vhd-fixed")
        kinds.listed(MalformedVHDTests.fixed, \.names, step)
        kinds.add("a byte changed", .refused(["footer"])) { _ in [.change(MiB...MiB + 511)] }
        kinds.add("cut", .refused(["footer", "file size"])) { [.cut($0.from(0, to: MiB + 511))] }
        kinds.add("extended", .refused(["footer"])) { random in [.append(random.bytes(Int(random.from(1, to: 4096))))] }
        kinds.vhd("size at random", .footer, 48, "current size") { be64($0.from(MiB + 1, to: most64)) }
        return kinds.kinds
    }

    private static func chain(_ folder: TestFolder, _ name: String, _ base: [String], _ leaf: [String]) throws -> TestChain {
        let chain = TestChain(try TestFolder(in: folder.path))
        try chain.base(size: 3 << 20, ["--block", "524288"] + base)
        try chain.child(name, ["--block", "524288"] + leaf)
        return chain
    }

    private static func differencing(_ folder: TestFolder) throws -> [MalformedKind] {
        let leaf = try chain(folder, "leaf.vhd", [], [])
        var kinds = MalformedKinds(try Specimen(leaf.leaf.path, .vhdDifferencing), "vhd-differencing")
        kinds.folder = leaf.folder
        let (locator, end) = (576, kinds.end)
        kinds.footersAndHeader()
        kinds.vhd("parent id at random", .header, 40, "broken chain") { $0.bytes(16) }
        kinds.vhd("parent id of zeros", .header, 40, "parent unique id") { _ in [UInt8](repeating: 0, count: 16) }
        kinds.vhd("locator outside", .header, locator + 16, "parent locator 0") { be64($0.from(end + 512, to: most64)) }
        kinds.vhd("locator over a structure", .header, locator + 16, "no overlap") { be64($0.from(0, to: 3) * 512) }
        kinds.vhd("locator too long", .header, locator + 8, "parent locator 0") { be32($0.from(65_537, to: most32)) }
        kinds.vhd("locator of half a letter", .header, locator + 8, "parent locator 0") { be32($0.from(0, to: 1000) * 2 + 1) }
        kinds.vhd("locator without room", .header, locator + 4, "parent locator 0") { _ in be32(0) }
        kinds.vhd("entry behind the file", .table, 0, "table, entry 0") { be32($0.from(end / 512, to: most32 - 1)) }
        kinds.vhd("entry over a structure", .table, 0, "table, entry 0") { be32($0.from(0, to: 3)) }
        return kinds.kinds
    }

    /// The leaf is opened, and what lies is the file under it.
    private static func parent(_ folder: TestFolder) throws -> [MalformedKind] {
        let chain = try chain(folder, "over.vhd", [], [])
        var kinds = MalformedKinds(try Specimen(chain.leaf.path, .vhdDifferencing, damaged: chain.levels[0].path), "vhd-differencing's parent")
        kinds.folder = chain.folder
        let end = kinds.end
        kinds.add("both footers changed", .refused(["broken chain"])) { _ in [.change(0...511), .change(end...end + 511)] }
        kinds.add("dynamic header changed", .refused(["dynamic header"])) { _ in [.change(512...1535)] }
        kinds.vhd("another id", .both, 68, "another disk") { $0.bytes(16) }
        kinds.vhd("larger than its child", .both, 48, "a parent of") { be64($0.from(6145, to: MiB) * 512) }
        kinds.add("cut", .refusedOrEqual) { [.cut($0.from(0, to: end - 1))] }
        kinds.vhd("table entries at random", .header, 28, "table entries") { be32($0.from((8 << 20) + 1, to: most32)) }
        return kinds.kinds
    }

    private static func batmap(_ folder: TestFolder) throws -> [MalformedKind] {
        let chain = try chain(folder, "batmap.vhd", ["--creator", "tap"], ["--creator", "tap", "--layout", "batmap", "--filled", "0.5"])
        let disk = try Specimen(chain.leaf.path, .vhdDifferencing)
        var kinds = MalformedKinds(disk, "vhd-differencing with a batmap")
        kinds.folder = chain.folder
        kinds.mapped("map outside", 2048 + 8, "batmap, offset") { be64($0.from(disk.fileBytes, to: most64)) }
        kinds.mapped("map over a structure", 2048 + 8, "no overlap") { be64($0.from(1, to: 2) * 512) }
        kinds.mapped("map too small", 2048 + 16, "batmap, size") { _ in be32(0) }
        kinds.mapped("version at random", 2048 + 20, "batmap, version") { be32($0.from(0x0001_0003, to: most32)) }
        return kinds.kinds
    }

    /// The folder goes with the last of its kinds.
    private var folder: TestFolder? {
        get { specimen.folder }
        nonmutating set { specimen.folder = newValue }
    }

    // MARK: VHDX

    private static let vhdxData: [Range<UInt64>] = [0..<65_536, 32 << 20..<(32 << 20) + 65_536]

    /// Log at 1 MiB, metadata at 2, table at 3, blocks 0 and 1 at 4 and 36 MiB.
    private static func vhdx(_ folder: TestFolder) throws -> [MalformedKind] {
        let (head, regions, meta, items, table) = (64 << 10, 192 << 10, 2 << 20, (2 << 20) + (64 << 10), 3 << 20)
        let disk = try Specimen(MalformedMappedTests.sound(folder, .vhdx, "sound.vhdx"), .vhdx, checked: vhdxData)
        var kinds = MalformedKinds(disk, "vhdx")
        kinds.listed(MalformedMappedTests.vhdx, \.names) { .mapped($0) }
        let headers: [ClosedRange<UInt64>] = [65_536...69_631, 131_072...135_167]
        let tables: [ClosedRange<UInt64>] = [196_608...262_143, 262_144...327_679]
        kinds.add("a header changed", .equal) { random in [.change(headers.randomElement(using: &random)!)] }
        kinds.add("both headers changed", .refused(["header"])) { _ in headers.map { .change($0) } }
        kinds.add("a region table changed", .equal) { random in [.change(tables.randomElement(using: &random)!)] }
        kinds.add("both region tables changed", .refused(["region table"])) { _ in tables.map { .change($0) } }
        kinds.cutAndExtended()
        kinds.entry("block behind the file", of: table, 2..<8, "within the file") { le64($0.from(69, to: 1 << 43) << 20 | 6) }
        kinds.entry("block over a structure", of: table, 2..<8, "over") { le64($0.from(0, to: 3) << 20 | 6) }
        kinds.entry("block over a block", of: table, 2..<8, "overlap") { le64($0.from(5, to: 35) << 20 | 6) }
        kinds.entry("block in no state", of: table, 2..<8, "state") { le64($0.from(4, to: 30) << 20 | $0.from(4, to: 5)) }
        kinds.entry("reserved bits", of: table, 2..<8, "bits 3 to 19") { le64(4 << 20 | $0.from(1, to: 131_071) << 3 | 6) }
        kinds.mapped("log length at random", head + 68, "log length") { le32($0.from(17, to: 4095) << 20) }
        kinds.mapped("log offset at random", head + 72, "log offset") { le64($0.from(69, to: 1 << 40) << 20) }
        kinds.mapped("region offset at random", regions + 32, "file offset") { le64($0.from(69, to: 1 << 40) << 20) }
        kinds.mapped("region length at random", regions + 40, "file offset") { le32($0.from(70, to: 4095) << 20) }
        kinds.mapped("regions at random", regions + 8, "entry count") { le32($0.from(2048, to: most32)) }
        kinds.mapped("metadata item outside", meta + 48, "file parameters, offset") { le32($0.from(MiB, to: most32)) }
        kinds.mapped("block size at random", items, "block size") { le32($0.from(0, to: most32 / 2) * 2 + 1) }
        kinds.mapped("disk size at random", items + 8, "virtual disk size") { le64($0.from(diskMax + 1, to: most64)) }
        kinds.mapped("disk size of half a sector", items + 8, "virtual disk size") { le64($0.from(1, to: 1 << 30) * 512 - 1) }
        kinds.mapped("sector size at random", items + 32, "logical sector size") { le32($0.from(513, to: most32)) }
        return kinds.kinds
    }

    /// The table is in the log only: without it nothing is left of the disk.
    private static func vhdxLog(_ folder: TestFolder) throws -> [MalformedKind] {
        let path = try MalformedMappedTests.sound(folder, .vhdx, "log.vhdx")
        _ = try vhdxPython(["dirty", path])
        let disk = try Specimen(path, .vhdx, checked: vhdxData)
        var kinds = MalformedKinds(disk, "vhdx with a log")
        kinds.mapped("log of another id", (64 << 10) + 48, "log, entries") { $0.bytes(16) }
        kinds.add("both entries changed", .refused(["log, entries"])) { _ in [.change(MiB...MiB + 8191), .change(MiB + 8192...MiB + 16_383)] }
        kinds.add("cut below what was flushed", .refused(["flushed file size"])) { [.cut($0.from(4 * MiB, to: disk.fileBytes - MiB))] }
        return kinds.kinds
    }

    // MARK: qcow2

    /// Refcount table at cluster 1, block at 2, L1 table at 3, data at 4 and 5, L2 table at 6.
    private static func qcow2(_ folder: TestFolder) throws -> [MalformedKind] {
        let disk = try Specimen(MalformedMappedTests.sound(folder, .qcow2, "sound.qcow2"), .qcow2, checked: [0..<131_072])
        var kinds = MalformedKinds(disk, "qcow2")
        kinds.listed(MalformedMappedTests.qcow2, \.names) { .mapped($0) }
        let (own, refcounts, l1, l2) = (UInt64(1) << 63, 1 << 16, 3 << 16, 6 << 16)
        let outside: (inout SeededRandom) -> UInt64 = { $0.from(8, to: 1 << 38) << 16 }
        kinds.cutAndExtended()
        kinds.mapped("version at random", 4, "version") { be32($0.from(4, to: most32)) }
        kinds.mapped("backing file at random", 8, "backing file") { be64($0.from(1, to: most64)) }
        kinds.mapped("cluster bits at random", 20, "cluster bits") { be32($0.from(22, to: most32)) }
        kinds.mapped("size at random", 24, "size") { be64($0.from(diskMax + 1, to: most64)) }
        kinds.mapped("encryption at random", 32, "encryption") { be32($0.from(1, to: most32)) }
        kinds.mapped("L1 entries at random", 36, "L1 entries") { be32($0.from((4 << 20) + 1, to: most32)) }
        kinds.mapped("L1 table outside", 40, "L1 table offset") { be64(outside(&$0)) }
        kinds.mapped("L1 table between clusters", 40, "L1 table offset") { be64(3 << 16 + $0.from(1, to: 65_535)) }
        kinds.mapped("refcount table outside", 48, "refcount table offset") { be64(outside(&$0)) }
        kinds.mapped("refcount table too large", 56, "refcount table clusters") { be32($0.from(129, to: most32)) }
        kinds.mapped("unknown feature", 72, "incompatible features") { be64(1 << $0.from(5, to: 63)) }
        kinds.mapped("refcount order at random", 96, "refcount order") { be32($0.from(7, to: most32)) }
        kinds.entry("refcount block outside", of: refcounts, 1..<8192, "refcount table, entry") { be64(outside(&$0)) }
        kinds.entry("refcount block over another", of: refcounts, 1..<8192, "refcount table, entry") { be64($0.from(1, to: 3) << 16) }
        kinds.entry("L2 table outside", of: l1, 0..<1, "L1 table, entry 0") { be64(outside(&$0) | own) }
        kinds.entry("L2 table over another", of: l1, 0..<1, "L1 table, entry 0") { be64($0.from(1, to: 3) << 16 | own) }
        kinds.entry("cluster outside", of: l2, 2..<1024, "L2 table 0, entry") { be64(outside(&$0) | own) }
        kinds.entry("cluster over another", of: l2, 2..<1024, "L2 table 0, entry") { be64($0.from(1, to: 6) << 16 | own) }
        kinds.entry("cluster between clusters", of: l2, 2..<1024, "L2 table 0, entry") { be64(4 << 16 | $0.from(1, to: 127) << 9 | own) }
        kinds.entry("reserved bits of an entry", of: l2, 2..<1024, "L2 table 0, entry") { be64($0.from(1, to: 127) << 1) }
        kinds.entry("compressed data outside", of: l2, 2..<1024, "L2 table 0, entry") { be64(1 << 62 | $0.from(disk.fileBytes, to: 1 << 50)) }
        return kinds.kinds
    }
}
