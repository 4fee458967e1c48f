// An image brought from one state of a disk to another: bit-exact, by what differs alone, and whole after a kill at any write.

import BlockIO
import ChangeLog
import DiskImage
import Failover
import Foundation
import ObjectStore
import RecoveryPoints
import Synchronization
import Testing
import Vault
import VaultFixtures

@Suite struct RefreshTests {
    private func limits() -> HistoryWriter.Limits {
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 5
        limits.deltasPerRollup = 2
        return limits
    }

    /// A history with a branch: the left one ends at `left`, the other goes on from `branch`.
    private func disk(_ vault: Vault, seed: UInt64, grows: Bool = false) throws -> (disk: ModelDisk, first: VaultID, branch: UInt64, left: UInt64) {
        let disk = try ModelDisk(vault, sizeBytes: (5 << 20) + (grows ? 0 : 512), seed: seed, limits: limits())
        try disk.replicateInitially()
        for _ in 0..<6 { try disk.step(records: 5, segmentBytes: 400_000) }
        let (first, branch, left) = (disk.lineage, disk.sequences[disk.sequences.count - 9], disk.sequence)
        let heads = vault.heads(group: disk.id)
        let lineage = VaultID.random()
        let next = try disk.writer.branch(try #require(try heads.newest()?.document.state(of: disk.id)), to: lineage, at: branch, epoch: 1)
        try heads.update(epoch: disk.epoch) { $0.set(next) }
        try disk.branched(at: branch, lineage: lineage)
        for _ in 0..<4 { try disk.step(records: 5) }
        return (disk, first, branch, left)
    }

    /// Image and folder of a home, with `content` in an image of the format.
    private struct Home {
        let path: String
        let format: ImageFormat
        var folder: LogFolder { LogFolder(path + "/log") }

        init(_ content: [UInt8], format: OutputFormat = .raw) throws {
            path = try temporaryDirectory()
            self.format = format.imageFormat
            try Directory.create(path + "/log")
            let output = try OutputImage.begin(path + "/image", format: format, sizeBytes: UInt64(content.count), uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0)
            try content.withUnsafeBytes { try output.image.write($0, at: 0) }
            try output.finish(replacing: false)
        }

        func image() throws -> any ImageFile { try openImage(path + "/image", access: .readWrite, format: format) }

        func content() throws -> [UInt8] {
            let image = try image()
            var bytes = [UInt8](repeating: 0xEE, count: Int(image.sizeBytes))
            try bytes.withUnsafeMutableBytes { try image.read(into: $0, at: 0) }
            return bytes
        }

        func remove() { try? FileManager.default.removeItem(atPath: path) }
    }

    private func refresh(_ image: any ImageFile, _ home: Home, _ disk: ModelDisk, _ mark: RefreshMark, unsent: BlockRanges = .none, formerEnds: BlockRanges = .none, fetched: @escaping @Sendable () -> UInt64 = { 0 }) throws -> ImageRefresh {
        try mark.store(home.folder)
        let history = try #require(try DiskHistory.newest(disk.vault, try disk.vault.disk("disk")))
        return ImageRefresh(
            image, mark, folder: home.folder, history: history, sources: PointSources(vault: disk.vault), unsent: unsent, formerEnds: formerEnds,
            ImageRefresh.Surroundings(fetchedBytes: fetched, isOver: { false }, progress: { _ in }))
    }

    private func mark(_ disk: ModelDisk, _ base: RefreshMark.State?, hasUnsent: Bool = false) -> RefreshMark {
        RefreshMark(vault: disk.vault.id, disk: disk.id, base: base, hasUnsent: hasUnsent)
    }

    /// Writes that the vault never got, on `content`.
    private func unsent(_ content: inout [UInt8], _ numbers: inout SeededNumbers) -> BlockRanges {
        var ranges: [Range<UInt64>] = []
        for _ in 0..<8 {
            let block = Int.random(in: 0..<content.count / 4096 - 20, using: &numbers)
            let count = Int.random(in: 1...20, using: &numbers)
            content.replaceSubrange(block * 4096..<(block + count) * 4096, with: numbers.bytes(count * 4096))
            ranges.append(UInt64(block)..<UInt64(block + count))
        }
        return BlockRanges(ranges)
    }

    @Test(arguments: [OutputFormat.raw, .vhdDynamic, .vhdx, .qcow2], [3])
    func theImageIsTheState(format: OutputFormat, seed: UInt64) throws {
        let test = try TestVault()
        let (disk, first, _, left) = try disk(test.vault, seed: seed)
        var numbers = SeededNumbers(seed: seed)
        var content = disk.content(at: left)
        let loose = unsent(&content, &numbers)
        let home = try Home(content, format: format)
        defer { home.remove() }
        let image = try home.image()
        let refresh = try refresh(image, home, disk, mark(disk, .init(lineage: first, sequence: left), hasUnsent: true), unsent: loose)
        // To a state on the way, and on while the replica runs.
        let target = RefreshMark.State(lineage: disk.lineage, sequence: disk.points[disk.points.count - 2].sequence)
        try refresh.bring(to: target)
        #expect(try home.content() == disk.content(at: target.sequence))
        #expect(try RefreshMark.load(home.folder)?.base == target)
        try refresh.bring(to: .init(lineage: disk.lineage, sequence: disk.sequence))
        #expect(try home.content() == disk.content(at: disk.sequence))
        let mark = try #require(try RefreshMark.load(home.folder))
        #expect(mark.base?.sequence == disk.sequence && !mark.hasUnsent && mark.pass == nil && mark.writtenBytes > 0)
    }

    /// With nothing known of it, and with a base that the vault no longer has.
    @Test func anImageOfUnknownContentIsCompared() throws {
        let test = try TestVault()
        let (disk, first, _, left) = try disk(test.vault, seed: 5)
        var numbers = SeededNumbers(seed: 5)
        var content = disk.content(at: left)
        _ = unsent(&content, &numbers)
        for base in [nil, RefreshMark.State(lineage: .random(), sequence: left), .init(lineage: first, sequence: disk.sequence + 9)] {
            let home = try Home(content)
            defer { home.remove() }
            try refresh(try home.image(), home, disk, mark(disk, base)).bring(to: .init(lineage: disk.lineage, sequence: disk.sequence))
            #expect(try home.content() == disk.content(at: disk.sequence))
        }
    }

    /// What the image has is not fetched: chunks are compared by their names.
    @Test func chunksThatAreThereAreNotFetched() throws {
        let store = CountingStore(MemoryStore())
        let vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let disk = try ModelDisk(vault, sizeBytes: 32 << 20, seed: 9)
        disk.fill()
        try disk.replicateInitially()
        var content = disk.content(at: disk.sequence)
        content[5 << 20] ^= 1
        let home = try Home(content)
        defer { home.remove() }
        let before = store.counts.bytesReceived
        let refresh = try refresh(try home.image(), home, disk, mark(disk, nil))
        try refresh.bring(to: .init(lineage: disk.lineage, sequence: disk.sequence))
        #expect(try home.content() == disk.content(at: disk.sequence))
        #expect(refresh.mark.writtenBytes == 4096)
        #expect(store.counts.bytesReceived - before < 3 << 20)
    }

    /// Killed at any write, flush or zeroing, the next run ends with the right bytes; so does one that is to go to a later state.
    @Test(arguments: 1...6) func aKillAnywhereIsGoneOnFrom(seed: UInt64) throws {
        let test = try TestVault(encrypted: false)
        let (disk, first, _, left) = try disk(test.vault, seed: seed)
        var numbers = SeededNumbers(seed: seed + 50)
        var content = disk.content(at: left)
        let loose = unsent(&content, &numbers)
        let base = seed % 3 == 0 ? nil : RefreshMark.State(lineage: first, sequence: left)
        let home = try Home(content, format: seed % 2 == 0 ? .vhdDynamic : .raw)
        defer { home.remove() }
        try mark(disk, base, hasUnsent: base != nil).store(home.folder)
        var kills = 0
        for attempt in 0... {
            let target = RefreshMark.State(lineage: disk.lineage, sequence: disk.points[disk.points.count - (attempt < 3 ? 2 : 1)].sequence)
            let dying = DyingImage(try home.image(), after: Int.random(in: 0...(12 + 10 * attempt), using: &numbers))
            do {
                let found = try #require(try RefreshMark.load(home.folder))
                try refresh(dying, home, disk, found, unsent: loose).bring(to: target)
                #expect(try home.content() == disk.content(at: target.sequence), "seed \(seed), attempt \(attempt)")
                if attempt >= 3 { break }
            } catch let error as RefreshError {
                guard case .system(let cause) = error, cause.errno == EIO else { throw error }
                kills += 1
            }
        }
        #expect(kills > 0)
    }

    /// Killed between the new footer and the end of the old one, where the vault has nothing.
    @Test func theFooterOfASmallerFixedVHDIsNoData() throws {
        let test = try TestVault()
        let (old, new) = (4 << 20, 6 << 20)
        let disk = try ModelDisk(test.vault, sizeBytes: old, seed: 11, limits: limits())
        try disk.replicateInitially()
        try disk.step(records: 3)
        let base = RefreshMark.State(lineage: disk.lineage, sequence: disk.sequence)
        let home = try Home(disk.content(at: base.sequence), format: .vhdFixed)
        defer { home.remove() }
        disk.grow(to: new)
        repeat { try disk.step(records: 1) } while disk.sequence < base.sequence + 4
        try #require(!disk.blocksWritten(after: base.sequence).contains(UInt64(old / 4096)), "another seed")
        try Descriptor.open(home.path + "/image", O_RDWR).write(VHDFooter.fixed(sizeBytes: UInt64(new), uniqueID: [UInt8](repeating: 1, count: 16), timeStamp: 0), at: UInt64(new))
        #expect(try home.content()[old..<old + 8] == ArraySlice("conectix".utf8))
        let ends = Failbacks.formerEnds(.vhdFixed, [UInt64(old), UInt64(new)], below: UInt64(new))
        #expect(ends.blockCount == 1 && Failbacks.formerEnds(.raw, [UInt64(old)], below: UInt64(new)) == .none)
        try refresh(try home.image(), home, disk, mark(disk, base), formerEnds: ends).bring(to: .init(lineage: disk.lineage, sequence: disk.sequence))
        #expect(try home.content() == disk.content(at: disk.sequence))
    }

    /// The disk grew between: the image has the later size when the pass is gone through again.
    @Test func aPassBeforeTheDiskGrewIsEndedFirst() throws {
        let test = try TestVault()
        let disk = try ModelDisk(test.vault, sizeBytes: 4 << 20, seed: 12, limits: limits())
        try disk.replicateInitially()
        try disk.step(records: 3)
        let base = RefreshMark.State(lineage: disk.lineage, sequence: disk.sequence)
        try disk.step(records: 5)
        let interrupted = RefreshMark.State(lineage: disk.lineage, sequence: disk.sequence)
        disk.grow(to: 6 << 20)
        try disk.step(records: 5)
        let home = try Home(disk.content(at: base.sequence))
        defer { home.remove() }
        let dying = DyingImage(try home.image(), after: 0)
        #expect(throws: RefreshError.self) { try refresh(dying, home, disk, mark(disk, base)).bring(to: interrupted) }
        let found = try #require(try RefreshMark.load(home.folder))
        #expect(found.pass?.target == interrupted)
        try Descriptor.open(home.path + "/image", O_RDWR).truncate(to: 6 << 20)
        try refresh(try home.image(), home, disk, found).bring(to: .init(lineage: disk.lineage, sequence: disk.sequence))
        #expect(try home.content() == disk.content(at: disk.sequence))
    }

    @Test func anotherSizeIsRefused() throws {
        let test = try TestVault()
        let (disk, first, _, left) = try disk(test.vault, seed: 7)
        let home = try Home([UInt8](repeating: 0, count: 6 << 20))
        defer { home.remove() }
        let refresh = try refresh(try home.image(), home, disk, mark(disk, .init(lineage: first, sequence: left)))
        #expect(throws: RefreshError.self) { try refresh.bring(to: .init(lineage: disk.lineage, sequence: disk.sequence)) }
    }
}

/// Fails every change after some: the process was killed there.
private final class DyingImage: ImageFile {
    private let base: any ImageFile
    private let left: Mutex<Int>

    init(_ base: any ImageFile, after changes: Int) {
        self.base = base
        left = Mutex(changes)
    }

    private func live() throws(SystemError) {
        guard left.withLock({ left in
            left -= 1
            return left >= 0
        }) else { throw SystemError(errno: EIO, operation: "go on after the kill", path: path) }
    }

    var path: String { base.path }
    var files: [OpenedFile] { base.files }
    var sizeBytes: UInt64 { base.sizeBytes }
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) { try base.read(into: buffer, at: offset) }
    func nextData(from offset: UInt64) throws(SystemError) -> UInt64? { try base.nextData(from: offset) }
    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 { try base.nextHole(from: offset) }

    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try live()
        try base.write(buffer, at: offset)
    }

    func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try live()
        try base.zero(at: offset, length: length)
    }

    func flush() throws(SystemError) {
        try live()
        try base.flush()
    }
}
