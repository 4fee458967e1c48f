// A few threads that fetch ahead. Work that does not fit into the queue is dropped: it was only a guess.

import BlockIO
import Foundation

package final class PrefetchThreads: @unchecked Sendable {
    // Sendable: everything below `condition` is only touched while it is locked.

    package static let threadsMax = 8
    static let queueMax = 64

    private let condition = NSCondition()
    private var jobs: [@Sendable () -> Void] = []
    private var idle = 0
    private var threads: [OwnThread] = []
    private var isClosed = false

    package init() {}

    /// False when the queue is full.
    @discardableResult
    func submit(_ job: @escaping @Sendable () -> Void) -> Bool {
        condition.lock()
        defer { condition.unlock() }
        guard !isClosed, jobs.count < Self.queueMax else { return false }
        jobs.append(job)
        // Where no thread can be had the guess waits for one that is there, or for none.
        if idle == 0, threads.count < Self.threadsMax, let thread = try? OwnThread(name: "prefetch", { [self] in work() }) {
            threads.append(thread)
        } else {
            condition.signal()
        }
        return true
    }

    /// Ends the threads, and returns when their present jobs are done; jobs still waiting are dropped.
    package func close() {
        condition.lock()
        isClosed = true
        jobs.removeAll()
        let ending = threads
        threads = []
        condition.broadcast()
        condition.unlock()
        for thread in ending { thread.join() }
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
        condition.unlock()
    }
}
