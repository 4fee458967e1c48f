// The same call over many items on a few threads of our own: requests wait for the target, not for this CPU.

import Synchronization

/// Calls `body` for each item, `threads` at a time, and returns when all calls are done. `body` reports its own errors.
/// The caller's thread is one of them, so a thread that cannot be had costs time only.
package func forEachInParallel<Item: Sendable>(_ items: [Item], threads: Int, _ body: @escaping @Sendable (Item) -> Void) {
    let next = Mutex(0)
    let work: @Sendable () -> Void = {
        while let index = next.withLock({ next -> Int? in
            guard next < items.count else { return nil }
            next += 1
            return next - 1
        }) {
            body(items[index])
        }
    }
    var others: [OwnThread] = []
    while others.count + 1 < min(threads, items.count), let thread = try? OwnThread(name: "parallel", work) { others.append(thread) }
    work()
    for thread in others { thread.join() }
}
