// The uploader of a site: one thread a protected disk, started when the disk appears in the catalogue. Whoever makes
// one holds the site's upload lock, so a site has one uploader; other hosts are fenced by the vault's writer epochs.

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
    /// Disks whose thread has ended because they are no longer protected here.
    private let endedNames = Mutex<Set<String>>([])
    /// By disk.
    private let pressures = Mutex<[String: LogFill]>([:])
    private let retention: GroupRetention
    private let delays: DelayWatch
    private let registrations = DiskRegistrations()

    package init(replicator: Replicator, log: Logger) {
        self.replicator = replicator
        self.log = log
        catalogue = replicator.catalogue
        stop = replicator.stop
        retention = GroupRetention(replicator, log: log)
        delays = DelayWatch(replicator, log: log)
    }

    /// Uploads until `stop`; returns when all threads have ended.
    package func run() throws {
        try delays.begin()
        var threads: [String: OwnThread] = [:]
        let retaining = try OwnThread(name: "retention") { [self] in
            while !stop.isStopping {
                retention.round()
                stop.sleep(milliseconds: Self.pollMilliseconds)
            }
        }
        defer {
            for thread in threads.values { thread.join() }
            retaining.join()
        }
        var deadMount: Int32?
        while !stop.isStopping {
            for name in endedNames.withLock({ names in defer { names = [] }; return names }) {
                threads.removeValue(forKey: name)?.join()
            }
            do {
                let disks = try catalogue.disks()
                for disk in disks where disk.isReplicated && threads[disk.name] == nil {
                    threads[disk.name] = try start(disk.name)
                }
                register(disks)
                delays.look(at: disks)
            } catch {
                // Ended here, it would wait for the disks' threads for ever and start no more; the next turn may work.
                log.error("the protected disks cannot be looked up: \(error)")
            }
            notePressure()
            deadMount = noted(deadMount)
            stop.sleep(milliseconds: Self.pollMilliseconds)
        }
    }

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

    /// Asks the mount; when there is none, nothing is written.
    private func notePressure() {
        var found: [String: LogFill] = [:]
        if case .status(let served, _, _)? = try? ControlClient(site: catalogue.site).ask(.status, timeoutSeconds: 5) {
            for disk in served { found[disk.disk] = LogFill(unreplicatedBytes: disk.unreplicatedBytes, budgetBytes: disk.logBudgetBytes) }
        }
        pressures.withLock { $0 = found }
    }

    private func start(_ name: String) throws(SystemError) -> OwnThread {
        let uploader = DiskUploader(name: name, replicator: replicator, log: log, delays: delays) { [self] in pressures.withLock { $0[name] ?? .none } }
        return try OwnThread(name: "upload") { [self] in
            uploader.run()
            endedNames.withLock { _ = $0.insert(name) }
        }
    }

    /// One attempt for every disk, one after another; what failed, by disk. For `upload --once`.
    package func runOnce() throws -> [(disk: String, failure: AttemptFailure)] {
        var failures: [(disk: String, failure: AttemptFailure)] = []
        // Kept to the end, for the disks of a group have one writer epoch.
        var replications: [DiskReplication] = []
        defer { withExtendedLifetime(replications) {} }
        let disks = try catalogue.disks()
        for disk in disks where disk.isReplicated && !disk.isPaused {
            if stop.isStopping { throw Stopped() }
            let uploader = DiskUploader(name: disk.name, replicator: replicator, log: log)
            let replication = DiskReplication(replicator)
            replications.append(replication)
            if let failure = try uploader.runOnce(disk, replication) { failures.append((disk.name, failure)) }
        }
        register(disks)
        retention.round()
        return failures
    }
}

/// How far a log is filled up with what the vault lacks.
package struct LogFill: Equatable, Sendable {
    package enum Pressure: Equatable, Sendable {
        case low
        /// Half: uploaded before the interval is over, or guests would get ENOSPC while nobody sends.
        case half
        /// Seven eighths: in time for a resynchronisation to spare guests the ENOSPC.
        case full
    }

    /// Less than this is sent as quickly as it is compared.
    package static let resyncBytesMin: UInt64 = 256 << 20

    let unreplicatedBytes: UInt64
    let budgetBytes: UInt64

    package init(unreplicatedBytes: UInt64, budgetBytes: UInt64) {
        self.unreplicatedBytes = unreplicatedBytes
        self.budgetBytes = budgetBytes
    }

    static let none = LogFill(unreplicatedBytes: 0, budgetBytes: .max)

    package var pressure: Pressure { unreplicatedBytes >= budgetBytes / 8 * 7 ? .full : unreplicatedBytes >= budgetBytes / 2 ? .half : .low }

    /// Comparing the disk costs less than sending all that was written; `percent` of the disk's size, 0: never.
    package func isBeyond(percent: Int, ofDiskBytes diskBytes: UInt64) -> Bool {
        percent > 0 && unreplicatedBytes >= max(diskBytes / 100 * UInt64(percent), Self.resyncBytesMin)
    }
}
