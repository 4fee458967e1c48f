// `farshore protect`: checks what must hold, then registers the disk in the vault and on this site.

import ArgumentParser
import ChangeLog
import DiskImage
import Foundation
import Site
import Vault

struct ProtectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "protect",
        abstract: "Protect an image: from now on it is served by `mount` and replicated by `upload`.",
        discussion: """
            Checks first that the image opens and nobody else uses it, that there is room for the log, that the vault can be
            reached, opened and written, and that the clock is right; changes nothing when a check fails. The image is then used
            through the mount only, until `farshore unprotect`.

            Example:
              farshore protect /vm/db1.vhd --name db1 --vault file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    @Argument(help: "The image file or block device.")
    var image: String

    @Option(name: .long, help: "The disk's name: 1 to 64 of letters, digits, . _ -")
    var name: String

    @Option(name: .long, help: "Take the image for this format instead of looking: raw, vhd-fixed, vhd-dynamic, vhd-differencing, vhdx, qcow2.")
    var from: ImageFormat?

    @OptionGroup var chain: ChainOptions
    @OptionGroup var vault: VaultOptions

    @Option(name: .long, help: "The machine it is a disk of; made when new. The disks of a machine share recovery points (default: a machine of the disk's name).")
    var machine: String?

    @Option(name: .long, help: "The replication group to put the machine into; made when new. Its machines share recovery points.")
    var group: String?

    @Option(name: .long, help: ArgumentHelp("Where the change log goes (default: IMAGE.log beside the image).", valueName: "dir"))
    var logDir: String?

    @Option(name: .long, help: "The replication policy: interval, retention, limits (see farshore policy list).")
    var policy = Policy.defaultName

    @Option(name: .long, help: ArgumentHelp("How large the log may grow; writes are refused beyond (default: half of the disk, from 2 GiB to 64 GiB).", valueName: "size"), transform: byteCount)
    var logBudget: UInt64?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let machine: String
        let group: String?
        let id: String
        let image: String
        let format: String
        let sizeBytes: UInt64
        let logFolder: String
        let logBudgetBytes: UInt64
        let policy: String
        let intervalSeconds: Int
        let vault: String
        let job: Int64
        let warnings: [String]
        /// What has to be done for the disk to be served.
        let next: String
    }

    func validate() throws {
        guard Catalog.isValidName(name) else { throw ValidationError("\(name.debugDescription) cannot name a disk: use 1 to 64 of letters, digits, . _ -, not starting with . or -") }
        for name in [machine, group].compactMap({ $0 }) where !Catalog.isValidName(name) {
            throw ValidationError("\(name.debugDescription) cannot name a machine or group: use 1 to 64 of letters, digits, . _ -, not starting with . or -")
        }
        if let logBudget, logBudget < ProtectionChecks.logBudgetBytesMin {
            throw ValidationError("--log-budget must be at least \(bytesText(ProtectionChecks.logBudgetBytesMin))")
        }
    }

    func run() throws { try output.print(try perform(), text: Self.text) }

    func perform() throws -> Document {
        let catalogue = try site.catalogue()
        let job = try catalogue.beginJob(.protect, disk: name, steps: ["image", "log", "vault", "register"])
        do {
            let (disk, warnings) = try protect(catalogue, job)
            try job.succeed()
            try catalogue.record(.information, disk: name, "protected: \(disk.imagePath) to \(disk.vaultURL)")
            return Document(
                disk: disk.name, machine: disk.machine, group: try catalogue.machine(named: disk.machine).group, id: disk.id, image: disk.imagePath, format: disk.format, sizeBytes: disk.sizeBytes, logFolder: disk.logFolder,
                logBudgetBytes: disk.logBudgetBytes, policy: disk.policy.name, intervalSeconds: disk.policy.intervalSeconds, vault: disk.vaultURL, job: job.id,
                warnings: warnings, next: try serve(disk))
        } catch {
            let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
            try job.fail(failure.message, remedy: failure.remedy)
            throw error
        }
    }

    private static func text(_ document: Document) -> String {
        var lines = ["\(document.disk): protected (\(document.format), \(bytesText(document.sizeBytes)))"]
        if document.machine != document.disk || document.group != nil {
            lines.append("  part of machine \(document.machine)" + (document.group.map { ", group \($0)" } ?? ""))
        }
        lines.append("  image  \(document.image)")
        lines.append("  log    \(document.logFolder), at most \(bytesText(document.logBudgetBytes))")
        lines.append("  vault  \(document.vault), every \(document.intervalSeconds) s (policy \(document.policy))")
        lines += document.warnings.map { "  warning: \($0)" }
        return (lines + [document.next]).joined(separator: "\n")
    }

    private func protect(_ catalogue: Catalogue, _ job: RunningJob) throws -> (ProtectedDisk, [String]) {
        let checks = ProtectionChecks(catalogue: catalogue, name: name, site: site.directory)
        var found: ProtectionChecks.Image?
        try job.step("image") {
            let image = try checks.image(image, from: from, parentFolders: chain.folders)
            found = image
            return "\(image.format.rawValue), \(image.sizeBytes) bytes"
        }
        guard let image = found else { throw Failure(.failed, "the image was not checked", try: "run the command again") }
        let budget = logBudget ?? ProtectedDisk.defaultLogBudgetBytes(diskBytes: image.sizeBytes)
        let folder = logDir.map(absolutePath) ?? checks.defaultLogFolder(image)
        var warnings = image.warnings
        var leftover: LogState?
        try job.step("log") {
            // A log beside the image belongs to it, wherever the new one would go: two logs over one image undo each other.
            if logDir != nil { _ = try checks.leftover(checks.defaultLogFolder(image)) }
            leftover = try checks.leftover(folder)
            warnings += try checks.logFolder(folder, budgetBytes: budget)
            return folder
        }
        var opened: Vault?
        var id: LogID?
        try job.step("vault") {
            let url = vault.url
            let vault = try vault.open(site)
            try checks.place(of: vault, url: url)
            id = try checks.id(of: leftover, in: vault, sizeBytes: image.sizeBytes)
            warnings += try checks.vault(vault, own: id?.description)
            if let group { try checks.groupName(group, vault) }
            opened = vault
            return vault.id.description
        }
        guard let opened else { throw Failure(.failed, "the vault was not checked", try: "run the command again") }
        var disk: ProtectedDisk?
        try job.step("register") {
            let made = ProtectedDisk(
                name: name, id: (id ?? .random()).description, imagePath: image.path, format: image.format.rawValue,
                sizeBytes: image.sizeBytes, logFolder: folder, logBudgetBytes: budget, policy: try catalogue.policy(named: policy), vaultURL: vault.url,
                vaultID: opened.id.description, keyFile: vault.key.keyFile.map(absolutePath),
                passphraseFile: vault.key.passphraseFile.map(absolutePath), machine: machine, parentFolders: image.parentFolders)
            try register(made, opened, catalogue, leftover)
            disk = made
            return made.id
        }
        guard let disk else { throw Failure(.failed, "the disk was not registered", try: "run the command again") }
        return (disk, warnings)
    }

    /// Log, vault, site, in this order: a crash between them leaves a log that the next `protect` takes over.
    private func register(_ disk: ProtectedDisk, _ vault: Vault, _ catalogue: Catalogue, _ leftover: LogState?) throws {
        guard let id = LogID(hex: disk.id), let vaultDisk = VaultID(disk.id) else { throw Failure(.failed, "impossible disk id", try: "run the command again") }
        let segmentBytes = SegmentGeometry.segmentBytes(forBudgetBytes: disk.logBudgetBytes)
        // One that was made for another vault would keep all for a target that nobody serves; with another size no mount opens it.
        let isOurs = leftover.map {
            $0.diskID == id && $0.diskBytes == disk.sizeBytes && $0.targets == [disk.vaultID]
                && $0.segmentBytes == segmentBytes && $0.budgetBytes == disk.logBudgetBytes
        }
        if isOurs != true {
            // The image as it is now is the state at the first sequence: sequences begin at 1.
            let start = try Sequencer(path: site.directory.sequencePath).next()
            try ChangeLog.create(
                LogFolder(disk.logFolder), diskID: id, diskBytes: disk.sizeBytes, targets: [disk.vaultID],
                segmentBytes: segmentBytes, budgetBytes: disk.logBudgetBytes, startSequence: start, replacing: leftover)
        }
        _ = try vault.register(disk: vaultDisk, name: disk.name, sizeBytes: disk.sizeBytes, machine: disk.machine)
        try catalogue.add(disk, group: group)
    }

    /// Tells a running mount of the new disk; what is left to do for a person.
    private func serve(_ disk: ProtectedDisk) throws -> String {
        do {
            _ = try ControlClient(site: site.directory).demand(.add(disk: disk.name))
            return "The running mount serves it now."
        } catch {
            switch error.code {
            case .mountAway: return "Next: farshore mount DIR, and farshore upload"
            case .refused: return "Next: farshore unmount DIR and farshore mount DIR again, for the running mount serves it only then (\(error.message))"
            default: throw error
            }
        }
    }
}
