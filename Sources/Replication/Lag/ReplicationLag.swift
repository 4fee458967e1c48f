// How far the vault is behind the disk: from the sequence that was read back from the vault's head, to what is in the
// log now. Never from the uploader's own counters. Seconds are by the wall clock of this host, which wrote both times.

import BlockIO
package import ChangeLog

package struct ReplicationLag: Equatable, Sendable {
    /// Age of the oldest write the vault does not have; 0 when it has all.
    package let seconds: Double
    /// Data of writes the vault does not have.
    package let bytes: UInt64
    package let records: UInt64

    /// Walks the log after `provenSequence`.
    package static func measure(_ reader: LogReader, provenSequence: UInt64, nowNanoseconds: UInt64 = Clock.wallNanoseconds()) throws -> ReplicationLag {
        var first: UInt64?
        var bytes: UInt64 = 0
        var records: UInt64 = 0
        try reader.headers(after: provenSequence) { record in
            guard record.kind != .void else { return }
            first = first ?? record.wallNanoseconds
            bytes += UInt64(record.payloadBytes)
            records += 1
        }
        let age = first.map { nowNanoseconds > $0 ? Double(nowNanoseconds - $0) / 1e9 : 0 }
        return ReplicationLag(seconds: age ?? 0, bytes: bytes, records: records)
    }
}
