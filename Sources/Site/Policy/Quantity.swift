// Spans of time, sizes and rates as a person writes them, the same everywhere: `30s`, `2h`, `15d`; `20MiB`, `4G`.

package enum Quantity {
    private static let spanUnits: [(String, UInt64)] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)]
    private static let byteUnits: [(String, UInt64)] = [
        ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000),
        ("kB", 1_000), ("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("B", 1),
    ]

    package static let byteChoices = "bytes, or with KiB, MiB, GiB or TiB (K, M, G and T mean the same), or kB, MB, GB or TB"

    /// Seconds; a number without a unit is seconds.
    package static func seconds(_ text: some StringProtocol) -> UInt64? { number(text, spanUnits) }

    /// Bytes; a number without a unit is bytes.
    package static func bytes(_ text: some StringProtocol) -> UInt64? { number(text, byteUnits) }

    /// In the largest unit that gives a whole number.
    package static func spanText(seconds: UInt64) -> String { written(seconds, spanUnits) }

    package static func bytesText(_ bytes: UInt64) -> String { written(bytes, byteUnits.filter { $0.0.hasSuffix("iB") || $0.0 == "B" }) }

    private static func number(_ text: some StringProtocol, _ units: [(String, UInt64)]) -> UInt64? {
        let unit = units.first { text.hasSuffix($0.0) }
        let digits = text.dropLast(unit?.0.count ?? 0)
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let count = UInt64(digits) else { return nil }
        let (product, overflow) = count.multipliedReportingOverflow(by: unit?.1 ?? 1)
        return overflow ? nil : product
    }

    private static func written(_ value: UInt64, _ units: [(String, UInt64)]) -> String {
        let unit = units.first { value > 0 && value % $0.1 == 0 } ?? units[units.count - 1]
        return "\(value / unit.1)\(unit.0)"
    }
}
