// A point as a person names it: latest, latest-verified, latest-processed, latest-app-consistent, a time, a tag, #sequence or a number.

import Foundation
package import Vault

package enum PointName: Equatable, Sendable {
    case latest
    case latestProcessed
    case latestAppConsistent
    /// The newest point that all disks of the group have.
    case latestMulti
    case latestMultiAppConsistent
    /// The newest state that a check found good, and none bad.
    case latestVerified
    case sequence(UInt64)
    case time(micros: UInt64)
    case tag(String)

    package static let choices = "latest, latest-processed, latest-app-consistent, latest-multi, latest-multi-app-consistent, latest-verified, an RFC 3339 time (the newest cut point or flush boundary at or before it), a tag, #sequence or a number"

    /// Nil for an empty name.
    package init?(_ text: String) {
        switch text {
        case "latest": self = .latest
        case "latest-processed": self = .latestProcessed
        case "latest-app-consistent": self = .latestAppConsistent
        case "latest-multi": self = .latestMulti
        case "latest-multi-app-consistent": self = .latestMultiAppConsistent
        case "latest-verified": self = .latestVerified
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

    /// What `init` makes this of.
    package var text: String {
        switch self {
        case .latest: "latest"
        case .latestProcessed: "latest-processed"
        case .latestAppConsistent: "latest-app-consistent"
        case .latestMulti: "latest-multi"
        case .latestMultiAppConsistent: "latest-multi-app-consistent"
        case .latestVerified: "latest-verified"
        case .sequence(let sequence): "#\(sequence)"
        case .time(let micros):
            Date(timeIntervalSince1970: Double(micros / 1_000_000)).formatted(.iso8601).dropLast() + "." + String("\(1_000_000 + micros % 1_000_000)".dropFirst()) + "Z"
        case .tag(let tag): tag
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

extension SharedPoints {
    /// The sequence that `name` stands for on `disk` now; nil when nothing of the disk is in the vault.
    package func resolve(_ name: PointName, on disk: Catalog.Disk) throws(VaultError) -> UInt64? {
        guard let history = history(of: disk.id) else { return nil }
        switch name {
        case .latestMulti where self.name != nil: return try newestOfAll("point") { _ in true }
        case .latestMultiAppConsistent where self.name != nil: return try newestOfAll("app-consistent point") { $0.kind == .app }
        case .latestAppConsistent:
            guard let point = try newest(on: disk.id, where: { $0.kind == .app }) else { throw .notFound("the disk has no app-consistent point") }
            return point.sequence
        case .tag(let tag):
            guard let point = try newest(on: disk.id, where: { $0.tag == tag }) else { throw .notFound("the disk has no point tagged \(tag)") }
            return point.sequence
        case .time(let micros): return try moment(atOrBefore: micros, on: disk, history)
        case .sequence(let sequence): return try moment(at: sequence, on: disk, history)
        case .latestVerified:
            guard let sequence = try newestVerified(on: [disk.id]) else { throw .notFound("no check has found a point of the disk good yet (farshore verify)") }
            return sequence
        case .latest: return history.newestSequence
        case .latestProcessed: return history.checkpointSequence
        case .latestMulti, .latestMultiAppConsistent: throw .notFound("the disk shares its points with no other disk")
        }
    }

    /// One sequence for all disks that take part: the newest that any of them has for the time. It holds what was flushed on
    /// each of them by then, and as sequences are in the order of writes over all of them, it is a state that they had together.
    private func moment(atOrBefore micros: UInt64, on disk: Catalog.Disk, _ history: DiskHistory) throws(VaultError) -> UInt64 {
        let own = try history.newest(atOrBefore: micros)
        guard members.count > 1, history.state.takesPart(at: own) else { return own }
        var moment = own
        for member in members where member.disk.id != disk.id {
            do throws(VaultError) {
                let newest = try member.history.newest(atOrBefore: micros)
                if member.history.state.takesPart(at: newest) { moment = max(moment, newest) }
            } catch {
                guard case .notFound = error else { throw error }
            }
        }
        // What one of them wrote behind its newest sequence in the vault is not known.
        for member in members where member.history.state.takesPart(at: moment) { moment = min(moment, member.history.newestSequence) }
        return moment
    }

    /// A boundary of any of the disks is a moment of all of them.
    private func moment(at sequence: UInt64, on disk: Catalog.Disk, _ history: DiskHistory) throws(VaultError) -> UInt64 {
        _ = try history.plan(at: sequence)
        do throws(VaultError) {
            return try history.opened(at: sequence)
        } catch {
            guard case .notFound = error, history.state.takesPart(at: sequence) else { throw error }
            for member in members where member.disk.id != disk.id && member.history.state.takesPart(at: sequence) {
                do throws(VaultError) {
                    return try member.history.opened(at: sequence)
                } catch {
                    guard case .notFound = error else { throw error }
                }
            }
            throw error
        }
    }

    private func newestOfAll(_ what: String, _ fits: (RecoveryPoint) -> Bool) throws(VaultError) -> UInt64 {
        guard let point = try newest(where: fits) else { throw .notFound("no \(what) is on all disks of \(name ?? "the group") yet") }
        return point.sequence
    }
}
