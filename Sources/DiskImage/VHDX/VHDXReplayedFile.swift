// The file as it is after its log was replayed, without a byte of it being written: what opening reads, so that a
// refused image stays as it was. docs/formats/vhdx.md, section "Log".

import BlockIO

struct VHDXReplayedFile: ~Copyable {
    private static let claimsMax = 4

    let container: ContainerFile
    let headers: VHDXHeaders
    /// Of disjoint places; empty when the log is.
    let changes: [VHDXLogChange]
    /// The file's size, the extension by the replay included.
    let sizeBytes: UInt64

    var path: String { container.path }

    private init(_ container: consuming ContainerFile, headers: VHDXHeaders, changes: [VHDXLogChange], sizeBytes: UInt64) {
        self.container = container
        self.headers = headers
        self.changes = changes
        self.sizeBytes = sizeBytes
    }

    static func read(_ container: consuming ContainerFile) throws(ImageError) -> VHDXReplayedFile {
        let fileBytes = container.status.sizeBytes
        guard container.status.kind == .regular, fileBytes >= VHDXPlace.headerSectionEnd, fileBytes <= VHDXPlace.fileBytesMax else {
            throw .damaged(ImageDamage(path: container.path, field: "file size", offset: 0, found: "\(fileBytes)",
                expected: "a file of at least the header section of 1 MiB", meaning: "too short to be a VHDX"))
        }
        let identifier = ImageField(try container.read(count: 8, at: 0), structure: "file identifier", at: 0, path: container.path)
        try identifier.requireBytes(Array("vhdxfile".utf8), "signature", at: 0, meaning: "this is no VHDX")
        let headers = try VHDXHeaders(reading: container)
        let sequence = headers.current.hasLog ? try activeSequence(container, headers.current) : []
        let changes = sequence.flatMap(\.changes)
        let sizeBytes = max(fileBytes, sequence.last?.lastFileBytes ?? 0)
        for change in changes { try check(change, headers.current, sizeBytes, container.path) }
        return VHDXReplayedFile(container, headers: headers, changes: changes.merged(), sizeBytes: sizeBytes)
    }

    private static func activeSequence(_ container: borrowing ContainerFile, _ header: VHDXHeader) throws(ImageError) -> [VHDXLogEntry] {
        let log = try container.read(count: Int(header.logBytes), at: header.logOffset)
        let field = ImageField([], structure: "log", at: header.logOffset, path: container.path)
        let claims = VHDXLogEntry.claims(of: log, id: header.logID)
        try field.require(claims <= claimsMax, "entry lengths", at: 0, found: "entries of \(claims) times the log's length",
            expected: "at most \(claimsMax) times", meaning: "no writer leaves entries that lie over each other so often")
        let sequence = VHDXLogEntry.activeSequence(of: log, id: header.logID)
        guard let head = sequence.last else {
            throw field.damage("entries", at: 0, found: "no valid sequence of the log's id", expected: "one, as the header names a log",
                meaning: "changes that were under way when the image was last used are lost")
        }
        let fileBytes = container.status.sizeBytes
        try field.require(head.flushedFileBytes <= fileBytes, "flushed file size", at: head.place + 48, found: "\(head.flushedFileBytes)",
            expected: "at most the file's \(fileBytes)", meaning: "the file was cut")
        try field.require(head.lastFileBytes <= VHDXPlace.fileBytesMax, "last file size", at: head.place + 56, found: "\(head.lastFileBytes)",
            expected: "at most \(VHDXPlace.fileBytesMax)", meaning: "no file is that large")
        return sequence
    }

    /// The region tables may be changed, and what lies behind the header section; the log never changes itself.
    private static func check(_ change: VHDXLogChange, _ header: VHDXHeader, _ fileBytes: UInt64, _ path: String) throws(ImageError) {
        let (end, overflow) = change.offset.addingReportingOverflow(change.bytesCount)
        let isBehindHeaders = change.offset >= VHDXPlace.regionTables[0]
        let isInLog = change.offset < header.logEnd && header.logOffset < end
        guard !overflow, isBehindHeaders, !isInLog, end <= fileBytes else {
            throw .damaged(ImageDamage(path: path, field: "log, change", offset: header.logOffset, found: "\(change.bytesCount) bytes at \(change.offset)",
                expected: "a place behind the headers, outside of the log, within the file's \(fileBytes)", meaning: "the log would destroy the image"))
        }
    }

    func read(count: Int, at offset: UInt64) throws(ImageError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let stored = Int(min(UInt64(count), container.status.sizeBytes - min(offset, container.status.sizeBytes)))
        if stored > 0 { bytes.replaceSubrange(..<stored, with: try container.read(count: stored, at: offset)) }
        for change in changes {
            let (start, end) = (max(change.offset, offset), min(change.offset + change.bytesCount, offset + UInt64(count)))
            guard start < end else { continue }
            let place = Int(start - offset)..<Int(end - offset)
            switch change.what {
            case .zeros: bytes.replaceSubrange(place, with: repeatElement(0, count: place.count))
            case .data(let data): bytes.replaceSubrange(place, with: data[Int(start - change.offset)..<Int(end - change.offset)])
            }
        }
        return bytes
    }

    /// What is left to be carried out by whoever writes.
    var replay: VHDXReplay { VHDXReplay(changes: changes, sizeBytes: sizeBytes) }
}

struct VHDXReplay: Sendable {
    let changes: [VHDXLogChange]
    /// The size that the file must have at least.
    let sizeBytes: UInt64

    /// Writes the changes, extends the file, and says in both headers that the log is empty.
    func carryOut(_ headers: inout VHDXHeaders, _ file: borrowing ChangedFile) throws(SystemError) {
        try headers.change(file) { $0.fileWriteID = newVHDXID() }
        try file.sync()
        if try file.descriptor.status().sizeBytes < sizeBytes { try file.truncate(to: sizeBytes) }
        for change in changes {
            switch change.what {
            case .data(let bytes): try file.write(bytes, at: change.offset)
            case .zeros(let count): if count > 0 { try file.zero(at: change.offset, length: count) }
            }
        }
        try file.sync()
        for _ in 0..<2 {
            try headers.change(file) { $0.logID = VHDXHeader.noLog }
            try file.sync()
        }
    }
}
