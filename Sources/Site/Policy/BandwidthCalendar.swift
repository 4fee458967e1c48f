// How fast may be sent, or fetched, by the hour of the week: `mon-fri 08:00-18:00 20MiB, 100MiB`. The first rule that fits a moment
// counts; where none fits there is no limit. Pure: a moment is a weekday and a minute of the host's local time.

package struct BandwidthCalendar: Equatable, Sendable {
    package typealias Moment = WeeklySpan.Moment

    package struct Rule: Equatable, Sendable {
        let span: WeeklySpan
        /// Bytes in a second; nil is no limit.
        let bytesPerSecond: UInt64?
    }

    package static let bytesPerSecondMin: UInt64 = 16 << 10
    package static let rulesMax = 64

    package let rules: [Rule]

    package static let unlimited = BandwidthCalendar(rules: [])

    private init(rules: [Rule]) { self.rules = rules }

    /// `[DAYS] [HH:MM-HH:MM] RATE, …` with DAYS as `mon-fri` or `sat`, RATE as `20MiB` (a second) or `unlimited`.
    package init(_ text: String) throws(SiteError) {
        if text == "unlimited" {
            self = .unlimited
            return
        }
        var rules: [Rule] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let rule = Self.rule(part.split(separator: " ").map { $0.lowercased() }, written: part.split(separator: " ").last) else {
                throw Self.refusal("\(String(part).debugDescription) is no rule")
            }
            rules.append(rule)
        }
        if let slow = rules.compactMap(\.bytesPerSecond).min(), slow < Self.bytesPerSecondMin {
            throw Self.refusal("\(Quantity.bytesText(slow)) a second is less than \(Quantity.bytesText(Self.bytesPerSecondMin))")
        }
        guard rules.count <= Self.rulesMax else { throw Self.refusal("there are more than \(Self.rulesMax) rules") }
        self.rules = rules
    }

    /// Bytes in a second at that moment; nil when there is no limit.
    package func limit(at moment: Moment) -> UInt64? { rules.first { $0.span.includes(moment) }?.bytesPerSecond }

    private static func rule(_ words: [String], written rate: Substring?) -> Rule? {
        guard let rate, (1...3).contains(words.count) else { return nil }
        let bytes: UInt64? = rate.lowercased() == "unlimited" ? nil : Quantity.bytes(rate)
        guard bytes != nil || rate.lowercased() == "unlimited" else { return nil }
        return WeeklySpan(words.dropLast()).map { Rule(span: $0, bytesPerSecond: bytes) }
    }

    private static func refusal(_ reason: String) -> SiteError {
        SiteError(
            .policyWrong, "the bandwidth is refused: \(reason)",
            remedy: "[DAYS] [HH:MM-HH:MM] RATE, … such as \"mon-fri 08:00-18:00 20MiB, 100MiB\", with rates in bytes a second, or unlimited")
    }
}

extension BandwidthCalendar {
    package var text: String { rules.isEmpty ? "unlimited" : rules.map(\.text).joined(separator: ", ") }
}

extension BandwidthCalendar.Rule {
    var text: String { (span.words + [bytesPerSecond.map(Quantity.bytesText) ?? "unlimited"]).joined(separator: " ") }
}
