// Where recovery points are put to be looked at or tried out: throw-away copies in mounts that nobody else sees. Nothing that is done to one
// reaches the vault, and nothing is left when the process ends, however it ends.

import BlockIO
import Failover
import FuseExport
import Glibc
import RecoveryPoints
import Site
import Vault

final class Bench {
    /// What may be written to one copy.
    static let scratchBytesMax: UInt64 = 8 << 30
    /// What segments changed that is kept in memory, 32 bytes a change.
    private static let knownChangesMax = 600_000

    /// Where programs see the copies.
    let export: PrivateExport
    private let scratchFolder: String
    private var count = 0
    private var sources: [VaultID: PointSources] = [:]

    /// Call first of all, before other threads are started.
    init(_ site: SiteOptions, for purpose: String) throws {
        guard geteuid() == 0 else { throw Failure(.failed, "\(purpose) takes root: file systems of recovery points are mounted", try: "sudo farshore …") }
        try site.directory.create()
        scratchFolder = site.directory.path
        export = try PrivateExport(place: site.directory.runFolder + "/bench") { serviceLog($0) }
    }

    /// Takes everything down. Call once.
    func close() {
        for source in sources.values { source.close() }
        export.close()
    }

    func reader(_ vault: Vault, _ history: DiskHistory, at sequence: UInt64) throws -> PointReader {
        let source = sources[vault.id] ?? PointSources(vault: vault, knownChangesMax: Self.knownChangesMax)
        sources[vault.id] = source
        return try PointReader(source, disk: history.state.disk, plan: try history.plan(at: sequence))
    }

    /// A throw-away copy of a state. `finish` it.
    func copy(_ disk: Catalog.Disk, _ reader: PointReader) throws -> BenchCopy {
        count += 1
        return try BenchCopy(disk, reader, number: count, export: export, scratchFolder: scratchFolder)
    }
}

/// A throw-away copy of one state of one disk.
final class BenchCopy {
    let disk: Catalog.Disk
    let reader: PointReader
    let image: PrivateExport.Served
    let content: DiskContent
    private let scratch: ScratchDisk
    private let number: Int
    private let export: PrivateExport
    private var volumes: [Int: PrivateExport.Served] = [:]
    private var mounted: [MountedVolume] = []

    fileprivate init(_ disk: Catalog.Disk, _ reader: PointReader, number: Int, export: PrivateExport, scratchFolder: String) throws {
        self.disk = disk
        self.reader = reader
        self.number = number
        self.export = export
        let point = PointDisk(name: disk.name, reader: reader) { serviceLog($0) }
        let scratch = try ScratchDisk(point, folder: scratchFolder, limitBytes: Bench.scratchBytesMax)
        self.scratch = scratch
        content = try DiskContent(sizeBytes: scratch.sizeBytes) { offset, count throws(SystemError) in
            try [UInt8].filled(count) { bytes throws(SystemError) in try scratch.read(into: bytes, at: offset) }
        }
        image = try export.serve(LazyDisk { scratch }, sizeBytes: scratch.sizeBytes, as: "\(number)")
    }

    /// What of the point was looked at so far.
    var seen: BlockSet { scratch.seen }

    /// The file that is this volume.
    func path(of volume: DiskContent.Volume) throws -> String {
        if volume.number == 0 { return image.path }
        if let served = volumes[volume.number] { return served.path }
        let slice = DiskSlice(scratch, volume.range)
        let served = try export.serve(LazyDisk { slice }, sizeBytes: slice.sizeBytes, as: "\(number)-\(volume.number)")
        volumes[volume.number] = served
        return served.path
    }

    /// Mounts a file system, its journal replayed; `unmount` ends it.
    func mount(_ volume: DiskContent.Volume) throws -> MountedVolume {
        let directory = "\(export.place)/\(number)-\(volume.number)"
        try Directory.create(export.reached(directory), mode: 0o700)
        let made = try MountedVolume(try path(of: volume), volume, at: directory, on: export)
        mounted.append(made)
        return made
    }

    func unmount() throws {
        while let last = mounted.popLast() { try last.unmount() }
    }

    /// Nothing of it is left afterwards.
    func finish() {
        for volume in mounted.reversed() { volume.detach() }
        for served in volumes.values { export.remove(served) }
        export.remove(image)
    }
}
