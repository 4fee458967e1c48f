// Hours of the week, as policies name them: `mon-fri 08:00-18:00`. Pure: a moment is a weekday and a minute of the host's local time.

package struct WeeklySpan: Equatable, Sendable {
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

    static let always = WeeklySpan(days: 0x7F, start: 0, end: dayMinutes)
    private static let dayNames = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    private static let dayMinutes = 1_440

    /// Days on which it begins, bit 0 is Monday.
    let days: UInt8
    /// Minutes of the day; `end` at or before `start` lies on the next day.
    let start: Int
    let end: Int

    init(days: UInt8, start: Int, end: Int) {
        self.days = days
        self.start = start
        self.end = end
    }

    /// `[DAYS] [HH:MM-HH:MM]`, in lower case; nil for words of another form.
    init?(_ words: ArraySlice<String>) {
        var left = words
        var days: UInt8 = 0x7F
        if let first = left.first, let named = Self.days(first) {
            days = named
            left = left.dropFirst()
        }
        guard let next = left.first else {
            self.init(days: days, start: 0, end: Self.dayMinutes)
            return
        }
        guard left.count == 1, let (start, end) = Self.times(next) else { return nil }
        self.init(days: days, start: start, end: end)
    }

    func includes(_ moment: Moment) -> Bool {
        if start < end { return begins(on: moment.weekday) && (start..<end).contains(moment.minute) }
        return begins(on: moment.weekday) && moment.minute >= start || begins(on: (moment.weekday + 6) % 7) && moment.minute < end
    }

    private func begins(on weekday: Int) -> Bool { days & 1 << UInt8(weekday) != 0 }

    /// None for all of the week.
    var words: [String] {
        var words: [String] = []
        if days != 0x7F { words.append(daysText) }
        if (start, end) != (0, Self.dayMinutes) { words.append("\(Self.clock(start))-\(Self.clock(end))") }
        return words
    }

    /// Spans come from one range of days.
    private var daysText: String {
        let first = (0..<7).first { begins(on: $0) && !begins(on: ($0 + 6) % 7) } ?? 0
        let last = (first + days.nonzeroBitCount - 1) % 7
        return first == last ? Self.dayNames[first] : "\(Self.dayNames[first])-\(Self.dayNames[last])"
    }

    private static func clock(_ minute: Int) -> String {
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return two(minute / 60) + ":" + two(minute % 60)
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
}

/// When something may begin by itself: `18:00-06:00, sat-sun`, `always` or `never`.
package struct WeeklyWindow: Equatable, Sendable {
    package static let spansMax = 64

    private let spans: [WeeklySpan]

    /// Outside of office hours.
    package static let nights = WeeklyWindow(spans: [WeeklySpan(days: 0x7F, start: 18 * 60, end: 6 * 60)])

    private init(spans: [WeeklySpan]) { self.spans = spans }

    package init(_ text: String) throws(SiteError) {
        switch text {
        case "always": spans = [.always]
        case "never": spans = []
        default:
            var found: [WeeklySpan] = []
            for part in text.split(separator: ",", omittingEmptySubsequences: false) {
                let words = part.split(separator: " ").map { $0.lowercased() }
                guard !words.isEmpty, let span = WeeklySpan(words[...]) else { throw Self.refusal("\(String(part).debugDescription) is no span of the week") }
                found.append(span)
            }
            guard found.count <= Self.spansMax else { throw Self.refusal("there are more than \(Self.spansMax) spans") }
            spans = found
        }
    }

    package func includes(_ moment: WeeklySpan.Moment) -> Bool { spans.contains { $0.includes(moment) } }

    package var text: String {
        if spans.isEmpty { return "never" }
        return spans.map { $0 == .always ? "always" : $0.words.joined(separator: " ") }.joined(separator: ", ")
    }

    private static func refusal(_ reason: String) -> SiteError {
        SiteError(.policyWrong, "the window is refused: \(reason)", remedy: "[DAYS] [HH:MM-HH:MM], … such as \"18:00-06:00, sat-sun\", always, or never")
    }
}
