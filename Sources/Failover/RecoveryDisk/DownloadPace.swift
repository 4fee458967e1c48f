// Holds the filling of recovery disks back to the download limit of their policy. All disks of a policy in this process share it. The policy is
// read again every second, so a change reaches what is being fetched.

import BlockIO
import ObjectStore
import Replication
package import Site
import Synchronization

package final class DownloadPace: Sendable {
    private static let policyAgeNanosecondsMax: UInt64 = 1_000_000_000
    private static let limits = Mutex<[String: SendingLimit]>([:])

    private let disk: String
    private let catalogue: Catalogue
    private let state: Mutex<(policy: Policy, readAt: UInt64)>

    package init(_ disk: ProtectedDisk, _ catalogue: Catalogue) {
        self.disk = disk.name
        self.catalogue = catalogue
        state = Mutex((disk.policy, 0))
    }

    /// Returns when so many bytes may be fetched, or when `isOver` says so.
    package func wait(_ bytes: Int, isOver: () -> Bool) {
        let policy = policy
        guard !policy.download.rules.isEmpty else { return }
        let limit = Self.limits.withLock { limits in
            if let known = limits[policy.name] { return known }
            let made = SendingLimit()
            limits[policy.name] = made
            return made
        }
        do throws(StoreError) { try limit.wait(bytes, rate: { self.policy.download.limit(at: .now) }, isOver: isOver) } catch {
            // Over: whoever asked looks.
        }
    }

    private var policy: Policy {
        let now = Clock.monotonicNanoseconds()
        let (known, readAt) = state.withLock { $0 }
        guard now - min(readAt, now) > Self.policyAgeNanosecondsMax else { return known }
        // While the catalogue cannot be read what was known goes on to hold.
        let read: Policy
        do throws(SiteError) { read = try catalogue.disk(named: disk).policy } catch { read = known }
        state.withLock { $0 = (read, now) }
        return read
    }
}
