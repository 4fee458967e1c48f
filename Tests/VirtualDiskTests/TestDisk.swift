// A protected disk in a temporary folder, opened, killed and robbed of its power at will.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Synchronization
import Testing
import VirtualDisk

final class TestDisk {
    static let segmentBytes = 128 << 10
    let root: String
    let folder: LogFolder
    var image: any ImageFile
    let sequencer: Sequencer
    /// What is on stable storage of each segment file.
    let durable = DurableSegments()
    private(set) var disk: VirtualDisk!
    private var boot = 0
    private let idleSealNanoseconds: UInt64?

    init(_ image: any ImageFile, targets: [String] = [], segments: UInt64 = 16, idleSealNanoseconds: UInt64? = nil) throws {
        self.idleSealNanoseconds = idleSealNanoseconds
        root = try Self.makeFolder()
        self.image = image
        folder = LogFolder(root + "/disk.log")
        sequencer = try Sequencer(path: root + "/sequences")
        try ChangeLog.create(
            folder, diskID: .random(), diskBytes: image.sizeBytes, targets: targets, segmentBytes: Self.segmentBytes,
            budgetBytes: segments * UInt64(Self.segmentBytes))
        try open()
    }

    static func makeFolder() throws -> String {
        var template = Array("/tmp/farshore-disk-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    func open(parentsAreHeld: Bool = false) throws {
        let observer: @Sendable (String) -> Void = { [durable] path in durable.note(path) }
        let constant: @Sendable () throws -> ImageIdentity = { ImageIdentity(evidence: .changeTime, sizeBytes: 0, stamp: 0) }
        let identity = image is RawImage || image is DynamicVHD ? nil : constant
        var options = ChangeLog.Options(bootID: "boot-\(boot)", didSync: observer)
        if let idleSealNanoseconds { options.idleSealNanoseconds = idleSealNanoseconds }
        disk = try VirtualDisk.open(
            name: "disk", image: image, folder: folder, lock: try OwnerLock.acquire(folder), sequencer: sequencer, options: options,
            parentsAreHeld: parentsAreHeld, identity: identity)
    }

    func kill() throws {
        disk.abandon()
        try open()
    }

    /// Each sector of the log that was not synced is as it is or as it was; the same for a memory image.
    func losePower(_ random: inout Seeded) throws {
        disk.abandon()
        let durable = durable.bytes.withLock { $0 }
        for name in try Directory.list(folder.path) where name.hasPrefix("segment-") {
            let path = folder.path + "/" + name
            guard let before = durable[path] else {
                unlink(path)
                continue
            }
            let file = try Descriptor.open(path, O_RDWR)
            var now = try file.read(count: Self.segmentBytes, at: 0)
            for sector in 0..<Self.segmentBytes / 512 {
                let range = sector * 512..<(sector + 1) * 512
                if random.chance(1, in: 2) { now.replaceSubrange(range, with: before[range]) }
            }
            try file.write(now, at: 0)
            self.durable.note(path)
        }
        (image as? MemoryImage)?.losePower(&random)
        boot += 1
        try open()
    }

    func remove() {
        disk?.abandon()
        for folder in [folder.path, root] {
            for name in (try? Directory.list(folder)) ?? [] { unlink(folder + "/" + name) }
            rmdir(folder)
        }
    }

    func contents() throws -> [UInt8] { try disk.bytes(at: 0, count: Int(disk.sizeBytes)) }
}

final class DurableSegments: Sendable {
    let bytes = Mutex<[String: [UInt8]]>([:])

    func note(_ path: String) {
        guard let now = try? Descriptor.open(path, O_RDONLY).read(count: TestDisk.segmentBytes, at: 0) else { return }
        bytes.withLock { $0[path] = now }
    }
}

extension VirtualDisk {
    func bytes(at offset: Int, count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xA5, count: count)
        try bytes.withUnsafeMutableBytes { try read(into: $0, at: UInt64(offset)) }
        return bytes
    }

    func put(_ bytes: [UInt8], at offset: Int) throws {
        try bytes.withUnsafeBytes { try write($0, at: UInt64(offset), sequenceSlot: nil) }
    }
}

/// Tests that repeat with other seeds do so this many times more when soaking.
var campaignScale: Int {
    guard let text = getenv("FARSHORE_CAMPAIGN_SCALE"), let scale = Int(String(cString: text)), scale > 0 else { return 1 }
    return scale
}
