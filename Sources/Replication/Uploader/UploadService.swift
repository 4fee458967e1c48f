// The uploader of a site: one thread, its lane, for each target of each protected disk, started when that appears in the
// catalogue, and one for the retention of each vault. Whoever makes one holds the site's upload lock, so a site has one uploader; other hosts are fenced by the vault's writer epochs.

import BlockIO
package import Logging
import Site
import Synchronization

package final class UploadService: Sendable {
    private static let pollMilliseconds = 1000

    private let catalogue: Catalogue
    private let replicator: Replicator
    private let stop: StopFlag
    private let log: Logger
    /// Lanes whose thread has ended because the disk is no longer replicated there from here.
    private let endedLanes = Mutex<Set<LaneKey>>([])
    private let pressure: LogPressure
    private let delays: DelayWatch
    private let registrations = DiskRegistrations()

    package init(replicator: Replicator, log: Logger) {
        self.replicator = replicator
        self.log = log
        catalogue = replicator.catalogue
        stop = replicator.stop
        pressure = LogPressure(replicator, log: log)
        delays = DelayWatch(replicator, log: log)
    }

    /// Uploads until `stop`; returns when all threads have ended.
    package func run() throws {
        try delays.begin()
        var threads: [LaneKey: OwnThread] = [:]
        var retaining: [ObjectIdentifier: [OwnThread]] = [:]
        defer {
            for thread in threads.values { thread.join() }
            for thread in retaining.values.joined() { thread.join() }
        }
        var deadMount: Int32?
        while !stop.isStopping {
            for lane in endedLanes.withLock({ lanes in defer { lanes = [] }; return lanes }) {
                threads.removeValue(forKey: lane)?.join()
            }
            do {
                let disks = try catalogue.disksAtTargets()
                for disk in disks where disk.isReplicated && threads[LaneKey(disk)] == nil {
                    threads[LaneKey(disk)] = try start(LaneKey(disk))
                }
                register(try catalogue.disks())
                for connection in replicator.connections.open where retaining[ObjectIdentifier(connection)] == nil {
                    retaining[ObjectIdentifier(connection)] = try retain(connection)
                }
                pressure.look(at: disks)
                delays.look(at: disks)
            } catch {
                // Ended here, it would wait for the disks' threads for ever and start no more; the next turn may work.
                log.error("the protected disks cannot be looked up: \(error)")
            }
            deadMount = noted(deadMount)
            stop.sleep(milliseconds: Self.pollMilliseconds)
        }
    }

    /// Each disk once, with its first target: by one of several it would be written again at every turn.
    private func register(_ disks: [ProtectedDisk]) {
        for (disk, error) in registrations.note(disks) { log.warning("\(disk): its log's folder cannot keep what the catalogue says of it: \(error)") }
    }

    /// A mount that was killed says nothing itself. Told once; that it is mounted again is no news of the uploader's.
    private func noted(_ before: Int32?) -> Int32? {
        do {
            guard let died = try catalogue.site.deadMount() else { return nil }
            if died != before {
                try catalogue.record(.critical, disk: nil, "the mount (process \(died)) ended without closing its disks: who uses them gets I/O errors; farshore mount DIR serves them again")
            }
            return died
        } catch {
            log.error("whether the mount lives cannot be told: \(error)")
            return before
        }
    }

    private func start(_ lane: LaneKey) throws(SystemError) -> OwnThread {
        let uploader = DiskUploader(name: lane.disk, vault: lane.vault, replicator: replicator, log: log, delays: delays) { [pressure] in pressure.fill(of: lane) }
        return try OwnThread(name: "upload") { [self] in
            uploader.run()
            endedLanes.withLock { _ = $0.insert(lane) }
        }
    }

    /// Thinning out, and cleaning beside it: copies wait for the policy's bandwidth, points must not.
    private func retain(_ connection: VaultConnection) throws(SystemError) -> [OwnThread] {
        let retention = GroupRetention(connection, catalogue, log: log)
        let work: [(name: String, turn: @Sendable () -> Void)] = [("retention", { retention.round() }), ("cleaning", { retention.clean() })]
        return try work.map { name, turn throws(SystemError) in
            try OwnThread(name: name) { [stop] in
                while !stop.isStopping {
                    turn()
                    stop.sleep(milliseconds: Self.pollMilliseconds)
                }
            }
        }
    }

    /// One attempt for every disk and target, one after another; what failed. For `upload --once`.
    package func runOnce() throws -> [(disk: String, vault: String, failure: AttemptFailure)] {
        var failures: [(disk: String, vault: String, failure: AttemptFailure)] = []
        // Kept to the end, for the disks of a group have one writer epoch.
        var replications: [DiskReplication] = []
        defer { withExtendedLifetime(replications) {} }
        let disks = try catalogue.disksAtTargets().filter { $0.isReplicated && !$0.isPaused }
        // First where another host had the disk: may this one publish again, the other targets go on too.
        for disk in disks.filter({ $0.takenOver != nil }) + disks.filter({ $0.takenOver == nil }) {
            if stop.isStopping { throw Stopped() }
            let uploader = DiskUploader(name: disk.name, vault: disk.vaultID, replicator: replicator, log: log)
            let replication = DiskReplication(replicator) { .none }
            replications.append(replication)
            if let failure = try uploader.runOnce(disk, replication) { failures.append((disk.name, disk.vaultURL, failure)) }
        }
        register(try catalogue.disks())
        for connection in replicator.connections.open { GroupRetention(connection, catalogue, log: log).round() }
        return failures
    }
}
