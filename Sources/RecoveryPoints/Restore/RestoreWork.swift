// The regions of a restore and who works on which. The threads take regions; the caller's thread waits, notes and
// reports.

import Foundation

final class RestoreWork: @unchecked Sendable {
    // Sendable: everything below `condition` is only touched while it is locked.

    private let condition = NSCondition()
    private let regions: UInt64
    private var finished: Set<UInt64>
    private var next: UInt64 = 0
    private var running = 0
    private var written: UInt64 = 0
    private var error: RestoreError?

    init(done: Set<UInt64>, regions: UInt64) {
        finished = done
        self.regions = regions
    }

    var done: Set<UInt64> { locked { finished } }
    var doneCount: UInt64 { locked { UInt64(finished.count) } }
    var writtenBytes: UInt64 { locked { written } }
    var failure: RestoreError? { locked { error } }

    func stop(_ reason: RestoreError) {
        locked { error = error ?? reason }
    }

    /// Takes regions until none is left or something failed.
    func runThread(_ copy: (UInt64) throws(RestoreError) -> UInt64) {
        while let region = take() {
            let result: Result<UInt64, RestoreError>
            do throws(RestoreError) { result = .success(try copy(region)) } catch { result = .failure(error) }
            locked {
                running -= 1
                switch result {
                case .success(let bytes):
                    finished.insert(region)
                    written += bytes
                case .failure(let failure):
                    error = error ?? failure
                }
                condition.broadcast()
            }
        }
    }

    private func take() -> UInt64? {
        locked {
            while next < regions, finished.contains(next) { next += 1 }
            guard error == nil, next < regions else { return nil }
            next += 1
            running += 1
            return next - 1
        }
    }

    /// Waits a little; false when all is done, or when something failed and no thread is at work any more.
    func waitForProgress(milliseconds: Int) -> Bool {
        locked {
            let isOver = error == nil ? UInt64(finished.count) == regions : running == 0
            guard !isOver else { return false }
            _ = condition.wait(until: Date(timeIntervalSinceNow: Double(milliseconds) / 1000))
            return true
        }
    }

    private func locked<Value>(_ body: () -> Value) -> Value {
        condition.lock()
        defer { condition.unlock() }
        return body()
    }
}
