// A point as a person names it: latest, latest-processed, latest-app-consistent, a time, a tag, #sequence or a number.

import Foundation
package import Vault

package enum PointName: Equatable, Sendable {
    case latest
    case latestProcessed
    case latestAppConsistent
    case sequence(UInt64)
    case time(micros: UInt64)
    case tag(String)

    /// Nil for an empty name and for point choices that need groups of machines.
    package init?(_ text: String) {
        switch text {
        case "latest": self = .latest
        case "latest-processed": self = .latestProcessed
        case "latest-app-consistent": self = .latestAppConsistent
        case "", "latest-multi", "latest-multi-app-consistent": return nil
        default:
            let digits = text.hasPrefix("#") ? text.dropFirst() : text[...]
            if let sequence = UInt64(digits) {
                self = .sequence(sequence)
            } else if let micros = Self.micros(text) {
                self = .time(micros: micros)
            } else if text.hasPrefix("#") {
                return nil
            } else {
                self = .tag(text)
            }
        }
    }

    /// RFC 3339, with or without a fraction of a second.
    private static func micros(_ text: String) -> UInt64? {
        guard text.count >= 20, text.contains("T") || text.contains("t") || text.contains(" ") else { return nil }
        let normal = text.uppercased().replacingOccurrences(of: " ", with: "T")
        for includesFraction in [false, true] {
            let style = Date.ISO8601FormatStyle(includingFractionalSeconds: includesFraction)
            guard let date = try? style.parse(normal) else { continue }
            let seconds = date.timeIntervalSince1970
            return seconds < 0 ? 0 : UInt64((seconds * 1_000_000).rounded())
        }
        return nil
    }
}

extension DiskHistory {
    /// The sequence that `name` stands for now.
    package func resolve(_ name: PointName) throws(VaultError) -> UInt64 {
        switch name {
        case .latest: return newestSequence
        case .latestProcessed: return checkpointSequence
        case .sequence(let sequence): return try opened(at: sequence)
        case .latestAppConsistent:
            guard let point = try newestPoint(where: { $0.kind == .app }) else { throw .notFound("the disk has no app-consistent point") }
            return point.sequence
        case .tag(let tag):
            guard let point = try newestPoint(where: { $0.tag == tag }) else { throw .notFound("the disk has no point tagged \(tag)") }
            return point.sequence
        case .time(let micros): return try newest(atOrBefore: micros)
        }
    }
}
