// An empty protected disk in memory, made anew for each input: an input must not see what another one left.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import VirtualDisk

struct LogPlace {
    static let segmentBytes = 128 << 10
    static let diskBytes: UInt64 = 128 << 10
    static let diskID = LogID(high: 0x0102_0304_0506_0708, low: 0x090A_0B0C_0D0E_0F10)
    static let boot = "00000000-0000-0000-0000-000000000001"

    private let root: String
    let folder: LogFolder

    init() throws {
        var template = Array("/dev/shm/farshore-fuzz-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError(errno: errno, operation: "make a folder", path: "/dev/shm") }
        root = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        folder = LogFolder(root + "/disk.log")
        try ChangeLog.create(
            folder, diskID: Self.diskID, diskBytes: Self.diskBytes, targets: ["target"], segmentBytes: Self.segmentBytes,
            budgetBytes: 16 * UInt64(Self.segmentBytes))
        try Descriptor.open(image, O_RDWR | O_CREAT).truncate(to: Self.diskBytes)
        // As an owner leaves it that was killed: an opening of this boot keeps all, one of another boot cuts.
        var state = try folder.readState()
        state.bootID = Self.boot
        try DurableFile.replace(folder.stateFile, with: Array(state.encoded().utf8))
    }

    var image: String { root + "/disk.raw" }
    var sequences: String { root + "/sequences" }
    func segment(_ number: Int) -> String { folder.path + "/segment-00000\(number)" }

    func open(boot: String) throws -> VirtualDisk {
        try VirtualDisk.open(
            name: "disk", image: try openImage(image, access: .readWrite, format: .raw), folder: folder, lock: try OwnerLock.acquire(folder),
            sequencer: try Sequencer(path: sequences), options: ChangeLog.Options(bootID: boot))
    }

    func remove() {
        for folder in [folder.path, root] {
            for name in (try? Directory.list(folder)) ?? [] { unlink(folder + "/" + name) }
            rmdir(folder)
        }
    }
}

/// An open file in memory that nobody else sees; opened again by its place in /proc.
func memoryFile() throws(SystemError) -> Descriptor {
    let path = "/dev/shm/farshore-fuzz-file-\(getpid())"
    let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
    unlink(path)
    return file
}
