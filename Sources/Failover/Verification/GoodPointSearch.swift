// Finds the newest good point of a history where good ones are followed by bad ones: by halves, and from what was probed before. Pure.

package struct GoodPointSearch {
    package enum Step: Equatable, Sendable {
        /// Find out about the point of this index.
        case probe(Int)
        /// The newest good point, and the oldest bad one behind it; where all are of one kind the other is nil.
        case found(newestGood: Int?, oldestBad: Int?)
    }

    /// Points, oldest first.
    package let count: Int
    private var probed: [Int: Bool] = [:]

    package init(count: Int) { self.count = count }

    package mutating func note(_ point: Int, isGood: Bool) { probed[point] = isGood }

    package var step: Step {
        guard count > 0 else { return .found(newestGood: nil, oldestBad: nil) }
        guard let newest = probed[count - 1] else { return .probe(count - 1) }
        if newest { return .found(newestGood: count - 1, oldestBad: nil) }
        guard let oldest = probed[0] else { return .probe(0) }
        guard oldest else { return .found(newestGood: nil, oldestBad: 0) }
        var (good, bad) = (0, count - 1)
        while bad - good > 1 {
            let middle = (good + bad) / 2
            guard let isGood = probed[middle] else { return .probe(middle) }
            if isGood { good = middle } else { bad = middle }
        }
        return .found(newestGood: good, oldestBad: bad)
    }

    /// Probes that are still needed, at most.
    package var probesLeft: Int {
        guard case .probe(let next) = step else { return 0 }
        if probed[count - 1] == nil || probed[0] == nil { return next == 0 ? 1 + Self.halvings(count) : 2 + Self.halvings(count) }
        let (good, bad) = (probed.filter { $0.value && $0.key < next }.keys.max() ?? 0, probed.filter { !$0.value && $0.key > next }.keys.min() ?? count - 1)
        return Self.halvings(bad - good + 1)
    }

    private static func halvings(_ count: Int) -> Int {
        var (left, steps) = (count - 1, 0)
        while left > 1 {
            left = (left + 1) / 2
            steps += 1
        }
        return steps
    }
}
