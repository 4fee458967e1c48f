// A point as a person names it: latest, latest-processed, latest-app-consistent, a time, a tag, #sequence or a number.

import Foundation
package import Vault

package enum PointName: Equatable, Sendable {
    case latest
    case latestProcessed
    case latestAppConsistent
    /// The newest point that all disks of the group have.
    case latestMulti
    case latestMultiAppConsistent
    case sequence(UInt64)
    case time(micros: UInt64)
    case tag(String)

    package static let choices = "latest, latest-processed, latest-app-consistent, latest-multi, latest-multi-app-consistent, an RFC 3339 time (the newest cut point or flush boundary at or before it), a tag, #sequence or a number"

    /// Nil for an empty name.
    package init?(_ text: String) {
        switch text {
        case "latest": self = .latest
        case "latest-processed": self = .latestProcessed
        case "latest-app-consistent": self = .latestAppConsistent
        case "latest-multi": self = .latestMulti
        case "latest-multi-app-consistent": self = .latestMultiAppConsistent
        case "": return nil
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
    /// The sequence that `name` stands for now, where it needs only this disk.
    package func resolve(_ name: PointName) throws(VaultError) -> UInt64 {
        switch name {
        case .latest: return newestSequence
        case .latestProcessed: return checkpointSequence
        case .sequence(let sequence): return try opened(at: sequence)
        case .latestAppConsistent:
            guard let point = try newestPoint(where: { $0.kind == .app }) else { throw .notFound("the disk has no app-consistent point") }
            return point.sequence
        case .latestMulti, .latestMultiAppConsistent: throw .notFound("the disk shares its points with no other disk")
        case .tag(let tag):
            guard let point = try newestPoint(where: { $0.tag == tag }) else { throw .notFound("the disk has no point tagged \(tag)") }
            return point.sequence
        case .time(let micros): return try newest(atOrBefore: micros)
        }
    }
}

extension SharedPoints {
    /// The sequence that `name` stands for on `disk` now; nil when nothing of the disk is in the vault.
    package func resolve(_ name: PointName, on disk: Catalog.Disk) throws(VaultError) -> UInt64? {
        guard let history = history(of: disk.id) else { return nil }
        switch name {
        case .latestMulti where self.name != nil: return try newestOfAll("point") { _ in true }
        case .latestMultiAppConsistent where self.name != nil: return try newestOfAll("app-consistent point") { $0.kind == .app }
        default: return try history.resolve(name)
        }
    }

    private func newestOfAll(_ what: String, _ fits: (RecoveryPoint) -> Bool) throws(VaultError) -> UInt64 {
        guard let point = try newest(where: fits) else { throw .notFound("no \(what) is on all disks of \(name ?? "the group") yet") }
        return point.sequence
    }
}
