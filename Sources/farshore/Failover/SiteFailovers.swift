// What the commands of failover share: which vault a unit is in, who this host is, and how recovery disks are made, served and removed here.

import ArgumentParser
import BlockIO
import Failover
import Foundation
import FuseExport
import Glibc
import ObjectStore
import Site
import Vault

/// The vault given, or the one that this site knows the unit from: its protected disks, a failover, a test.
struct UnitVaultOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The vault (default: the one this site protects the unit to, or failed it over from).", valueName: "url"))
    var vault: String?

    @OptionGroup var key: KeyOptions

    func validate() throws {
        guard vault != nil || !key.isGiven else { throw ValidationError("a key is of use only with --vault") }
    }

    struct Place {
        let url: String
        let keyFile: String?
        let passphraseFile: String?

        init(url: String, keyFile: String?, passphraseFile: String?) {
            self.url = url
            self.keyFile = keyFile
            self.passphraseFile = passphraseFile
        }

        init(_ record: FailoverRecord) { self.init(url: record.vaultURL, keyFile: record.keyFile, passphraseFile: record.passphraseFile) }
    }

    /// `test`: the one that is gone on with, in its vault.
    func place(of unit: String, _ catalogue: Catalogue, test: String? = nil) throws -> Place {
        let name = UnitName(unit)
        let members = try catalogue.consistencyGroups().first { name.means(.group) && $0.name == name.plain }?.diskNames ?? []
        let own = try catalogue.disksAtTargets().filter { (name.means(.machine) && $0.machine == name.plain) || (name.means(.disk) && $0.name == name.plain) || members.contains($0.name) }
        if let vault {
            if !key.isGiven {
                if let known = own.first(where: { $0.vaultURL == vault }) { return Place(url: vault, keyFile: known.keyFile, passphraseFile: known.passphraseFile) }
                if let known = try catalogue.vaultPlace(at: vault) { return Place(url: vault, keyFile: known.keyFile, passphraseFile: known.passphraseFile) }
            }
            return Place(url: vault, keyFile: key.keyFile.map(absolutePath), passphraseFile: key.passphraseFile.map(absolutePath))
        }
        let tests = try catalogue.openFailovers(.test).filter { UnitName($0.unit).plain == name.plain }
        if let test, let record = tests.first(where: { $0.name == test }) { return Place(record) }
        for kind in [FailoverRecord.Kind.failover, .preparation] {
            if let record = try catalogue.openFailovers(kind).last(where: { UnitName($0.unit).plain == name.plain }) { return Place(record) }
        }
        // Of a vault that the unit is replicated to a test says nothing: any vault's can be open beside it.
        if own.first?.targetCount != 1, let record = tests.last { return Place(record) }
        guard let disk = own.first else {
            throw Failure(.notFound, "this site knows no machine or group named \(unit)", try: "--vault URL --key-file FILE")
        }
        guard disk.targetCount == 1 else {
            throw Failure(.usage, "\(unit) has \(disk.targetCount) targets, and a failover is to one of them", try: "--vault with one of them: farshore target list \(unit)")
        }
        return Place(url: disk.vaultURL, keyFile: disk.keyFile, passphraseFile: disk.passphraseFile)
    }
}

/// A command on one unit.
struct UnitOptions: ParsableArguments {
    @Argument(help: "The machine, replication group or disk (machine:NAME and so on, where two have one name).")
    var unit: String

    @OptionGroup var vault: UnitVaultOptions
    @OptionGroup var site: SiteOptions

    func opened(remembering words: [String] = [], test: String? = nil) throws -> OpenedUnit {
        try OpenedUnit(unit, try vault.place(of: unit, site.catalogue(), test: test), site, remembering: words)
    }
}

struct OpenedUnit {
    let unit: String
    let place: UnitVaultOptions.Place
    let site: SiteOptions
    let catalogue: Catalogue
    let heads: LifeCycleHeads

    init(
        _ unit: String, _ place: UnitVaultOptions.Place, _ site: SiteOptions, remembering words: [String] = [], through wrap: (any ObjectStore) -> any ObjectStore = { $0 }
    ) throws {
        self.unit = unit
        self.place = place
        self.site = site
        catalogue = try site.catalogue(remembering: words)
        let files = KeyFiles(keyFile: place.keyFile, passphraseFile: place.passphraseFile)
        let vault = try Vault.open(store: wrap(try openStore(url: place.url)), key: try files.read(), memory: headMemory(site), keyFiles: files)
        guard let id = VaultID(try site.directory.hostID()) else { throw Failure(.failed, "\(site.directory.path)/host-id holds no host id", try: "restore it from a backup") }
        let sources = Set(try catalogue.disks().filter { $0.role == .source }.map(\.id))
        heads = LifeCycleHeads(vault: vault, host: FailoverHost(id: id, name: ProcessInfo.processInfo.hostName)) { sources.contains($0.description) }
    }

