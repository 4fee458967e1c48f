// A file system of a throw-away copy, mounted so that nothing on it can act: no devices, no programs, no set-user-id. ext4 and XFS replay their
// journal, as after a power loss, so that all is there that was durable; where they cannot, they are mounted as they are. NTFS is
// mounted read-only by ntfs-3g.

import BlockIO
import Failover
import FuseExport
import Glibc

final class MountedVolume {
    private static let mountSeconds = 60.0
    private static let options = "nodev,nosuid,noexec,noatime"

    let volume: DiskContent.Volume
    /// For programs on the bench.
    let directory: String
    private let export: PrivateExport
    /// Why the journal was not replayed; nil: it was, or the file system is mounted read-only always.
    let remark: String?
    /// Serves an NTFS.
    private let server: BoundedProgram?

    init(_ path: String, _ volume: DiskContent.Volume, at directory: String, on export: PrivateExport) throws {
        self.volume = volume
        self.directory = directory
        self.export = export
        func mount(_ type: String, _ options: String) throws -> BoundedProgram.Result {
            try BoundedProgram.run(["mount", "-t", type, "-o", "loop,\(Self.options),\(options)", path, directory], seconds: Self.mountSeconds, on: export)
        }
        switch volume.fileSystem {
        case nil: throw BenchError.noFileSystem("the partition \(volume.number) has no file system of a known kind")
        case .ntfs:
            (server, remark) = (try Self.serveNTFS(path, directory, export), nil)
        case .ext4, .xfs:
            server = nil
            let isXFS = volume.fileSystem == .xfs
            let first = try mount(isXFS ? "xfs" : "ext4", isXFS ? "rw,nouuid" : "rw")
            if first.isSuccess {
                remark = nil
                return
            }
            let second = try mount(isXFS ? "xfs" : "ext4", isXFS ? "ro,norecovery,nouuid" : "ro,noload")
            guard second.isSuccess else { throw BenchError.cannotMount("it cannot be mounted: \(first.summary)") }
            remark = "its journal cannot be replayed: \(first.summary)"
        }
    }

    private static func serveNTFS(_ path: String, _ directory: String, _ export: PrivateExport) throws -> BoundedProgram {
        let server = try BoundedProgram(["ntfs-3g", "-o", "ro,no_detach,\(options)", path, directory], on: export, package: "ntfs-3g")
        let deadline = Clock.monotonicNanoseconds() + UInt64(mountSeconds * 1e9)
        while try !isMounted(export.reached(directory)) {
            guard server.ending == nil, Clock.monotonicNanoseconds() < deadline else {
                server.stop()
                throw BenchError.cannotMount("it cannot be mounted: \(try server.result(within: 0).summary)")
            }
            usleep(2_000)
        }
        return server
    }

    private static func isMounted(_ directory: String) throws -> Bool {
        func device(of path: String) throws -> UInt64 {
            var status = stat()
            guard lstat(path, &status) == 0 else { throw SystemError(errno: errno, operation: "stat", path: path) }
            return UInt64(status.st_dev)
        }
        return try device(of: directory) != device(of: directory + "/..")
    }

    func unmount() throws {
        // Whoever was just killed may hold it for a moment.
        for tries in 1... {
            let done = try unmounted([])
            // One that was out of time may have been done nevertheless.
            if try done.isSuccess || !Self.isMounted(export.reached(directory)) { break }
            guard tries < 100 else { throw Failure(.failed, "\(directory) cannot be unmounted: \(done.summary)", try: "the command again") }
            usleep(20_000)
        }
        if let server { _ = try server.result(within: Self.mountSeconds) }
    }

    /// Where it must go whatever uses it; one that is gone is no error.
    func detach() {
        do {
            let done = try unmounted(["--lazy"])
            if !done.isSuccess { serviceLog("\(directory): \(done.summary)") }
        } catch { serviceLog("\(directory): \(error)") }
        server?.stop()
    }

    private func unmounted(_ options: [String]) throws -> BoundedProgram.Result {
        try BoundedProgram.run(["umount", "--internal-only"] + options + [directory], seconds: Self.mountSeconds, on: export)
    }

    /// Opens `path` of this file system as a program on it would, links included, but never anything outside.
    func open(_ path: String) throws -> FoundFile? { try FoundFile.find(path, below: export.reached(directory)) }
}

enum BenchError: Error, CustomStringConvertible {
    /// There is nothing that could be looked at, which says nothing of its state.
    case noFileSystem(String)
    /// What is there is not sound.
    case cannotMount(String)

    var description: String {
        switch self {
        case .noFileSystem(let text), .cannotMount(let text): text
        }
    }
}
