// The site: one directory of a host that holds its catalogue, locks, sockets and remembered vault heads. Every
// program of Farshore starts here; the layout is this file. Secrets are never kept in it, only the paths of key files.
//
//   catalogue.sqlite     protected disks, jobs, events, presence of vault chunks
//   sequence             the reserved block of sequence numbers (written by the change log's sequencer)
//   logs/DISK/           change logs of disks protected without --log-dir beside a block device
//   heads/               the newest head seen of each vault and group, against rollback
//   plans/               runs of recovery plans
//   frozen/              a note for each machine that may be at rest because of us
//   content/DISK         (for further targets DISK-VAULT) what kind of data the regions of a disk hold; a hint for the alarm on anomalies, may be removed
//   host-id              who this site is in vaults, 32 hex digits; made at first use
//   run/                 sockets, logs, the pid files of the services (that of a mount stays when it was killed), locks of commands of failovers
//   mount.lock           held by the one mount of the site; upload.lock by the one uploader

package import BlockIO
import Glibc
import Synchronization

package struct SiteDirectory: Sendable, Equatable {
    package let path: String

    package var cataloguePath: String { path + "/catalogue.sqlite" }
    package var sequencePath: String { path + "/sequence" }
    package var headsFolder: String { path + "/heads" }
    package var frozenFolder: String { path + "/frozen" }
    package var plansFolder: String { path + "/plans" }
    package var contentFolder: String { path + "/content" }
    package var runFolder: String { path + "/run" }
    package var controlSocketPath: String { runFolder + "/control.sock" }
    package var mountPIDPath: String { runFolder + "/mount.pid" }
    package var mountWaitingPath: String { runFolder + "/mount.waiting" }
    package var upgradePath: String { runFolder + "/mount.upgrade" }
    package var uploadPIDPath: String { runFolder + "/upload.pid" }
    package var mountLockPath: String { path + "/mount.lock" }
    package var uploadLockPath: String { path + "/upload.lock" }

    /// Held by the command that changes where the unit of that group stands.
    package func failoverLockPath(group: String) -> String { runFolder + "/failover-\(group).lock" }

    package init(path: String) {
        var trimmed = path
        while trimmed.count > 1, trimmed.hasSuffix("/") { trimmed.removeLast() }
        self.path = trimmed
    }

    /// Who this site is in heads and under `hosts/` of a vault: 32 lower-case hex digits, random, made at first use and never changed.
    /// A copy of the site is the same host.
    package func hostID() throws -> String {
        // The uploader opens several vaults at once, and the file beside is named by the process.
        try Self.makingHostID.withLock { _ in try findHostID() }
    }

    private static let makingHostID = Mutex<Void>(())

    private func findHostID() throws -> String {
        while true {
            if let known = try knownHostID() { return known }
            try makeHostID((0..<32).map { _ in String(UInt8.random(in: 0...15), radix: 16) }.joined())
        }
    }

    /// Nil where it was not made yet, or is lost.
    package func knownHostID() throws -> String? {
        guard let bytes = try DurableFile.read(hostIDPath, limitBytes: 64) else { return nil }
        let text = String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
        guard text.count == 32, text.allSatisfy({ $0.isHexDigit && !$0.isUppercase }) else {
            throw SiteError(.catalogueDamaged, "\(hostIDPath) holds no host id", remedy: "restore it from a backup; without it the vault takes this site for another host")
        }
        return text
    }

    /// Of a site that has none. Made beside and linked: of two processes that begin at once, both use the first one's.
    package func makeHostID(_ digits: String) throws {
        let path = hostIDPath
        let made = path + ".\(getpid()).made"
        try DurableFile.replace(made, with: Array((digits + "\n").utf8))
        defer { unlink(made) }
        guard link(made, path) == 0 || errno == EEXIST else { throw SystemError(errno: errno, operation: "make", path: path) }
        try Directory.sync(self.path)
    }

    private var hostIDPath: String { path + "/host-id" }

    /// The process of a mount that ended without closing its disks (killed, or the host went down), while no other serves them; nil where
    /// none did. What it had acknowledged is in the logs.
    package func deadMount() throws(SystemError) -> Int32? {
        guard let bytes = try DurableFile.read(mountPIDPath, limitBytes: 64), try !SiteLock.isTaken(mountLockPath) else { return nil }
        // Read again: one that was ending in order has removed it by now.
        guard try DurableFile.read(mountPIDPath, limitBytes: 64) == bytes else { return nil }
        return Int32(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber })
    }

    /// Makes the directories that are missing. Only this host's owner may look inside.
    package func create() throws(SystemError) {
        try Directory.create(path, mode: 0o700)
        try Directory.create(headsFolder, mode: 0o700)
        try Directory.create(runFolder, mode: 0o700)
    }
}

/// An exclusive lock of the site, held as long as this object lives, or until the process ends however it ends.
package final class SiteLock: Sendable {
    package let file: Descriptor

    private init(file: consuming Descriptor) { self.file = file }

    /// Takes the lock, or returns nil when another process holds it.
    package static func tryTake(_ path: String) throws(SystemError) -> SiteLock? {
        let file = try Descriptor.open(path, O_RDWR | O_CREAT)
        guard try file.tryLock(.exclusive) else { return nil }
        return SiteLock(file: file)
    }

    /// Whether some process holds the lock now.
    package static func isTaken(_ path: String) throws(SystemError) -> Bool {
        let file: Descriptor
        do throws(SystemError) {
            file = try Descriptor.open(path, O_RDWR)
        } catch where error.errno == ENOENT {
            return false
        }
        return try file.isLockedElsewhere(.exclusive, at: 0, length: 0)
    }
}
