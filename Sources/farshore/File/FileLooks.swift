// Looks at one path of a disk, point by point, and knows of the last look what of the disk it had read.

import BlockIO
import Failover
import Glibc
import RecoveryPoints
import Vault

struct FileLooks {
    /// More blocks than that are not compared: the next point is opened.
    private static let comparedBlocksMax: UInt64 = 1 << 20

    let bench: Bench
    let vault: Vault
    let history: DiskHistory
    let disk: Catalog.Disk
    let file: FileOptions
    private(set) var count = 0
    private var last: (reader: PointReader, seen: BlockSet)?

    init(bench: Bench, vault: Vault, history: DiskHistory, disk: Catalog.Disk, file: FileOptions) {
        self.bench = bench
        self.vault = vault
        self.history = history
        self.disk = disk
        self.file = file
    }

    mutating func look(at sequence: UInt64) throws -> FileList.Seen {
        count += 1
        last = nil
        do {
            let copy = try bench.copy(disk, try bench.reader(vault, history, at: sequence))
            defer { copy.finish() }
            let seen = try seen(copy)
            try copy.unmount()
            last = (copy.reader, copy.seen)
            return seen
        } catch let error as VaultError where error.isIntegrityDamage {
            return .unreadable("\(error)")
        }
    }

    private func seen(_ copy: BenchCopy) throws -> FileList.Seen {
        do {
            let mounted = try copy.mount(try file.volume(of: copy.content))
            return try mounted.open(file.path).map { .there($0.attributes) } ?? .absent
        } catch let error as BenchError {
            return .unreadable("\(error)")
        } catch let error as SystemError where [EIO, EUCLEAN, ENODATA, ELOOP, EXDEV, ENAMETOOLONG].contains(error.errno) {
            return .unreadable("\(error)")
        }
    }

    /// Whether all that the last look had read is the same at `sequence`.
    func isUntouched(at sequence: UInt64) throws -> Bool {
        guard let last, last.seen.count <= Self.comparedBlocksMax else { return false }
        do {
            return try bench.reader(vault, history, at: sequence).has(last.seen, as: last.reader)
        } catch let error as VaultError where error.isIntegrityDamage {
            return false
        }
    }
}
