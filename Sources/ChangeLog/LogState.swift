// The small durable state of a log beside its segments: file `log.state`, text, replaced as a whole.
// Mirrors docs/formats/change-log.md, "log.state". Written by the owner of the log only.

package import BlockIO

package struct LogState: Equatable, Sendable {
    /// One history of the disk. A power-loss cut, a restore or a failover begins a new one.
    package struct Lineage: Equatable, Sendable {
        package var id: LogID
        /// The last sequence it shares with the lineage before it; 0 for the first.
        package var branchSequence: UInt64

        package init(id: LogID, branchSequence: UInt64) {
            self.id = id
            self.branchSequence = branchSequence
        }
    }

    /// The image as it was left by a clean stop: the identity that DiskImage takes of it.
    package struct CleanStop: Equatable, Sendable {
        package var evidence: UInt8
        package var imageBytes: UInt64
        package var stamp: UInt64

        package init(evidence: UInt8, imageBytes: UInt64, stamp: UInt64) {
            self.evidence = evidence
            self.imageBytes = imageBytes
            self.stamp = stamp
        }
    }

    /// The disk was smaller once: `diskBytes` is its size in all states up to `through`, and after the growth before.
    package struct Growth: Equatable, Sendable {
        package var through: UInt64
        package var diskBytes: UInt64
    }

    package var diskID: LogID
    package var diskBytes: UInt64
    /// Oldest first.
    package var growths: [Growth] = []
    /// What the disk is growing to: the image may be as large already. The next opening ends it.
    package var growingBytes: UInt64?
    package var segmentBytes: Int
    package var budgetBytes: UInt64
    /// Oldest first; the last is the one written now.
    package var lineages: [Lineage]
    /// Names of the targets whose marks must cover a segment before it is recycled.
    package var targets: [String]
    /// Segments up to this index are in the image, durably.
    package var destagedSegment: UInt64
    package var destagedSequence: UInt64
    /// The kernel's boot id when the log was last opened by an owner; empty before the first time.
    package var bootID: String
    /// Where the log's folder was then; nil in a log of an earlier release.
    package var place: FilesystemPlace?
    /// What the image's parents were when the disk was last taken into use, as DiskImage tells; nil without parents.
    package var parentsStamp: UInt64?
    package var cleanStop: CleanStop?

    package var lineage: LogID { lineages[lineages.count - 1].id }

    /// The size of the disk as it was at `sequence`.
    package func diskBytes(at sequence: UInt64) -> UInt64 { growths.first { $0.through >= sequence }?.diskBytes ?? diskBytes }

    /// Takes the growth for done: all after `sequence` has the new size. Of two growths between which nothing was written there is one.
    mutating func endGrowth(after sequence: UInt64) {
        guard let growingBytes else { return }
        if growths.last?.through ?? 0 < sequence || growths.isEmpty { growths.append(Growth(through: sequence, diskBytes: diskBytes)) }
        diskBytes = growingBytes
        self.growingBytes = nil
    }

    static let firstLine = "farshore change log 1"
    static let firstWords = "farshore change log "

    static func load(_ path: String) throws(LogError) -> LogState? {
        let bytes: [UInt8]?
        do { bytes = try DurableFile.read(path, limitBytes: 1 << 20) } catch { throw .system(error) }
        guard let bytes else { return nil }
        return try decode(String(decoding: bytes, as: UTF8.self), path: path)
    }

    func store(_ path: String) throws(SystemError) {
        try DurableFile.replace(path, with: Array(encoded().utf8))
    }

    package func encoded() -> String {
        var lines = [Self.firstLine, "disk \(diskID)", "disk-bytes \(diskBytes)"]
        lines += growths.map { "grown \($0.through) \($0.diskBytes)" }
        if let growingBytes { lines.append("growing \(growingBytes)") }
        lines += ["segment-bytes \(segmentBytes)", "budget-bytes \(budgetBytes)"]
        lines += lineages.map { "lineage \($0.id) \($0.branchSequence)" }
        lines += targets.map { "target \($0)" }
        lines += ["destaged-segment \(destagedSegment)", "destaged-sequence \(destagedSequence)", "boot \(bootID)"]
        if let place { lines.append("place \(place.device) \(place.inode) \(place.diskSequence) \(place.mount)") }
        if let parentsStamp { lines.append("parents \(parentsStamp)") }
        if let cleanStop { lines.append("clean-stop \(cleanStop.evidence) \(cleanStop.imageBytes) \(cleanStop.stamp)") }
        let body = lines.map { $0 + "\n" }.joined()
        return body + "crc32c \(String(crc32c(Array(body.utf8)), radix: 16))\n"
    }

    static func decode(_ text: String, path: String) throws(LogError) -> LogState {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard let first = lines.first, first.hasPrefix(firstWords) else { throw .invalidFile(path: path, reason: "not a change log's state file") }
        guard first == firstLine else { throw .unsupportedVersion(path: path, found: String(first.dropFirst(firstWords.count))) }
        guard lines.popLast() == "", let last = lines.popLast(), last == checksumLine(lines) else {
            throw .invalidFile(path: path, reason: "its checksum is wrong")
        }
        guard let state = fields(lines.dropFirst()) else { throw .invalidFile(path: path, reason: "a line is missing or not as specified") }
        return state
    }

    private static func checksumLine(_ lines: [String]) -> String {
        "crc32c " + String(crc32c(Array(lines.map { $0 + "\n" }.joined().utf8)), radix: 16)
    }

    private static func fields(_ lines: ArraySlice<String>) -> LogState? {
        var reader = StateLines(lines)
        guard let disk = reader.value("disk").flatMap(LogID.init(hex:)), let diskBytes = reader.number("disk-bytes"),
            let growths = growths(&reader, diskBytes: diskBytes)
        else { return nil }
        let growing = reader.value("growing")
        let growingBytes = growing.flatMap { UInt64($0) }
        guard (growing == nil) == (growingBytes == nil), growingBytes ?? .max > diskBytes else { return nil }
        guard let segment = reader.number("segment-bytes"), SegmentGeometry(segmentBytes: Int(clamping: segment)) != nil,
            let budget = reader.number("budget-bytes")
        else { return nil }
        var lineages: [Lineage] = []
        while let line = reader.value("lineage") {
            let words = line.split(separator: " ")
            guard words.count == 2, let id = LogID(hex: String(words[0])), let branch = UInt64(words[1]) else { return nil }
            lineages.append(Lineage(id: id, branchSequence: branch))
        }
        var targets: [String] = []
        while let target = reader.value("target") { targets.append(target) }
        guard !lineages.isEmpty, let destagedSegment = reader.number("destaged-segment"), destagedSegment < SegmentHeader.indexLimit,
            let destagedSequence = reader.number("destaged-sequence"), let boot = reader.value("boot")
        else { return nil }
        var place: FilesystemPlace?
        if let line = reader.value("place") {
            let numbers = line.split(separator: " ").compactMap { UInt64($0) }
            guard numbers.count == 4 else { return nil }
            place = FilesystemPlace(device: numbers[0], inode: numbers[1], diskSequence: numbers[2], mount: numbers[3])
        }
        let parents = reader.value("parents")
        let parentsStamp = parents.flatMap { UInt64($0) }
        guard (parents == nil) == (parentsStamp == nil) else { return nil }
        var cleanStop: CleanStop?
        if let line = reader.value("clean-stop") {
            let words = line.split(separator: " ")
            guard words.count == 3, let evidence = UInt8(words[0]), let bytes = UInt64(words[1]), let stamp = UInt64(words[2]) else { return nil }
            cleanStop = CleanStop(evidence: evidence, imageBytes: bytes, stamp: stamp)
        }
        guard reader.isAtEnd else { return nil }
        return LogState(
            diskID: disk, diskBytes: diskBytes, growths: growths, growingBytes: growingBytes, segmentBytes: Int(clamping: segment), budgetBytes: budget,
            lineages: lineages, targets: targets, destagedSegment: destagedSegment, destagedSequence: destagedSequence, bootID: boot,
            place: place, parentsStamp: parentsStamp, cleanStop: cleanStop)
    }

    /// Nil when one is not as specified: sequences and sizes rise, up to the size now.
    private static func growths(_ reader: inout StateLines, diskBytes: UInt64) -> [Growth]? {
        var growths: [Growth] = []
        while let line = reader.value("grown") {
            let words = line.split(separator: " ")
            guard words.count == 2, let through = UInt64(words[0]), let bytes = UInt64(words[1]), bytes < diskBytes else { return nil }
            if let last = growths.last, last.through >= through || last.diskBytes >= bytes { return nil }
            growths.append(Growth(through: through, diskBytes: bytes))
        }
        return growths
    }
}

/// `key value` lines taken in their specified order.
struct StateLines {
    private var lines: ArraySlice<String>

    init(_ lines: ArraySlice<String>) { self.lines = lines }

    var isAtEnd: Bool { lines.isEmpty }

    /// The value of the next line when its key is `key`; nil leaves the line for the next question.
    mutating func value(_ key: String) -> String? {
        guard let line = lines.first, line.hasPrefix(key + " ") else { return nil }
        lines = lines.dropFirst()
        return String(line.dropFirst(key.utf8.count + 1))
    }

    mutating func number(_ key: String) -> UInt64? { value(key).flatMap { UInt64($0) } }
}
