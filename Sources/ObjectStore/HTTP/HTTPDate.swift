// Dates as targets write them: the `Date` header (Sat, 21 Nov 2026 09:57:01 GMT), S3's `x-amz-date` (20261121T095701Z)
// and RFC 3339 (2026-11-21T09:57:01Z), as seconds since 1970. The calendar is Howard Hinnant's days-from-civil, good for all years of interest.

package struct HTTPDate {
    let year, month, day, hour, minute, second: Int

    package init(secondsSince1970 seconds: Int) {
        var days = seconds / 86_400
        var rest = seconds % 86_400
        if rest < 0 { (days, rest) = (days - 1, rest + 86_400) }
        (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60)
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    }

    /// Nil unless the text is an RFC 9110 IMF-fixdate.
    package init?(header: String) {
        let words = header.split(separator: " ")
        guard words.count == 6, words[5] == "GMT", let day = Self.number(words[1], 1...31), let month = Self.months.firstIndex(of: String(words[2])),
            let year = Self.number(words[3], 1970...9999)
        else { return nil }
        let clock = words[4].split(separator: ":")
        guard clock.count == 3, let hour = Self.number(clock[0], 0...23), let minute = Self.number(clock[1], 0...59),
            let second = Self.number(clock[2], 0...60)
        else { return nil }
        (self.year, self.month, self.day, self.hour, self.minute, self.second) = (year, month + 1, day, hour, minute, second)
    }

    /// Of `2026-11-21T09:57:01Z`; a fraction of a second (`….285Z`) is left out. Nil for anything else.
    package init?(rfc3339: String) {
        let text = Array(rfc3339.utf8)
        guard text.count >= 20, text.last == UInt8(ascii: "Z"), text.count == 20 || text[19] == UInt8(ascii: ".") else { return nil }
        for (place, mark) in [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")] where text[place] != mark.utf8.first { return nil }
        func part(_ range: Range<Int>, _ allowed: ClosedRange<Int>) -> Int? { Self.number(Substring(decoding: text[range], as: UTF8.self), allowed) }
        guard let year = part(0..<4, 1970...9999), let month = part(5..<7, 1...12), let day = part(8..<10, 1...31), let hour = part(11..<13, 0...23),
            let minute = part(14..<16, 0...59), let second = part(17..<19, 0...60)
        else { return nil }
        (self.year, self.month, self.day, self.hour, self.minute, self.second) = (year, month, day, hour, minute, second)
    }

    package var secondsSince1970: Int {
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = (shiftedYear >= 0 ? shiftedYear : shiftedYear - 399) / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return (era * 146_097 + dayOfEra - 719_468) * 86_400 + hour * 3600 + minute * 60 + second
    }

    /// `20261121`
    var day8: String { digits(year, 4) + digits(month, 2) + digits(day, 2) }
    /// `20261121T095701Z`
    package var stamp: String { "\(day8)T\(digits(hour, 2))\(digits(minute, 2))\(digits(second, 2))Z" }
    /// `2026-11-21 09:57:01 UTC`, for people.
    package var readable: String { "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2)) \(digits(hour, 2)):\(digits(minute, 2)):\(digits(second, 2)) UTC" }

    /// `2026-11-21T09:57:01Z`
    var rfc3339: String { "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))T\(digits(hour, 2)):\(digits(minute, 2)):\(digits(second, 2))Z" }
    /// `Sat, 21 Nov 2026 09:57:01 GMT`
    package var header: String {
        let time = "\(digits(hour, 2)):\(digits(minute, 2)):\(digits(second, 2))"
        // 1 January 1970 was a Thursday.
        let dayName = Self.days[(secondsSince1970 / 86_400 % 7 + 11) % 7]
        return "\(dayName), \(digits(day, 2)) \(Self.months[month - 1]) \(digits(year, 4)) \(time) GMT"
    }

    private static let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    private static func number(_ text: Substring, _ range: ClosedRange<Int>) -> Int? {
        guard let value = Int(text), range.contains(value) else { return nil }
        return value
    }

    private func digits(_ value: Int, _ count: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, count - text.count)) + text
    }
}
