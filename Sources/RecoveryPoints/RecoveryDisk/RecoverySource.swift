// The point that a recovery disk is filled from, as its image reads it: opened when it is first needed, so that a disk is served while its
// vault is away. A vault that cannot be reached is waited for, for a while; what it cannot give is EIO for that range, never zeros.

import BlockIO
import Glibc
import Synchronization
import Vault

package final class RecoverySource: Sendable {
    /// A guest's read waits so long for a vault that is away.
    package static let patienceMilliseconds = 20_000
    private static let retryMilliseconds = 1_000

    private struct State {
        var reader: PointReader?
        var problem: (text: String, isAway: Bool)?
        /// When the vault was last found away, by the monotonic clock.
        var awayAt: UInt64?
        var waiting = 0
        var isClosed = false
        var reported: Set<String> = []
    }

    private struct Away: Error {}

    private let name: String
    private let open: @Sendable () throws -> PointReader
    private let waits: @Sendable (Bool) -> Void
    private let log: @Sendable (String) -> Void
    private let ahead = ReadAhead()
    private let opening = Mutex<Void>(())
    private let state = Mutex(State())

    /// `waits` is told when a read of a guest begins (true) and ends to wait for the vault.
    package init(
        name: String, open: @escaping @Sendable () throws -> PointReader, waits: @escaping @Sendable (Bool) -> Void = { _ in },
        log: @escaping @Sendable (String) -> Void
    ) {
        self.name = name
        self.open = open
        self.waits = waits
        self.log = log
    }

    /// Why the last read of the vault failed; nil once one succeeded again.
    package var problem: String? { state.withLock { $0.problem?.text } }
    /// Guests' reads that wait for the vault now.
    package var waiting: Int { state.withLock { $0.waiting } }

    /// Nothing waits for the vault any more.
    package func close() { state.withLock { $0.isClosed = true } }

    // MARK: For guests

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        state.withLock { $0.waiting += 1 }
        waits(true)
        defer {
            waits(false)
            state.withLock { $0.waiting -= 1 }
        }
        let began = Clock.monotonicNanoseconds()
        while true {
            do {
                return try fetch(into: buffer, at: offset, readsAhead: true)
            } catch {
                let isOver = Clock.monotonicNanoseconds() - began >= UInt64(Self.patienceMilliseconds) * 1_000_000
                guard error is Away, !isOver, !state.withLock({ $0.isClosed }) else {
                    throw SystemError(errno: EIO, operation: "read \(buffer.count) bytes at \(offset) from the vault", path: name)
                }
                usleep(UInt32(Self.retryMilliseconds) * 1_000)
            }
        }
    }

    /// Begins to fetch what a read was asked for that does not wait.
    func prefetch(at offset: UInt64, count: Int) { state.withLock { $0.reader }?.readAhead(at: offset, count: count) }

    /// The first offset from `offset` on, and before `limit`, that may hold data (or that is known not to); nil when there is none. Where the vault
    /// does not say, there may be data.
    func next(data: Bool, from offset: UInt64, before limit: UInt64) -> UInt64? {
        do { return try find(data: data, from: offset, before: limit) } catch { return data ? offset : nil }
    }

    // MARK: For filling, which does not wait

    /// Throws where the vault is away or has not what it should have; `problem` says what.
    func fetch(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64, readsAhead: Bool) throws {
        try noting { reader throws(VaultError) in
            if readsAhead { ahead.note(offset, buffer.count, reader) }
            try reader.read(into: buffer, at: offset)
        }
    }

    func find(data: Bool, from offset: UInt64, before limit: UInt64) throws -> UInt64? {
        try noting { reader throws(VaultError) in try reader.next(data: data, from: offset, before: limit) }
    }

    var isAway: Bool { state.withLock { $0.problem?.isAway ?? false } }

    private func noting<Value>(_ body: (PointReader) throws(VaultError) -> Value) throws -> Value {
        let reader = try openedReader()
        do throws(VaultError) {
            let value = try body(reader)
            state.withLock { $0.problem = nil }
            return value
        } catch {
            note(error.description, isAway: Self.mayPass(error))
            if Self.mayPass(error) { throw Away() }
            throw error
        }
    }

    /// Whatever keeps the vault from being opened may be mended while the disk is served. Asked once in a while, not by every read.
    private func openedReader() throws -> PointReader {
        try opening.withLock { _ in
            let (reader, awayAt, problem) = state.withLock { ($0.reader, $0.awayAt, $0.problem) }
            if let reader { return reader }
            if let awayAt, problem != nil, Clock.monotonicNanoseconds() - awayAt < UInt64(Self.retryMilliseconds) * 1_000_000 { throw Away() }
            do {
                let opened = try open()
                state.withLock {
                    $0.reader = opened
                    $0.awayAt = nil
                }
                return opened
            } catch {
                note("\(error)", isAway: true)
                state.withLock { $0.awayAt = Clock.monotonicNanoseconds() }
                throw Away()
            }
        }
    }

    /// The target does not answer as it should: it is asked again. What is lost or damaged there is not.
    private static func mayPass(_ error: VaultError) -> Bool {
        switch error {
        case .store, .noVault: true
        default: error.isRecoverable
        }
    }

    private func note(_ text: String, isAway: Bool) {
        let isNew = state.withLock { state in
            state.problem = (text, isAway)
            return state.reported.count < 1_000 && state.reported.insert(text).inserted
        }
        if isNew { log("\(name): what its image lacks cannot be read from the vault: \(text)") }
    }
}
