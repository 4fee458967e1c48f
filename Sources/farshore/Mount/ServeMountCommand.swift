// The hidden worker command of `farshore mount`: opens the site's disks, serves them on the descriptors it inherits,
// answers the control socket and cuts points. It may die at any moment; its successor goes on with the same slots.

import ArgumentParser
import BlockIO
import DiskImage
import FuseExport
import Glibc
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
        // A successor has requests of guests in hand: a disk that does not open any more must not take the others along.
        let isSuccessor = process.slots.traffic().requests > 0
        try open(try catalogue.disks(), disks, locks, catalogue, mayServeNone: isSuccessor)
        if isSuccessor { try catalogue.record(.warning, disk: nil, "the worker of the mount was replaced; no request was lost") }
        let control = try ControlServer(path: site.directory.controlSocketPath) { disks.answer($0) }
        let points = try PointInterval(disks: disks)
        let watch = try DiskWatch(disks: disks, catalogue: catalogue)
        let end = try process.serve(disks.tree, directory: directory)
        watch.stop()
        control.stop()
        points.stop()
        try disks.closeAll()
        if case .failed(let error) = end { throw error }
    }

    /// One disk that does not open must not take the others along; where there is none else, the first one's reason is the mount's.
    private func open(_ all: [ProtectedDisk], _ disks: MountedDisks, _ locks: InheritedLocks, _ catalogue: Catalogue, mayServeNone: Bool) throws {
        var first: Failure?
        for disk in all {
            do {
                try disks.open(disk, inherited: locks.descriptors[disk.name])
            } catch let failure as Failure {
                first = first ?? failure
                serviceLog("\(disk.name) is not served: \(failure.message). Try: \(failure.remedy)")
                try catalogue.record(.critical, disk: disk.name, "the mount does not serve it: \(failure.message)")
            }
        }
        let served = disks.all().map(\.disk.name)
        if let first, served.isEmpty, !mayServeNone { throw first }
        serviceLog(served.isEmpty ? "no disk is open" : "open: \(served.joined(separator: ", "))")
    }
}
