// `farshore upload`: the uploader service of this site, in the background, in the foreground, or for one attempt.

import ArgumentParser
import BlockIO
import CLinux
import Foundation
import Glibc
import Logging
import ObjectStore
import Replication
import Site
import Vault

struct UploadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upload",
        abstract: "Replicate every protected disk to its vaults.",
        discussion: """
            Without options the service starts in the background and goes on until SIGTERM, after which it finishes what it has
            begun within 30 seconds. --once replicates all that is there, initial replication included, and exits 0 only when all
            of it is verified in the vault; else with the status of what is wrong. Failures that may pass are retried after 1, 2,
            4, 8, 10 and then every 30 minutes; others wait for `farshore resume DISK`. --stop ends the uploader of this site,
            whoever started it, and returns when it is gone.

            Example:
              farshore upload --once
            """)

    @OptionGroup var service: ServiceOptions

    @Flag(name: .long, help: "Make one attempt for every disk, then exit.")
    var once = false

    @Flag(name: .long, help: "Stop the uploader that is running; returns when it has ended.")
    var stop = false

    @Option(name: .long, help: ArgumentHelp("How often this host tells the other hosts of its vaults that it is there (1s to 1h).", valueName: "span"), transform: contactSpan)
    var contactEvery = ContactSettings.everySecondsDefault

    @Option(name: .long, help: ArgumentHelp("Without contact for so long another host is silent, which is an event; 0: never.", valueName: "span"), transform: contactSpan)
    var silentAfter = ContactSettings.silentSecondsDefault

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct DiskDocument: Encodable {
        let disk: String
        let vault: String
        /// Everything up to here is verified in the vault; absent when nothing is.
        let replicatedSequence: UInt64?
        let paused: Bool
        let error: String?
    }

    struct Stopping: Encodable {
        let site: String
        let stopped: Int32
    }

    struct Started: Encodable {
        let site: String
        let log: String
    }

    func validate() throws {
        guard !(service.foreground && once) else { throw ValidationError("--once is in the foreground by itself") }
        guard (1...3_600).contains(contactEvery) else { throw ValidationError("--contact-every is 1s to 1h") }
        guard !stop || !(service.foreground || once) else { throw ValidationError("--stop goes with neither --once nor --foreground") }
    }

    func run() throws {
        if stop { return try stopRunning() }
        if !service.foreground, !once {
            if try SiteLock.isTaken(site.directory.uploadLockPath) { throw Self.alreadyRuns() }
            try BackgroundService.detach()
            let started = Started(site: site.directory.path, log: site.directory.runFolder + "/upload.log")
            return try output.print(started) { "uploader started; it logs to \($0.log)" }
        }
        let catalogue = try site.catalogue()
        guard let lock = try SiteLock.tryTake(site.directory.uploadLockPath) else { throw Self.alreadyRuns() }
        // Detached, it was started by way of /proc/self/exe and would show as "exe".
        if BackgroundService.isDetached { farshore_name_this_thread("farshore") }
        // Each object has a thread of its own and is held in memory as a whole, several times.
        farshore_set_arenas_max(2)
        let stop = StopFlag()
        try onTermination { stop.stop() }
        let bars = UploadProgress()
        let uploader = makeService(catalogue, stop, bars)
        try withExtendedLifetime(lock) {
            try DurableFile.replace(site.directory.uploadPIDPath, with: Array("\(getpid())\n".utf8))
            defer { unlink(site.directory.uploadPIDPath) }
            if once { try runOnce(uploader, catalogue, bars) } else { try serve(uploader, contacts(catalogue), stop) }
        }
    }

    private func stopRunning() throws {
        let running = try RunningUploader(site: site.directory)
        try running.stop()
        try output.print(Stopping(site: site.directory.path, stopped: running.pid)) { "uploader stopped (process \($0.stopped))" }
    }

    private func makeService(_ catalogue: Catalogue, _ stop: StopFlag, _ bars: UploadProgress) -> UploadService {
        let owners = LogOwners(site: site.directory)
        let showsProgress = once
        let replicator = Replicator(
            catalogue: catalogue, host: ProcessInfo.processInfo.hostName, stop: stop, openVault: { [site] disk in try site.openVault(of: disk) },
            owner: { disk in try owners.owner(of: disk) },
            progress: { disk, done, total in if showsProgress { bars.update(disk: disk, doneBytes: done, totalBytes: total) } })
        return UploadService(replicator: replicator, log: Logger(label: "farshore.upload") { StreamLogHandler.standardError(label: $0) })
    }

    private func contacts(_ catalogue: Catalogue) -> HostContacts {
        var settings = ContactSettings()
        (settings.everySeconds, settings.silentSeconds) = (contactEvery, silentAfter)
        return HostContacts(catalogue, settings, Logger(label: "farshore.contact") { StreamLogHandler.standardError(label: $0) })
    }

    private func serve(_ uploader: UploadService, _ contacts: HostContacts, _ stop: StopFlag) throws {
        if BackgroundService.isDetached {
            let file = try BackgroundService.openLog(site.directory.runFolder + "/upload.log")
            BackgroundService.announceReady(log: file.raw)
        } else {
            BackgroundService.announceReady(log: STDERR_FILENO)
        }
        serviceLog("uploader of \(site.directory.path) is ready")
        // Not waited for at the end: a target that hangs then holds nothing up.
        let contact = try OwnThread(name: "contact") { contacts.run(stop) }
        defer { withExtendedLifetime(contact) {} }
        try uploader.run()
        BackgroundService.notifySystemd("STOPPING=1")
        serviceLog("uploader ended")
    }

    private func runOnce(_ uploader: UploadService, _ catalogue: Catalogue, _ bars: UploadProgress) throws {
        let failures: [(disk: String, vault: String, failure: AttemptFailure)]
        do {
            failures = try uploader.runOnce()
        } catch is Stopped {
            throw Failure(.failed, "stopped before all was replicated", try: "farshore upload --once")
        }
        bars.finish()
        let disks = try catalogue.disksAtTargets()
        // Also when its unprotect began during this call.
        let releasing = disks.filter { $0.state == .releasing }
        let documents = try disks.filter { $0.role == .source }.map { disk in
            DiskDocument(
                disk: disk.name, vault: disk.vaultURL, replicatedSequence: try catalogue.replication(ofDisk: disk.name, at: disk.vaultID).provenSequence, paused: disk.isPaused,
                error: disk.state == .releasing ? disk.releasingFailure.message : failures.first { $0.disk == disk.name && $0.vault == disk.vaultURL }?.failure.message)
        }
        try output.print(documents) { documents in
            documents.isEmpty ? "no disk is protected on this site" : documents.map { document in Self.line(document, isOne: !documents.contains { $0.disk == document.disk && $0.vault != document.vault }) }.joined(separator: "\n")
        }
        if let first = failures.first {
            let status = Failure.explaining(first.failure.cause)?.status ?? .failed
            throw Failure(status, "\(first.disk): \(first.failure.message)", try: first.failure.remedy)
        }
        if let left = releasing.first { throw left.releasingFailure }
        if let paused = documents.first(where: { $0.paused }) {
            throw Failure(.failed, "\(paused.disk) is paused and was not replicated", try: "farshore resume \(paused.disk)")
        }
    }

    private static func line(_ document: DiskDocument, isOne: Bool) -> String {
        let name = document.disk + (isOne ? "" : " to \(document.vault)")
        if let error = document.error { return "\(name): failed: \(error)" }
        if document.paused { return "\(name): paused" }
        return "\(name): verified in the vault up to #\(document.replicatedSequence ?? 0)"
    }

    private static func alreadyRuns() -> Failure {
        Failure(.inUse, "another uploader of this site is running", try: "let it do the work (farshore status), or stop it: farshore upload --stop")
    }
}

