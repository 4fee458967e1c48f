// A few threads that fetch ahead. Work that does not fit into the queue is dropped: it was only a guess.

import Foundation

package final class PrefetchThreads: @unchecked Sendable {
    // Sendable: everything below `condition` is only touched while it is locked.

    package static let threadsMax = 8
    static let queueMax = 64

    private let condition = NSCondition()
    private var jobs: [@Sendable () -> Void] = []
    private var idle = 0
    private var threads = 0
    private var isClosed = false

    package init() {}

    /// False when the queue is full.
    @discardableResult
    func submit(_ job: @escaping @Sendable () -> Void) -> Bool {
        condition.lock()
        defer { condition.unlock() }
        guard !isClosed, jobs.count < Self.queueMax else { return false }
        jobs.append(job)
        if idle == 0, threads < Self.threadsMax {
            threads += 1
            let thread = Thread { [self] in work() }
            thread.name = "prefetch"
            thread.start()
        } else {
            condition.signal()
        }
        return true
    }

    /// Ends the threads once their present jobs are done; jobs still waiting are dropped.
    package func close() {
        condition.lock()
        isClosed = true
        jobs.removeAll()
        condition.broadcast()
        condition.unlock()
    }

    private func work() {
        condition.lock()
        while !isClosed {
            guard !jobs.isEmpty else {
                idle += 1
                condition.wait()
                idle -= 1
                continue
            }
            let job = jobs.removeFirst()
            condition.unlock()
            job()
            condition.lock()
        }
        threads -= 1
        condition.unlock()
    }
}
