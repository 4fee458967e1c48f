// One disk's content as it goes by: the map of what it holds, the watch over it, and what an alarm does. Used by the disk's
// thread, but for `learn`, which the threads of an initial replication call.

import BlockIO
import DiskImage
import Logging
import Site
import Synchronization
import Vault

final class ContentWatch: Sendable {
    /// What a kill may cost.
    static let storeNanoseconds: UInt64 = 600_000_000_000

    let disk: String
    let map: ContentMap
    let diskBytes: UInt64
    private let path: String
    private let storedAt = Mutex<UInt64?>(nil)

    /// What the uploader before saw; else what of the image holds nothing.
    init(_ disk: ProtectedDisk, _ site: SiteDirectory) throws {
        try Directory.create(site.contentFolder, mode: 0o700)
        // Each target's own: what it has of the disk is of another time.
        path = site.contentFolder + "/" + disk.id + (disk.isFirstTarget ? "" : "-" + disk.vaultID)
        diskBytes = disk.sizeBytes
        self.disk = disk.id
        if let known = try ContentMap.load(path, diskBytes: diskBytes) {
            map = known
        } else {
            map = ContentMap(diskBytes: diskBytes, kind: .unknown)
            let image = try disk.openImageForReading()
            var position: UInt64 = 0
            while position < diskBytes {
                let data = try image.nextData(from: position) ?? diskBytes
                map.clear(at: position, length: min(data, diskBytes) - position)
                // Where a stretch of data ends the image does not tell cheaply: it is looked for again a little further on.
                position = data + max(map.regionBytes, 1 << 20)
            }
        }
    }

    /// A hint: where it cannot be kept the next time tries again.
    func storeIfOld(_ now: UInt64) {
        guard storedAt.withLock({ $0.map { now - min(now, $0) >= Self.storeNanoseconds } ?? true }) else { return }
        storedAt.withLock { $0 = now }
        do throws(SystemError) { try store() } catch { storedAt.withLock { $0 = nil } }
    }

    func store() throws(SystemError) { try map.store(path, diskBytes: diskBytes) }
}

extension DiskReplication {
    /// What was published after sequence `before` is looked at. What cannot be pinned or noted fails no replication.
    func look(at change: ContentMap.Change, after before: UInt64, _ disk: ProtectedDisk, _ publisher: Publisher) throws {
        guard disk.policy.anomaly != .off, let content else { return }
        let (now, known) = (replicator.clock.now(), watch.standsUntil)
        switch watch.look(change, after: before, heldBytes: content.map.heldBytes, now: now) {
        case .raised(let converted, let written, let seconds, let clean):
            let pinned = disk.policy.anomaly == .pin ? pin(before: clean, disk, publisher) : "farshore point list \(disk.name)"
            try replicator.catalogue.set(
                StandingWarning(
                    kind: .anomaly,
                    text: "\(converted >> 20) MiB of data was overwritten within \(max(seconds, 1)) s by data that looks encrypted, "
                        + "\(converted * 100 / max(written, 1)) % of all that was written; the last state before is #\(clean) or older",
                    remedy: pinned),
                of: disk)
        case .over:
            if try replicator.catalogue.takeAway(.anomaly, of: disk) {
                try replicator.catalogue.record(.information, of: disk, "ordinary data is no longer overwritten by data that looks encrypted")
            }
        case nil: break
        }
        if let until = watch.standsUntil, until != known { try replicator.catalogue.note(.anomaly, standsUntil: Clock.wallNanoseconds() + (until - min(until, now)), of: disk) }
    }

    /// Raised by this uploader or one before. The machine's own clock may have begun anew since, and the wall clock may have been set: it stands no
    /// longer than if it had been raised now.
    func resumedWatch(of disk: ProtectedDisk) throws(SiteError) -> AnomalyWatch {
        guard let raised = try replicator.catalogue.warnings(ofDisk: disk.name, at: disk.vaultID).first(where: { $0.kind == .anomaly }) else { return AnomalyWatch() }
        let wall = Clock.wallNanoseconds()
        let left = raised.standsUntilNanoseconds.map { min($0 - min($0, wall), AnomalyWatch.windowNanoseconds) } ?? AnomalyWatch.windowNanoseconds
        return AnomalyWatch(standsUntil: replicator.clock.now() + left)
    }

    /// The newest point at or below `clean`; what to do next.
    private func pin(before clean: UInt64, _ disk: ProtectedDisk, _ publisher: Publisher) -> String {
        do {
            let vault = publisher.vault
            let entry = try vault.disk(disk.id)
            guard let point = try DiskHistory.newest(vault, entry)?.points().last(where: { $0.sequence <= clean }) else { return "there is no point from before in the vault" }
            let name = "anomaly-\(point.sequence)"
            do throws(VaultError) {
                _ = try vault.pin(entry, sequence: point.sequence, name: name, reason: "data was overwritten by data that looks encrypted", spanMicros: nil)
            } catch .alreadyExists {
                // By the alarm before.
            }
            return "point #\(point.sequence) is \(StandingWarning.pinned(name)) look at the guest; farshore point unpin \(disk.commandName) --name \(name) when it is of no use"
        } catch {
            return "the point before #\(clean) could not be pinned: \(error); farshore point pin \(disk.name)/POINT --name NAME"
        }
    }
}

extension DiskReplication {
    /// At the end of a run; what cannot be kept is a hint lost.
    func storeContent(_ log: Logger) {
        do throws(SystemError) { try content?.store() } catch { log.warning("what kind of data the disk holds could not be kept: \(error)") }
    }
}