    var failovers: Failovers {
        Failovers(heads: heads, catalogue: catalogue, actions: FailoverActions(
            make: { [vault = heads.vault, catalogue] points, record in
                try RecoveryDisks(catalogue: catalogue, vault: vault).create(points, RecoveryDisks.Plan(record, in: record.folder, role: .recovery)).map(\.name)
            },
            remove: { [vault = heads.vault, catalogue] disk, record in try RecoveryDisks(catalogue: catalogue, vault: vault).remove([disk], in: record.folder) },
            serve: { [folder = site.directory] in try serve($0, folder) }, release: { [folder = site.directory] in try release($0, folder) }))
    }

    var tests: TestFailovers {
        TestFailovers(heads: heads, catalogue: catalogue, actions: TestActions(
            make: { [vault = heads.vault] points, record, site in
                try RecoveryDisks(catalogue: try Catalogue(site: site), vault: vault).create(points, RecoveryDisks.Plan(record, in: site.path + "/disks", role: .test)).map(\.name)
            },
            mount: { site in try mountInBackground(site) }, unmount: { site in try unmount(site) }))
    }
}

extension RecoveryDisks.Plan {
    init(_ record: FailoverRecord, in folder: String, role: ProtectedDisk.Role) {
        self.init(folder: folder, role: role, vaultURL: record.vaultURL, keyFile: record.keyFile, passphraseFile: record.passphraseFile)
    }
}

// MARK: The site's mount

/// Nil where no mount runs; else where the disk is.
func serve(_ disk: String, _ folder: SiteDirectory) throws -> String? {
    do { _ = try ControlClient(site: folder).demand(.add(disk: disk), timeoutSeconds: 120) } catch {
        guard error.code == .mountAway else { throw error }
        return nil
    }
    let bytes = try DurableFile.read(folder.mountPIDPath, limitBytes: 64) ?? []
    let pid = Int32(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber })
    guard let mounted = try MountedExport.all().last(where: { $0.pid == pid }) else {
        throw Failure(.failed, "the mount of \(folder.path) is not in the mount table", try: "farshore status")
    }
    return "\(mounted.directory)/\(disk)/disk.raw"
}

func release(_ disk: String, _ folder: SiteDirectory) throws {
    do { _ = try ControlClient(site: folder).demand(.release(disk: disk), timeoutSeconds: 120) } catch {
        switch error.code {
        case .mountAway, .diskNotFound: return
        case .refused: throw FailoverError(.inUse, "\(disk) is mounted: \(error.message)", remedy: error.remedy)
        default: throw error
        }
    }
}

/// What is mounted there: the mount table has it by the path without links, and the site's path may have some.
func mounted(at directory: String) throws -> MountedExport? {
    guard let path = try FuseMount.absolute(absolutePath(directory), throughDeadMount: true) else { return nil }
    return try MountedExport.at(path)
}

/// A mount of the site of a test, below it.
private func mountInBackground(_ site: SiteDirectory) throws -> String {
    let directory = site.path + "/mnt"
    if try mounted(at: directory) != nil { return directory }
    try runFarshore(["mount", directory, "--site", site.path])
    return directory
}

private func unmount(_ site: SiteDirectory) throws {
    let directory = site.path + "/mnt"
    guard try mounted(at: directory) != nil else { return }
    try runFarshore(["unmount", directory, "--site", site.path])
}

/// Runs this program; what it says goes to our standard error.
func runFarshore(_ arguments: [String]) throws {
    let child = try ChildProcess.spawn("/proc/self/exe", arguments, standardError: STDERR_FILENO)
    let ending = child.wait()
    guard ending == .exited(0) else {
        // A disk in use is in use, whichever process finds that.
        let status: ExitStatus = if case .exited(let number) = ending { ExitStatus(rawValue: number) ?? .failed } else { .failed }
        throw Failure(status, "farshore \(arguments.joined(separator: " ")) failed", try: "the same by hand, after what it said")
    }
}
