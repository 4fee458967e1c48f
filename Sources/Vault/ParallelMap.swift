// Results of many requests made a few at a time.

import BlockIO
import Synchronization

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
