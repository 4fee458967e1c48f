// The uploader that runs on this site, by its pid file and the lock it holds: for `upload --stop`.

import BlockIO
import Glibc
import Site

struct RunningUploader {
    private static let pidSecondsMax: UInt64 = 5
    private static let noticeSeconds: UInt64 = 10

    let pid: Int32
    private let lockPath: String

    /// Throws `notFound` when none runs. The lock says that one runs, the file which: a file that a killed uploader left is
    /// not believed, for another program may have its number now.
    init(site: SiteDirectory) throws {
        lockPath = site.uploadLockPath
        let deadline = Clock.monotonicNanoseconds() + Self.pidSecondsMax * 1_000_000_000
        repeat {
            guard try SiteLock.isTaken(site.uploadLockPath) else {
                throw Failure(.notFound, "no uploader of this site (\(site.path)) is running", try: "farshore status")
            }
            let bytes = try DurableFile.read(site.uploadPIDPath, limitBytes: 64) ?? []
            if let pid = Int32(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber }), pid > 1, Self.hasOpen(site.uploadLockPath, pid) {
                self.pid = pid
                return
            }
            // It has the lock before it has written the file.
            usleep(50_000)
        } while Clock.monotonicNanoseconds() < deadline
        throw Failure(.failed, "the uploader of this site does not say which process it is (\(site.uploadPIDPath))", try: "fuser \(site.uploadLockPath)")
    }

    /// Asks it to end, and returns when it has.
    func stop() throws {
        guard kill(pid, SIGTERM) == 0 || errno == ESRCH else {
            throw SystemError(errno: errno, operation: "ask process \(pid) to end", path: "uploader")
        }
        let started = Clock.monotonicNanoseconds()
        var notices: UInt64 = 0
        while Self.hasOpen(lockPath, pid) {
            usleep(20_000)
            let seconds = (Clock.monotonicNanoseconds() - started) / 1_000_000_000
            guard seconds >= (notices + 1) * Self.noticeSeconds else { continue }
            notices += 1
            printError("farshore: process \(pid) is still finishing what it has begun after \(seconds) s")
        }
    }

    /// Whether the process has the file open; false when it is gone.
    private static func hasOpen(_ path: String, _ pid: Int32) -> Bool {
        let folder = "/proc/\(pid)/fd"
        guard let real = realpath(path, nil) else { return false }
        defer { free(real) }
        guard let names = try? Directory.list(folder) else { return false }
        let wanted = String(cString: real)
        return names.contains { name in
            var target = [UInt8](repeating: 0, count: Int(PATH_MAX))
            let count = target.withUnsafeMutableBytes { readlink(folder + "/" + name, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
            return count > 0 && String(decoding: target[..<count], as: UTF8.self) == wanted
        }
    }
}
