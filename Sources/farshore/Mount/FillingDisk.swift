// A recovery disk that the mount serves: fills its image from the point in the background, at the download limit of its policy, and
// says how far it is. The disk of a test, which is thrown away, fetches only what its guest reads: nothing else is paid for.
// Made and stopped by MountedDisks, looked after by DiskWatch.

import BlockIO
import ChangeLog
import Failover
import RecoveryPoints
import Site
import Synchronization

final class FillingDisk: Sendable {
    private let image: RecoveryImage
    /// Nil for a test.
    private let hydration: Hydration?
    private let name: String
    private let catalogue: Catalogue
    /// The last problem that events were told of.
    private let told = Mutex<String?>(nil)

    init(_ image: RecoveryImage, _ disk: ProtectedDisk, _ catalogue: Catalogue) throws {
        self.image = image
        self.catalogue = catalogue
        name = disk.name
        guard disk.role != .test else {
            hydration = nil
            return
        }
        let folder = LogFolder(disk.logFolder)
        let pace = DownloadPace(disk, catalogue)
        hydration = try Hydration(image, Hydration.Plan(
            basePath: folder.baseFile, presencePath: folder.presenceFile, pace: { pace.wait($0, isOver: $1) },
            ended: { [name = disk.name] in
                serviceLog("\(name): its image holds all of the recovery point and stands alone")
                do throws(SiteError) { try catalogue.record(.information, disk: name, "the image holds all of the recovery point and stands alone") } catch {
                    serviceLog("\(name): no event recorded: \(error)")
                }
            }))
    }

    /// The image is not touched by the filling when this returns.
    func stop() { hydration?.stop() }

    var hasWaitingReads: Bool { image.source.waiting > 0 }

    /// Nil once the image stands alone.
    var status: FillingStatus? {
        guard !image.standsAlone else { return nil }
        let status = hydration?.status
        return FillingStatus(
            sequence: image.base.sequence, totalBytes: status?.totalBytes, doneBytes: status?.doneBytes, localBytes: image.localBytes,
            problem: status?.problem ?? image.source.problem)
    }

    /// Events when it cannot go on, and when it can again.
    func watch() {
        let problem = status?.problem
        let before = told.withLock { $0 }
        guard (problem == nil) != (before == nil) else { return }
        do throws(SiteError) {
            if let problem {
                try catalogue.record(.warning, disk: name, "the image is not filled from its recovery point: \(problem)")
            } else {
                try catalogue.record(.information, disk: name, "the image is filled from its recovery point again")
            }
            told.withLock { $0 = problem }
        } catch {
            serviceLog("\(name): no event recorded: \(error)")
        }
    }
}
