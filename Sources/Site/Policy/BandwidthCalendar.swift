// How fast may be sent, by the hour of the week: `mon-fri 08:00-18:00 20MiB, 100MiB`. The first rule that fits a moment
// counts; where none fits there is no limit. Pure: a moment is a weekday and a minute of the host's local time.

package struct BandwidthCalendar: Equatable, Sendable {
    package struct Moment: Equatable, Sendable {
        /// 0 is Monday.
        package let weekday: Int
        /// Of the day, from 0 to 1,439.
        package let minute: Int

        package init(weekday: Int, minute: Int) {
            self.weekday = weekday
            self.minute = minute
        }
    }

    package struct Rule: Equatable, Sendable {
        /// Days on which it begins, bit 0 is Monday.
        let days: UInt8
        /// Minutes of the day; `end` at or before `start` lies on the next day.
        let start: Int
        let end: Int
        /// Bytes in a second; nil is no limit.
        let bytesPerSecond: UInt64?

        func includes(_ moment: Moment) -> Bool {
            if start < end { return begins(on: moment.weekday) && (start..<end).contains(moment.minute) }
            return begins(on: moment.weekday) && moment.minute >= start || begins(on: (moment.weekday + 6) % 7) && moment.minute < end
        }

        func begins(on weekday: Int) -> Bool { days & 1 << UInt8(weekday) != 0 }
    }

    package static let bytesPerSecondMin: UInt64 = 16 << 10
    package static let rulesMax = 64
    static let dayNames = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    private static let dayMinutes = 1_440

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
    package func limit(at moment: Moment) -> UInt64? { rules.first { $0.includes(moment) }?.bytesPerSecond }

    private static func rule(_ words: [String], written rate: Substring?) -> Rule? {
        guard let rate, (1...3).contains(words.count) else { return nil }
        let bytes: UInt64? = rate.lowercased() == "unlimited" ? nil : Quantity.bytes(rate)
        guard bytes != nil || rate.lowercased() == "unlimited" else { return nil }
        var (days, times): (UInt8, (Int, Int)) = (0x7F, (0, dayMinutes))
        var left = words.dropLast()
        if let first = left.first, let named = self.days(first) {
            days = named
            left = left.dropFirst()
        }
        if let next = left.first {
            guard left.count == 1, let named = self.times(next) else { return nil }
            times = named
        }
        return Rule(days: days, start: times.0, end: times.1, bytesPerSecond: bytes)
    }

    private static func days(_ word: String) -> UInt8? {
        let ends = word.split(separator: "-", omittingEmptySubsequences: false).map { dayNames.firstIndex(of: String($0)) }
        guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1] else { return nil }
        let count = (last - first + 7) % 7
        return (0...count).reduce(0) { $0 | 1 << UInt8((first + $1) % 7) }
    }

    private static func times(_ word: String) -> (Int, Int)? {
        let ends = word.split(separator: "-", omittingEmptySubsequences: false).map { minute($0) }
        guard ends.count == 2, let start = ends[0], let end = ends[1], start != end, start < dayMinutes else { return nil }
        return (start, end)
    }

    private static func minute(_ text: Substring) -> Int? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, parts.allSatisfy({ $0.count == 2 }), let hour = Int(parts[0]), let minute = Int(parts[1]), (0...59).contains(minute) else { return nil }
        let all = hour * 60 + minute
        return (0...dayMinutes).contains(all) ? all : nil
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
    var text: String {
        var words: [String] = []
        if days != 0x7F { words.append(daysText) }
        if (start, end) != (0, 1_440) { words.append("\(Self.clock(start))-\(Self.clock(end))") }
        return (words + [bytesPerSecond.map(Quantity.bytesText) ?? "unlimited"]).joined(separator: " ")
    }

    /// Rules come from one range of days.
    private var daysText: String {
        let names = BandwidthCalendar.dayNames
        let first = (0..<7).first { begins(on: $0) && !begins(on: ($0 + 6) % 7) } ?? 0
        let last = (first + days.nonzeroBitCount - 1) % 7
        return first == last ? names[first] : "\(names[first])-\(names[last])"
    }

    private static func clock(_ minute: Int) -> String {
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return two(minute / 60) + ":" + two(minute % 60)
    }
}
