// How one disk's data goes out to one target: through the bandwidth limit of its policy there, compressed as that says. All disks
// that have a policy at a vault share its limit; another vault has one of its own, so that a slow one takes nothing from it. The
// policy is read again every second, so a change reaches what is being sent.

import BlockIO
import Glibc
import ObjectStore
package import Site
import Synchronization
import Vault

/// The limits of all policies of this uploader.
final class SendingLimits: Sendable {
    private let catalogue: Catalogue
    private let stop: StopFlag
    private struct Key: Hashable {
        let policy: String
        let vault: String
    }

    private let limits = Mutex<[Key: SendingLimit]>([:])

    init(catalogue: Catalogue, stop: StopFlag) {
        self.catalogue = catalogue
        self.stop = stop
    }

    func limit(ofPolicy name: String, at vault: String) -> SendingLimit {
        limits.withLock { limits in
            let key = Key(policy: name, vault: vault)
            if let known = limits[key] { return known }
            let made = SendingLimit()
            limits[key] = made
            return made
        }
    }

    var isOver: Bool { stop.isOver }

    /// Nil while the catalogue cannot be read: then what was known goes on to hold.
    func policy(ofDisk name: String, at vault: String) -> Policy? {
        do throws(SiteError) { return try catalogue.disk(named: name, at: vault).policy } catch { return nil }
    }
}

final class UploadLane: Sendable {
    private static let policyAgeNanosecondsMax: UInt64 = 1_000_000_000
    /// Below this rate a processor has time for a better compression than the fastest.
    private static let slowBytesPerSecond: UInt64 = 8 << 20
    private static let fastLevel = 1
    private static let slowLevel = 6

    private struct State {
        var policy: Policy
        var readAt: UInt64 = 0
        /// What the target took of late; nil before anything was sent.
        var bytesPerSecond: UInt64?
    }

    private let disk: String
    private let vaultID: String
    private let limits: SendingLimits
    private let state: Mutex<State>

    init(_ disk: ProtectedDisk, _ limits: SendingLimits) {
        (self.disk, vaultID) = (disk.name, disk.vaultID)
        self.limits = limits
        state = Mutex(State(policy: disk.policy))
    }

    /// `vault` as this disk's data goes into it.
    func vault(_ vault: Vault) -> Vault {
        let store = ThrottledStore(vault.store) { [self] bytes throws(StoreError) in
            let policy = policy
            // A policy without a calendar has no limit to share.
            guard !policy.bandwidth.rules.isEmpty else { return }
            try limits.limit(ofPolicy: policy.name, at: vaultID).wait(bytes, rate: { self.policy.bandwidth.limit(at: .now) }, isOver: { self.limits.isOver })
        }
        return vault.through(store) { [self] in compressionLevel }
    }

    func note(bytesPerSecond: UInt64) { state.withLock { $0.bytesPerSecond = bytesPerSecond } }

    private var policy: Policy {
        let now = Clock.monotonicNanoseconds()
        let (known, isOld) = state.withLock { ($0.policy, now - min($0.readAt, now) > Self.policyAgeNanosecondsMax) }
        guard isOld else { return known }
        let read = limits.policy(ofDisk: disk, at: vaultID) ?? known
        state.withLock { $0.policy = read; $0.readAt = now }
        return read
    }

    private var compressionLevel: Int? {
        switch policy.compression {
        case .off: nil
        case .level(let level): level
        case .automatic: state.withLock { $0.bytesPerSecond ?? .max } < Self.slowBytesPerSecond ? Self.slowLevel : Self.fastLevel
        }
    }
}

extension BandwidthCalendar.Moment {
    /// By the host's local time.
    package static var now: BandwidthCalendar.Moment {
        var seconds = time(nil)
        var local = tm()
        localtime_r(&seconds, &local)
        return BandwidthCalendar.Moment(weekday: (Int(local.tm_wday) + 6) % 7, minute: Int(local.tm_hour) * 60 + Int(local.tm_min))
    }
}
