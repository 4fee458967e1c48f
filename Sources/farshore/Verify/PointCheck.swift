// Runs a check on throw-away copies of a point's disks. What cannot be checked at all (a program is missing, there is no file system) is an
// error and no verdict.

import BlockIO
import Failover
import Foundation
import FuseExport
import RecoveryPoints
import Vault

struct PointCheck {
    struct Outcome {
        let isGood: Bool
        let note: String
    }

    let bench: Bench
    let options: CheckOptions

    func run(_ copies: [BenchCopy]) throws -> Outcome {
        do {
            return switch options.kind {
            case .fsck: try checkFileSystems(copies)
            case .script: try runScript(copies)
            case .boot: try GuestBoot(bench: bench, options: options).run(copies)
            }
        } catch BenchError.cannotMount(let reason) {
            return Outcome(isGood: false, note: reason)
        }
    }

    private func volumes(_ copies: [BenchCopy]) throws -> [(copy: BenchCopy, volume: DiskContent.Volume)] {
        let found = copies.flatMap { copy in copy.content.volumes.filter { $0.fileSystem != nil }.map { (copy, $0) } }
        guard !found.isEmpty else {
            throw Failure(
                .notFound, "there is no ext4, XFS or NTFS on \(copies.map(\.disk.name).joined(separator: ", ")) at this point",
                try: "--check boot, or --check script with a script that reads FARSHORE_IMAGES")
        }
        return found
    }

    /// The journal is replayed first, as at the first mount after a power loss: only then there may be nothing to mend.
    private func checkFileSystems(_ copies: [BenchCopy]) throws -> Outcome {
        var notes: [String] = []
        for (copy, volume) in try volumes(copies) {
            let place = copy.disk.name + (volume.number == 0 ? "" : " partition \(volume.number)")
            do {
                let mounted = try copy.mount(volume)
                try copy.unmount()
                if let remark = mounted.remark { return Outcome(isGood: false, note: "\(place): \(remark)") }
            } catch BenchError.cannotMount(let reason) {
                return Outcome(isGood: false, note: "\(place): \(reason)")
            }
            let result = try checked(volume, try copy.path(of: volume))
            guard result.isSuccess else { return Outcome(isGood: false, note: "\(place): \(result.summary)") }
            notes.append("\(place): \(volume.fileSystem?.rawValue ?? "") clean")
        }
        return Outcome(isGood: true, note: notes.joined(separator: "; "))
    }

    private func checked(_ volume: DiskContent.Volume, _ path: String) throws -> BoundedProgram.Result {
        let (words, package): ([String], String) =
            switch volume.fileSystem {
            case .xfs: (["xfs_repair", "-n", "-f", path], "xfsprogs")
            case .ntfs: (["ntfsfix", "-n", path], "ntfs-3g")
            default: (["e2fsck", "-f", "-n", path], "e2fsprogs")
            }
        return try BoundedProgram.run(words, seconds: options.timeLimit, on: bench.export, package: package)
    }

    private func runScript(_ copies: [BenchCopy]) throws -> Outcome {
        let script = absolutePath(options.script ?? "")
        var roots: [String] = []
        for copy in copies {
            for volume in copy.content.volumes where volume.fileSystem != nil { roots.append(try copy.mount(volume).directory) }
        }
        let environment = [
            "FARSHORE_ROOTS": roots.joined(separator: ":"), "FARSHORE_IMAGES": copies.map(\.image.path).joined(separator: ":"),
            "FARSHORE_DISKS": copies.map(\.disk.name).joined(separator: ":"), "FARSHORE_POINT": copies.first.map { "\($0.reader.sequence)" } ?? "",
        ]
        let result = try BoundedProgram.run([script], environment: environment, seconds: options.timeLimit, on: bench.export)
        for copy in copies { try copy.unmount() }
        return Outcome(isGood: result.isSuccess, note: result.summary)
    }
}
