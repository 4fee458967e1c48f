// How much goes into one object and one publication: as much as the target takes in a few seconds, so that a slow uplink
// shows its progress while a full log waits for it, and loses little of it when it breaks. Kept by DiskReplication from attempt to attempt, used by the disk's thread only.

import Vault

package final class UploadPace {
    package static let secondsWanted: UInt64 = 4
    package static let payloadBytesMin = 256 << 10

    package private(set) var segmentPayloadBytesMax: Int
    /// What one sender at a time got through with the newest object; nil before the first.
    package private(set) var bytesPerSecond: UInt64?

    /// Small at first: nothing is known of the target.
    package init() { segmentPayloadBytesMax = 1 << 20 }

    package var publicationPayloadBytesMax: UInt64 { min(UInt64(segmentPayloadBytesMax) * 4, ReplicationLimits.publicationPayloadBytesMax) }

    /// An object was put and verified in that time. The next ones may be twice as large at most: a small object's time is
    /// that of the requests and not of its bytes.
    package func note(payloadBytes: UInt64, nanoseconds: UInt64) {
        let (product, overflow) = payloadBytes.multipliedReportingOverflow(by: Self.secondsWanted * 1_000_000_000)
        let fitting = overflow ? UInt64.max : product / max(nanoseconds, 1)
        let most = min(UInt64(segmentPayloadBytesMax) * 2, UInt64(FormatLimits.segmentPayloadBytesDefault))
        bytesPerSecond = fitting / Self.secondsWanted
        segmentPayloadBytesMax = Int(min(max(fitting, UInt64(Self.payloadBytesMin)), most))
    }
}
