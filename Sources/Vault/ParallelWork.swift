// The same call over many items on a few threads of our own: requests wait for the target, not for this CPU.

import Foundation
import Synchronization

/// Calls `body` for each item, `threads` at a time, and returns when all calls are done. `body` reports its own errors.
package func forEachInParallel<Item: Sendable>(_ items: [Item], threads: Int, _ body: @escaping @Sendable (Item) -> Void) {
    let next = Mutex(0)
    let running = NSCondition()
    let count = min(threads, items.count)
    let alive = Mutex(count)
    for _ in 0..<count {
        let thread = Thread {
            while let index = next.withLock({ next -> Int? in
                guard next < items.count else { return nil }
                next += 1
                return next - 1
            }) {
                body(items[index])
            }
            running.lock()
            alive.withLock { $0 -= 1 }
            running.broadcast()
            running.unlock()
        }
        thread.stackSize = 1 << 20
        thread.start()
    }
    running.lock()
    while alive.withLock({ $0 }) > 0 { running.wait() }
    running.unlock()
}

/// The results of `body` in the order of `items`; the first error once all calls that began are done.
func mapInParallel<Item: Sendable, Value: Sendable>(
    _ items: [Item], threads: Int, _ body: @escaping @Sendable (Item) throws(VaultError) -> Value
) throws(VaultError) -> [Value] {
    let outcome = Mutex<(values: [Int: Value], failure: VaultError?)>(([:], nil))
    forEachInParallel(Array(items.enumerated()), threads: threads) { number, item in
        guard outcome.withLock({ $0.failure == nil }) else { return }
        do throws(VaultError) {
            let value = try body(item)
            outcome.withLock { $0.values[number] = value }
        } catch {
            outcome.withLock { $0.failure = $0.failure ?? error }
        }
    }
    let result = outcome.withLock { $0 }
    if let failure = result.failure { throw failure }
    return items.indices.compactMap { result.values[$0] }
}
