// Sizes, times and spans as text for people; JSON carries the numbers themselves.

import ArgumentParser
import Foundation
import Site

/// A size given as an argument.
@Sendable func byteCount(_ text: String) throws -> UInt64 {
    guard let bytes = Quantity.bytes(text) else { throw ValidationError("\(text.debugDescription) is no size: \(Quantity.byteChoices)") }
    return bytes
}

func bytesText(_ bytes: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    var value = Double(bytes)
    var unit = 0
    while value >= 1024, unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    return unit == 0 ? "\(bytes) B" : String(format: value < 10 ? "%.1f %@" : "%.0f %@", value, units[unit])
}

/// `2026-11-21T09:30:00.123Z`
func timeText(nanoseconds: UInt64) -> String {
    let seconds = nanoseconds / 1_000_000_000
    let whole = Date(timeIntervalSince1970: Double(seconds)).formatted(.iso8601)
    return String(format: "%@.%03dZ", String(whole.dropLast()), Int(nanoseconds / 1_000_000 % 1000))
}

/// With microseconds, the precision in which a vault names points: given as `--at` it means the same point again.
func pointTimeText(nanoseconds: UInt64) -> String {
    String(format: "%@%03dZ", String(timeText(nanoseconds: nanoseconds).dropLast()), Int(nanoseconds / 1000 % 1000))
}

/// `4.2 s`, `3:05`, `2:03:05`, `3 d 04:00`
func durationText(seconds: Double) -> String {
    guard seconds.isFinite, seconds < 1e9 else { return "unknown" }
    if seconds < 60 { return String(format: "%.1f s", seconds) }
    let whole = Int(seconds.rounded())
    if whole < 3600 { return String(format: "%d:%02d", whole / 60, whole % 60) }
    if whole < 86400 { return String(format: "%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60) }
    return String(format: "%d d %02d:%02d", whole / 86400, whole / 3600 % 24, whole / 60 % 60)
}

/// In one line of at most so many letters. What programs say last is most often the reason, so more is kept of the end.
func cutText(_ text: String, _ lettersMax: Int) -> String {
    let line = text.split(whereSeparator: { $0.isWhitespace || $0.isNewline }).joined(separator: " ")
    guard line.count > lettersMax, lettersMax > 3 else { return line }
    let head = (lettersMax - 3) / 3
    return line.prefix(head) + " … " + line.suffix(lettersMax - 3 - head)
}

/// Columns padded to their widest cell; numbers are the caller's text.
func tableText(_ rows: [[String]]) -> String {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in rows.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0 }
    return rows.map { row in
        let cells = row.enumerated().map { $0.offset == row.count - 1 ? $0.element : $0.element.padding(toLength: widths[$0.offset], withPad: " ", startingAt: 0) }
        return cells.joined(separator: "  ")
    }.joined(separator: "\n")
}

func shellQuoted(_ text: String) -> String { "'" + text.replacingOccurrences(of: "'", with: "'\\''") + "'" }

/// A word of a command as a shell takes it: quoted where it has to be.
func shellWord(_ text: String) -> String { !text.isEmpty && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_./:=,@%+".contains($0)) } ? text : shellQuoted(text) }
