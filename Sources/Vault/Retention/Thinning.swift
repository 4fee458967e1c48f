// Which points stay. Pure: of points and times, nothing of the vault.

/// Time as retention counts it: along the points, never backwards and never by more than a day from one point to the
/// next. A clock that is set back or forward by years then makes points stay longer, and none go sooner.
package struct RetentionTime: Equatable, Sendable {
    package static let stepMicrosMax: UInt64 = 86_400_000_000

    package private(set) var elapsedMicros: UInt64
    private var timeMicros: UInt64

    /// At a point with that time.
    package init(timeMicros: UInt64, elapsedMicros: UInt64? = nil) {
        self.timeMicros = timeMicros
        self.elapsedMicros = elapsedMicros ?? timeMicros
    }

    /// Goes on to the next point.
    package mutating func advance(to timeMicros: UInt64) {
        let step = timeMicros > self.timeMicros ? timeMicros - self.timeMicros : 0
        elapsedMicros = min(elapsedMicros + min(step, Self.stepMicrosMax), FormatLimits.integerMax)
        self.timeMicros = timeMicros
    }
}

package struct Thinning: Equatable, Sendable {
    package struct Rule: Equatable, Sendable {
        /// One point of each such stretch of time stays; 0: all.
        package let periodMicros: UInt64
        /// So far back from the newest point.
        package let spanMicros: UInt64

        package init(periodSeconds: UInt64, spanSeconds: UInt64) {
            periodMicros = periodSeconds * 1_000_000
            spanMicros = spanSeconds * 1_000_000
        }
    }

    package struct Candidate: Equatable, Sendable {
        package let sequence: UInt64
        package let elapsedMicros: UInt64

        package init(sequence: UInt64, elapsedMicros: UInt64) {
            self.sequence = sequence
            self.elapsedMicros = elapsedMicros
        }
    }

    /// A point stays when any of them asks for it.
    package let rules: [Rule]

    package init(rules: [Rule]) { self.rules = rules }

    /// Up to this age everything stays.
    package var wholeMicros: UInt64 { rules.filter { $0.periodMicros == 0 }.map(\.spanMicros).max() ?? 0 }

    /// The sequences that stay of `points`, which rise, `newest` being the time of the newest point of all. Of each stretch of time the first
    /// point stays, as long as any part of the stretch is inside the rule's span: whoever goes through the same points in
    /// several steps ends with the same ones.
    package func kept(_ points: [Candidate], newestMicros newest: UInt64) -> Set<UInt64> {
        var kept: Set<UInt64> = []
        if let last = points.last { kept.insert(last.sequence) }
        for rule in rules {
            var stretch: UInt64?
            for point in points {
                let own = rule.periodMicros == 0 ? point.elapsedMicros : point.elapsedMicros / rule.periodMicros
                if rule.periodMicros > 0, own == stretch { continue }
                stretch = own
                let end = rule.periodMicros == 0 ? point.elapsedMicros : (own + 1) * rule.periodMicros - 1
                if end + rule.spanMicros >= newest { kept.insert(point.sequence) }
            }
        }
        return kept
    }
}
