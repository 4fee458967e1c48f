// Swift closures as threads of the simulated machine, and the run's own dice.

import SimulatedSystem

private final class Body {
    let call: () -> Void
    init(_ call: @escaping () -> Void) { self.call = call }
}

/// Runs `body` as a thread of `process`.
func spawn(process: UInt32, _ body: @escaping () -> Void) {
    simulated_spawn(process, { Unmanaged<Body>.fromOpaque($0!).takeRetainedValue().call() }, Unmanaged.passRetained(Body(body)).toOpaque())
}

/// Waits until `condition` holds; false when `isOver` came first.
func wait(until condition: () -> Bool, unless isOver: () -> Bool) -> Bool {
    var nanoseconds: UInt64 = 20_000
    while !condition() {
        if isOver() { return false }
        simulated_sleep(nanoseconds)
        nanoseconds = min(2 * nanoseconds, 20_000_000)
    }
    return !isOver()
}

/// Dice that follow the run's seed.
enum Dice {
    static func below(_ limit: Int) -> Int { Int(simulated_random() % UInt64(limit)) }
    static func chance(_ count: Int, in total: Int) -> Bool { below(total) < count }
    static func pick<T>(_ list: [T]) -> T { list[below(list.count)] }
}
