// The regions of a restore and who works on which. The threads take regions; the caller's thread waits, notes and
// reports.

import BlockIO

final class RestoreWork: @unchecked Sendable {
    // Sendable: everything below `monitor` is only touched while it is locked.

    private let monitor = Monitor()
    private let progressed = Signal()
    private let regions: UInt64
    private var finished: RegionSet
    private var next: UInt64 = 0
    private var running = 0
    private var written: UInt64 = 0
    private var error: RestoreError?

    init(done: RegionSet, regions: UInt64) {
        finished = done
        self.regions = regions
    }

    var done: RegionSet { locked { finished } }
    var doneCount: UInt64 { locked { finished.count } }
    var writtenBytes: UInt64 { locked { written } }
    var failure: RestoreError? { locked { error } }

    func stop(_ reason: RestoreError) {
        locked { error = error ?? reason }
    }

    /// What was found in a region: bytes written, and the next region that may hold data, past a hole.
    struct Found {
        let writtenBytes: UInt64
        let nextRegion: UInt64
    }

    /// Takes regions until none is left or something failed.
    func runThread(_ copy: (UInt64) throws(RestoreError) -> Found) {
        while let region = take() {
            let result: Result<Found, RestoreError>
            do throws(RestoreError) { result = .success(try copy(region)) } catch { result = .failure(error) }
            locked {
                running -= 1
                switch result {
                case .success(let found):
                    finished.insert(region..<max(region + 1, min(found.nextRegion, regions)))
                    written += found.writtenBytes
                case .failure(let failure):
                    error = error ?? failure
                }
                progressed.wakeAll()
            }
        }
    }

    private func take() -> UInt64? {
        locked {
            next = finished.firstMissing(from: next)
            guard error == nil, next < regions else { return nil }
            next += 1
            running += 1
            return next - 1
        }
    }

    /// Waits a little; false when all is done, or when something failed and no thread is at work any more.
    func waitForProgress(milliseconds: Int) -> Bool {
        locked {
            let isOver = error == nil ? finished.count == regions && running == 0 : running == 0
            guard !isOver else { return false }
            monitor.wait(for: progressed, milliseconds: milliseconds)
            return true
        }
    }

    private func locked<Value>(_ body: () -> Value) -> Value {
        monitor.lock()
        defer { monitor.unlock() }
        return body()
    }
}
