// What a check of a vault found: every damaged or missing object, and which points and bytes of which disk it takes.

import ObjectStore

package struct ByteRange: Codable, Equatable, Sendable {
    package var offset: UInt64
    package var length: UInt64

    package var end: UInt64 { offset + length }

    package init(offset: UInt64, length: UInt64) {
        self.offset = offset
        self.length = length
    }

    /// Sorted, touching ones joined.
    static func joined(_ ranges: [ByteRange]) -> [ByteRange] {
        var result: [ByteRange] = []
        for range in ranges.sorted(by: { $0.offset < $1.offset }) {
            if let last = result.last, range.offset <= last.end {
                result[result.count - 1].length = max(last.end, range.end) - last.offset
            } else {
                result.append(range)
            }
        }
        return result
    }
}

/// One damaged object. Without `disk` it belongs to the vault as a whole.
package struct CheckFinding: Sendable, Equatable {
    package let object: String
    package let reason: String
    package var disk: String?
    /// Between the first and the last affected state; nil when no state is.
    package private(set) var firstSequence: UInt64?
    package private(set) var lastSequence: UInt64?
    /// The affected states; there may be others between them.
    private var spans: [ClosedRange<UInt64>] = []
    /// The points among them.
    package var points: [RecoveryPoint] = []
    /// It lists points itself: how many more are affected nobody knows.
    package var hidesPoints = false
    /// Bytes of the disk that cannot be read at these points; empty when the object is metadata that no state needs.
    package var ranges: [ByteRange] = []

    init(object: String, reason: String, disk: String? = nil) {
        self.object = object
        self.reason = reason
        self.disk = disk
    }

    func affects(_ sequence: UInt64) -> Bool { spans.contains { $0.contains(sequence) } }

    /// Takes in another effect of the same object.
    mutating func widen(from first: UInt64, to last: UInt64, ranges more: [ByteRange]) {
        firstSequence = min(firstSequence ?? first, first)
        lastSequence = max(lastSequence ?? last, last)
        spans.append(first...max(first, last))
        ranges = ByteRange.joined(ranges + more)
    }
}

package struct CheckReport: Sendable {
    package internal(set) var objects: UInt64 = 0
    package internal(set) var bytesRead: UInt64 = 0
    package internal(set) var disks: UInt64 = 0
    /// Groups of several disks.
    package internal(set) var groups: UInt64 = 0
    package internal(set) var points: UInt64 = 0
    package internal(set) var findings: [CheckFinding] = []
    /// Nil when they were not looked for.
    package internal(set) var orphans: Orphans?

    package struct Orphans: Sendable, Equatable {
        package private(set) var objects: UInt64 = 0
        package private(set) var bytes: UInt64 = 0
        /// The first of them.
        package private(set) var examples: [String] = []

        mutating func add(_ object: ListedObject) {
            objects += 1
            bytes += object.sizeBytes
            if examples.count < 10 { examples.append(object.key) }
        }
    }

    package var isClean: Bool { findings.isEmpty }
}

extension [CheckFinding] {
    /// Those without which nothing new can be laid over the newest states, whose sequences `newest` has by the disks' names. A vault that is open
    /// needs no key object more.
    package func spoiling(newest: [String: UInt64]) -> [CheckFinding] {
        filter { finding in finding.disk.map { finding.lastSequence ?? 0 >= newest[$0] ?? 0 } ?? !finding.object.hasPrefix("keys/") }
    }

    /// Of objects that are damaged or missing, in a line: how many, and which points of which disks they take.
    package var summary: String {
        let names = Set(compactMap(\.disk)).sorted()
        let disks = names.prefix(8).map { name in
            let points = Set(filter { $0.disk == name }.flatMap(\.points).map(\.sequence))
            let isAll = !contains { $0.disk == name && $0.hidesPoints }
            return "\(name) (\(isAll ? "" : "at least ")\(points.count) points\(points.min().map { ", first #\($0)" } ?? ""))"
        }
        let more = names.count > disks.count ? ["\(names.count - disks.count) disks more"] : []
        let example = first.map { " (\($0.object): \($0.reason))" } ?? ""
        return "\(count) object\(count == 1 ? "" : "s") damaged or missing\(example)" + (names.isEmpty ? "" : ", needed by " + (disks + more).joined(separator: ", "))
    }
}

extension VaultError {
    /// The object and the reason, when the error is damage; other errors end a check.
    var damage: (object: String, reason: String)? {
        switch self {
        case .damaged(let object, let reason): (object, reason)
        case .missing(let object): (object, "it is missing")
        case .unsupportedVersion(let object, let found): (object, "it has \(found), which this version cannot read")
        default: nil
        }
    }
}
