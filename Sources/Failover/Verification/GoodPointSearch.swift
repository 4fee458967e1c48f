// Finds the newest good point of a history where good ones are followed by bad ones: by halves, and from what was probed before. Pure.
// The oldest points need not be good: a disk that was not in use yet has nothing that a check could find.

package struct GoodPointSearch {
    package enum Step: Equatable, Sendable {
        /// Find out about the point of this index.
        case probe(Int)
        /// The newest good point, and the oldest bad one behind it; where all that were probed are of one kind the other is nil.
        case found(newestGood: Int?, oldestBad: Int?)
    }

    /// So many points are looked at for a good one where both ends are bad, evenly spread over what lies between.
    package static let spreadMax = 62

    /// Points, oldest first.
    package let count: Int
    private var probed: [Int: Bool] = [:]

    package init(count: Int) { self.count = count }

    package mutating func note(_ point: Int, isGood: Bool) { probed[point] = isGood }

    /// How many of the points were probed.
    package var probedCount: Int { probed.count }

    package var step: Step {
        guard count > 0 else { return .found(newestGood: nil, oldestBad: nil) }
        guard let newest = probed[count - 1] else { return .probe(count - 1) }
        if newest { return .found(newestGood: count - 1, oldestBad: nil) }
        guard var good = probed.filter({ $0.value }).keys.max() else {
            guard probed[0] != nil else { return .probe(0) }
            return spread.first { probed[$0] == nil }.map { .probe($0) } ?? .found(newestGood: nil, oldestBad: probed.keys.min())
        }
        var bad = probed.filter { !$0.value && $0.key > good }.keys.min() ?? count - 1
        while bad - good > 1 {
            let middle = (good + bad) / 2
            guard let isGood = probed[middle] else { return .probe(middle) }
            if isGood { good = middle } else { bad = middle }
        }
        return .found(newestGood: good, oldestBad: bad)
    }

    /// Those half-way first, then those at the quarters, and so on.
    private var spread: [Int] {
        var (found, known): ([Int], Set<Int>) = ([], [0, count - 1])
        var parts = 2
        while found.count < Self.spreadMax, known.count < count {
            for part in stride(from: 1, to: parts, by: 2) where found.count < Self.spreadMax {
                let point = (count - 1) * part / parts
                if known.insert(point).inserted { found.append(point) }
            }
            parts *= 2
        }
        return found
    }

    /// Probes that are still needed, at most.
    package var probesLeft: Int {
        guard case .probe(let next) = step else { return 0 }
        guard let good = probed.filter({ $0.value }).keys.max() else {
            let ends = Set([0, count - 1]).filter { probed[$0] == nil }.count
            return ends + spread.filter { probed[$0] == nil }.count + Self.halvings(count)
        }
        if next == count - 1 { return 1 + Self.halvings(count - good) }
        return Self.halvings((probed.filter { !$0.value && $0.key > good }.keys.min() ?? count - 1) - good + 1)
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
