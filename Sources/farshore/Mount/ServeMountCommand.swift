// The hidden worker command of `farshore mount`: opens the site's disks, serves them on the descriptors it inherits,
// answers the control socket and cuts points. It may die at any moment; its successor goes on with the same slots.

import ArgumentParser
import BlockIO
import DiskImage
import FuseExport
import Glibc
import Logging
import Replication
import Site
import VirtualDisk

struct ServeMountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve-mount", abstract: "The worker of `mount`; started by it, never by hand.", shouldDisplay: false)

    @Argument var directory: String
    @Flag(name: .long) var allowOther = false
    @Option(name: .long, parsing: .remaining) var held: [String] = []
    @OptionGroup var site: SiteOptions

    func run() throws {
        guard let locks = InheritedLocks(held), locks.descriptors[MountCommand.siteLockName] != nil else {
            throw Failure(.usage, "serve-mount is started by `farshore mount`, not by hand", try: "farshore mount DIR")
        }
        let process = try WorkerProcess(locks: locks) { serviceLog($0) }
        do {
            try serve(process, locks)
        } catch {
            let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            process.refuse(WorkerRefusal(status: failure.status.rawValue, message: failure.message, remedy: failure.remedy))
            throw failure
        }
    }

    private func serve(_ process: WorkerProcess, _ locks: InheritedLocks) throws {
        let catalogue = try site.catalogue()
        let disks = try MountedDisks(process: process, catalogue: catalogue, directory: directory, honoursImageOwner: allowOther)
        let all = try catalogue.disks().filter { $0.held == nil }
        let openings = DiskOpenings(all, disks, locks)
        // A successor has requests of guests in hand: each disk is served as soon as it is open, and one that does not open
        // any more must not take the others along.
        let isSuccessor = process.slots.traffic().requests > 0
        if isSuccessor {
            openings.announceAll()
            try process.start(disks.tree)
        }
        let failures = try openings.openAll()
        for (disk, failure) in failures { serviceLog("\(disk) is not served: \(failure.message). Try: \(failure.remedy)") }
        let served = disks.all().map(\.disk.name)
        if !isSuccessor {
            for (disk, failure) in failures { try catalogue.record(.critical, disk: disk, "the mount does not serve it: \(failure.message)") }
            if served.isEmpty, let failure = Self.noneOpens(failures) { throw failure }
            // What kept them from being served may have kept them from being replicated.
            do { for disk in served { try catalogue.requestAttempt(ofDisk: disk) } } catch { serviceLog("the uploader is not asked to try again: \(error)") }
        }
        serviceLog(served.isEmpty ? "no disk is open" : "open: \(served.joined(separator: ", "))")
        try runServices(process, disks, catalogue, isSuccessor: isSuccessor, failures)
    }

    /// Why there is no mount: what each disk says, and the first one's status. Nil where no disk was refused.
    private static func noneOpens(_ failures: [(disk: String, failure: Failure)]) -> Failure? {
        guard let first = failures.first?.failure, failures.count > 1 else { return failures.first?.failure }
        return Failure(
            first.status, failures.map { "\($0.disk) is not served: \($0.failure.message)" }.joined(separator: "\n"),
            try: failures.map { "for \($0.disk): \($0.failure.remedy)" }.joined(separator: "\nTry: "))
    }

    /// All that is not the data path. Guests are served already.
    private func runServices(
        _ process: WorkerProcess, _ disks: MountedDisks, _ catalogue: Catalogue, isSuccessor: Bool, _ failures: [(disk: String, failure: Failure)]
    ) throws {
        let control = try ControlServer(path: site.directory.controlSocketPath) { disks.answer($0) }
        let points = try PointInterval(disks: disks)
        let watch = try DiskWatch(disks: disks, catalogue: catalogue)
        // Whoever sees the disks may ask for them.
        if !isSuccessor { try process.start(disks.tree) }
        process.ready()
        disks.appPoints.thawLeftOvers()
        if isSuccessor {
            for (disk, failure) in failures { Self.note(catalogue, .critical, disk, "the mount does not serve it: \(failure.message)") }
            Self.note(catalogue, .warning, nil, "the worker of the mount was replaced; no request was lost")
        }
        process.whenOrphaned { Self.note(catalogue, .warning, nil, lostSupervisorText) }
        let (stop, contacts) = (StopFlag(), HostContacts(catalogue, ContactSettings(), Logger(label: "farshore.contact") { StreamLogHandler.standardError(label: $0) }))
        // Where guests write on recovery disks and no uploader runs, the mount is what keeps the contact. Not waited for at the end.
        let contact = try OwnThread(name: "contact") { contacts.run(stop) { Self.keepsContact(catalogue) } }
        let end = process.wait(directory: directory)
        stop.stop()
        withExtendedLifetime(contact) {}
        watch.stop()
        control.stop()
        disks.appPoints.stop()
        points.stop()
        try disks.closeAll()
        if case .failed(let error) = end { throw error }
    }

    /// Asked each second: what cannot be looked up is asked again.
    private static func keepsContact(_ catalogue: Catalogue) -> Bool {
        guard let disks = try? catalogue.disks(), disks.contains(where: { $0.role == .recovery }) else { return false }
        return (try? SiteLock.isTaken(catalogue.site.uploadLockPath)) == false
    }

    /// An event that cannot be stored ends no mount.
    private static func note(_ catalogue: Catalogue, _ severity: SiteEvent.Severity, _ disk: String?, _ text: String) {
        do { try catalogue.record(severity, disk: disk, text) } catch { serviceLog("no event recorded: \(text): \(error)") }
    }
}
