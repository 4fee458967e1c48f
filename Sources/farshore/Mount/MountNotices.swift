// What a mount's supervisor has to say beside its log: events of the site, and two small files in its run folder:
//   mount.upgrade   the outcome of the last upgrade, for the command that asked for it
//   mount.waiting   there while the worker stands still because its storage does
// The supervisor must not wait for storage, so each notice is stored by a thread of its own.

import BlockIO
import FuseExport
import Glibc
import Site

struct MountNotices: Sendable {
    let site: SiteDirectory
    let log: @Sendable (String) -> Void

    @Sendable func tell(_ notice: SupervisorNotice) {
        do throws(SystemError) {
            _ = try OwnThread(name: "notice") { store(notice) }
        } catch {
            log("a notice is not stored: \(error)")
        }
    }

    private func store(_ notice: SupervisorNotice) {
        do {
            switch notice {
            case .hung(let text): try record(.warning, text)
            case .waits(let text):
                try DurableFile.replace(site.mountWaitingPath, with: Array((text + "\n").utf8))
                try record(.warning, text)
            case .movesAgain:
                try DurableFile.remove(site.mountWaitingPath)
                try record(.information, "the worker of the mount moves again")
            case .upgraded(let outcome):
                try Self.store(outcome, site)
                if let failure = outcome.failure {
                    try record(.warning, "the mount was not upgraded, version \(outcome.oldVersion) serves on: \(failure)")
                } else {
                    try record(.information, "the mount was upgraded from version \(outcome.oldVersion) to \(outcome.newVersion) in \(outcome.pauseMilliseconds) ms")
                }
            }
        } catch {
            log("a notice is not stored: \(error)")
        }
    }

    private func record(_ severity: SiteEvent.Severity, _ text: String) throws {
        try Catalogue(site: site).record(severity, disk: nil, text)
    }

    /// For `status`.
    static func warnings(_ site: SiteDirectory) throws -> [StatusCommand.Warning] {
        guard try SiteLock.isTaken(site.mountLockPath), let bytes = try DurableFile.read(site.mountWaitingPath, limitBytes: 4096) else { return [] }
        let text = String(decoding: bytes, as: UTF8.self).split(separator: "\n").joined(separator: " ")
        return [StatusCommand.Warning(text: text, remedy: "mend the storage of the log or the image; guests wait")]
    }

    // MARK: The outcome of an upgrade

    private static func store(_ outcome: UpgradeOutcome, _ site: SiteDirectory) throws(SystemError) {
        let number = ((try read(site))?.number ?? 0) &+ 1
        let failure = outcome.failure.map { $0.split(separator: "\n").joined(separator: "; ") } ?? ""
        let lines = ["farshore upgrade 1", "\(number)", outcome.oldVersion, outcome.newVersion, "\(outcome.pauseMilliseconds)", failure]
        try DurableFile.replace(site.upgradePath, with: Array(lines.map { $0 + "\n" }.joined().utf8))
    }

    /// The last outcome and its number; nil when there was none.
    static func read(_ site: SiteDirectory) throws(SystemError) -> (number: UInt64, outcome: UpgradeOutcome)? {
        guard let bytes = try DurableFile.read(site.upgradePath, limitBytes: 64 << 10) else { return nil }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard lines.count == 7, lines[0] == "farshore upgrade 1", let number = UInt64(lines[1]), let pause = Int(lines[4]) else { return nil }
        return (number, UpgradeOutcome(oldVersion: lines[2], newVersion: lines[3], pauseMilliseconds: pause, failure: lines[5].isEmpty ? nil : lines[5]))
    }
}
