// Which points a policy keeps, as rules like `all:2h,hourly:24h,daily:15d`: up to that age one point of each hour, and so
// on; what no rule asks for is dropped. Thinning itself is Vault's (Sources/Vault/Retention/Thinning.swift).

package struct RetentionRules: Equatable, Sendable {
    package struct Rule: Equatable, Sendable {
        /// One point of each such stretch of time; 0 keeps all of them.
        package let periodSeconds: UInt64
        /// How far back, from the newest point.
        package let spanSeconds: UInt64
    }

    package static let rulesMax = 16
    private static let periods: [(String, UInt64)] = [
        ("all", 0), ("hourly", 3_600), ("daily", 86_400), ("weekly", 604_800), ("monthly", 30 * 86_400), ("yearly", 365 * 86_400),
    ]

    /// Empty: every point is kept.
    package let rules: [Rule]

    package static let everything = RetentionRules(rules: [])
    package static let standard = RetentionRules(rules: [
        Rule(periodSeconds: 0, spanSeconds: 86_400), Rule(periodSeconds: 3_600, spanSeconds: 3 * 86_400), Rule(periodSeconds: 86_400, spanSeconds: 15 * 86_400),
    ])

    init(rules: [Rule]) { self.rules = rules }

    /// `RULE:SPAN,…`, RULE being all, hourly, daily, weekly, monthly, yearly or a span of its own (`15m`); or `forever`.
    package init(_ text: String) throws(SiteError) {
        if text == "forever" {
            self = .everything
            return
        }
        var rules: [Rule] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let words = part.split(separator: ":", omittingEmptySubsequences: false)
            guard words.count == 2, let period = Self.periods.first(where: { $0.0 == words[0] })?.1 ?? Quantity.seconds(words[0]),
                let span = Quantity.seconds(words[1]), span > 0, span <= 1 << 40, period < span
            else { throw Self.refusal("\(part.debugDescription) is no rule") }
            rules.append(Rule(periodSeconds: period, spanSeconds: span))
        }
        guard rules.count <= Self.rulesMax else { throw Self.refusal("there are more than \(Self.rulesMax) rules") }
        self.rules = rules.sorted { ($0.spanSeconds, $0.periodSeconds) < ($1.spanSeconds, $1.periodSeconds) }
    }

    /// Up to this age nothing is dropped.
    package var wholeSeconds: UInt64 { rules.isEmpty ? .max : rules.filter { $0.periodSeconds == 0 }.map(\.spanSeconds).max() ?? 0 }

    package var text: String {
        guard !rules.isEmpty else { return "forever" }
        return rules.map { rule in
            let name = Self.periods.first { $0.1 == rule.periodSeconds }?.0 ?? Quantity.spanText(seconds: rule.periodSeconds)
            return "\(name):\(Quantity.spanText(seconds: rule.spanSeconds))"
        }.joined(separator: ",")
    }

    private static func refusal(_ reason: String) -> SiteError {
        SiteError(
            .policyWrong, "the retention is refused: \(reason)",
            remedy: "RULE:SPAN,… with a rule of all, hourly, daily, weekly, monthly, yearly or a span (15m), and a longer span (2h, 15d); or forever")
    }
}
