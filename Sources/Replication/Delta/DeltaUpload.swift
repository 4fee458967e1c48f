// Reads the log after what the vault has, and puts the records as segments, verified, a few at a time. Reads only what
// the owner declared durable, without owning the log. Called by DiskReplication, which publishes what this returns.

import BlockIO
import ChangeLog
import Vault

struct DeltaUpload {
    let vault: Vault
    let disk: VaultID
    let lineage: VaultID
    let reader: LogReader
    let pace: UploadPace
    let stop: StopFlag
    /// Shown each record that is sent, and its payload.
    let seen: (RecordHeader, UnsafeRawBufferPointer) -> Void
    /// Told, in order, up to which sequence all objects are verified.
    let sent: (UInt64) -> Void

    private struct BatchIsFull: Error {}

    /// Sends the records after `after`, up to `through` or to the end of a publication, which never lies inside of what the log has merged;
    /// nil when there are none. Before the log merged it an attempt may have put some of it under the same names, and objects are never changed:
    /// another `try` begins and ends its objects elsewhere.
    func send(after: UInt64, through: UInt64, try attempt: Int = 0) throws -> Publisher.Addition? {
        var addition = Publisher.Addition(sequence: after)
        let outgoing = OutgoingSegments(threads: ReplicationLimits.segmentThreads, pace: pace, sent: sent)
        defer { outgoing.abandon() }
        var writer = newWriter()
        var beyond = 0
        var batch = Batch(payloadBytesMax: pace.publicationPayloadBytesMax)
        do {
            let last = try reader.records(after: after, through: through, merged: { interval in
                // On its own it is sent in one piece, and what came before is not sent again with it.
                if !batch.isEmpty, addition.isState { throw BatchIsFull() }
                addition.merged.join(interval)
            }) { record, payload in
                if !batch.takes(record), addition.isState {
                    guard beyond < attempt else { throw BatchIsFull() }
                    beyond += 1
                }
                if !writer.isEmpty, !writer.fits(payloadBytes: payload.count) || batch.records == attempt {
                    if stop.isOver { throw Stopped() }
                    try outgoing.send(writer)
                    writer = newWriter()
                }
                addition.sequence = record.sequence
                guard let kind = SegmentRecordKind(record.kind), kind != .point || addition.isState else { return }
                seen(record, payload)
                try writer.append(SegmentRecord(record, kind), payload: payload)
                batch.add(record)
                if kind == .point { addition.points.append(RecoveryPoint(record, tag: payload)) }
            }
            guard last >= through else {
                throw AttemptFailure(
                    .mayPass, "\(reader.folder.path): the records end at sequence \(last), but were declared durable up to \(through)",
                    remedy: "docs/operating/recovering.md says what a damaged log means", cause: LogError.recycled(folder: reader.folder.path, after: last, oldest: through))
            }
        } catch is BatchIsFull {
            // The rest follows in the next publication.
        }
        if !writer.isEmpty { try outgoing.send(writer) }
        addition.segments = try outgoing.finish()
        return addition.segments.isEmpty ? nil : addition
    }

    private func newWriter() -> SegmentWriter {
        SegmentWriter(vault: vault, disk: disk, lineage: lineage, payloadBytesMax: pace.segmentPayloadBytesMax)
    }

    /// Counts what one publication holds.
    private struct Batch {
        let payloadBytesMax: UInt64
        private var payloadBytes: UInt64 = 0
        private(set) var records = 0

        var isEmpty: Bool { records == 0 }

        init(payloadBytesMax: UInt64) { self.payloadBytesMax = payloadBytesMax }

        func takes(_ record: RecordHeader) -> Bool {
            records == 0
                || (records < ReplicationLimits.publicationRecordsMax
                    && payloadBytes + UInt64(record.payloadBytes) <= payloadBytesMax)
        }

        mutating func add(_ record: RecordHeader) {
            records += 1
            payloadBytes += UInt64(record.payloadBytes)
        }
    }
}

extension Publisher.Addition {
    /// The disk was like this once: it does not end inside of what was merged.
    fileprivate var isState: Bool { sequence >= merged.last?.through ?? 0 }
}

/// Segments being sealed and put on threads of their own, at most `threads` at a time; results in the order of sending.
final class OutgoingSegments {
    /// Sendable: the writer is handed over; until `join` only the thread touches writer and result.
    private final class Sending: @unchecked Sendable {
        let writer: SegmentWriter
        var result: Result<SegmentEntry, any Error>?
        var nanoseconds: UInt64 = 0
        var thread: OwnThread?

        init(_ writer: SegmentWriter) { self.writer = writer }
    }

    private let threads: Int
    private let pace: UploadPace
    private let sent: (UInt64) -> Void
    private var running: [Sending] = []
    private var entries: [SegmentEntry] = []

    init(threads: Int, pace: UploadPace, sent: @escaping (UInt64) -> Void) {
        self.threads = threads
        self.pace = pace
        self.sent = sent
    }

    /// Begins to put the segment; waits for the oldest one when too many are on their way.
    func send(_ writer: SegmentWriter) throws {
        while running.count >= threads { try takeOldest() }
        let sending = Sending(writer)
        sending.thread = try OwnThread(name: "segment") {
            let began = Clock.monotonicNanoseconds()
            sending.result = Result { try sending.writer.finish() }
            sending.nanoseconds = Clock.monotonicNanoseconds() - began
        }
        running.append(sending)
    }

    func finish() throws -> [SegmentEntry] {
        while !running.isEmpty { try takeOldest() }
        return entries
    }

    /// Waits for what is on its way; its results are not wanted any more.
    func abandon() {
        for sending in running { sending.thread?.join() }
        running = []
    }

    private func takeOldest() throws {
        let sending = running.removeFirst()
        sending.thread?.join()
        guard let entry = try sending.result?.get() else { return }
        entries.append(entry)
        pace.note(payloadBytes: entry.payloadBytes, nanoseconds: sending.nanoseconds)
        sent(entry.last)
    }
}

extension SegmentRecordKind {
    /// Nil for records that change nothing and are not sent.
    init?(_ kind: RecordKind) {
        switch kind {
        case .write: self = .write
        case .zero: self = .zero
        case .discard: self = .discard
        case .point: self = .point
        case .void: return nil
        }
    }
}

extension SegmentRecord {
    init(_ record: RecordHeader, _ kind: SegmentRecordKind) {
        self.init(
            kind: kind, sequence: record.sequence, diskOffset: record.diskOffset, length: record.length,
            wallNanoseconds: record.wallNanoseconds, flushedThrough: record.flushedSequence,
            isAppConsistent: record.isAppConsistent)
    }
}

extension RecoveryPoint {
    init(_ record: RecordHeader, tag: UnsafeRawBufferPointer) {
        self.init(
            sequence: record.sequence, timeMicros: record.wallNanoseconds / 1000, kind: record.isAppConsistent ? .app : .crash,
            tag: tag.isEmpty ? nil : String(decoding: tag, as: UTF8.self))
    }
}