/// `5m`, in seconds.
@Sendable func contactSpan(_ text: String) throws -> Int {
    if text == "0" { return 0 }
    guard let seconds = Quantity.seconds(text[...]), seconds <= 86_400 else { throw ValidationError("\(text.debugDescription) is no span of at most a day: use 30s, 5m, 1h") }
    return Int(seconds)
}

extension HostContacts {
    /// Of this site, with the name the system has.
    convenience init(_ catalogue: Catalogue, _ settings: ContactSettings, _ log: Logger) {
        self.init(catalogue: catalogue, name: ProcessInfo.processInfo.hostName, version: Farshore.release, settings: settings, log: log) { [site = catalogue.site] in
            try openVault(at: $0, site: site)
        }
    }
}

extension SiteOptions {
    func openVault(of disk: ProtectedDisk) throws -> Vault { try farshore.openVault(of: disk, site: directory) }
}

/// The vault of a protected disk, with the key files it was protected with.
func openVault(of disk: ProtectedDisk, site: SiteDirectory) throws -> Vault {
    try openVault(url: disk.vaultURL, files: KeyFiles(keyFile: disk.keyFile, passphraseFile: disk.passphraseFile), site: site)
}

func openVault(url: String, files: KeyFiles, site: SiteDirectory) throws -> Vault {
    // Here a site is at hand: without its memory a target that was rolled back would not be noticed.
    try site.create()
    return try Vault.open(store: openStore(url: url), key: try files.read(), memory: HeadMemory(folder: site.headsFolder), keyFiles: files)
}
