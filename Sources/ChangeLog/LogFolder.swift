// Names in a log's folder, and the small durable files that other processes write or read there:
// `replicated-<target>` (the uploader's mark) and `freeze` (the image stands still at a sequence).
// Mirrors docs/formats/change-log.md, "Folder".

package import BlockIO
import Glibc

package struct LogFolder: Equatable, Sendable {
    package let path: String

    package init(_ path: String) { self.path = path }

    package var stateFile: String { path + "/log.state" }
    var reserveFile: String { path + "/reserve" }
    package var lockFile: String { path + "/owner.lock" }
    package var freezeFile: String { path + "/freeze" }
    package var failedSyncFile: String { path + "/sync-failed" }
    /// The image is being brought to another state (docs/formats/failback.md): nobody else may use it or the log.
    package var failbackFile: String { path + "/failback" }
    /// A name of the image's files stood for another one when the disk was let go of, and its log was not closed.
    package var replacedFile: String { path + "/image-replaced" }
    package var isImageReplaced: Bool { access(replacedFile, F_OK) == 0 }
    /// Of a disk whose image is filled from a recovery point (docs/formats/recovery-disk.md).
    package var baseFile: String { path + "/base" }
    package var presenceFile: String { path + "/presence" }
    package var makingFile: String { path + "/making" }
    /// What the site's catalogue alone knows of the disk, for a site that lost it.
    package var registrationFile: String { path + "/registration" }
    /// The image alone is not the disk.
    package var isBeingFilled: Bool { access(baseFile, F_OK) == 0 }
    /// For who lets go of the point for good: a volume that is away for a moment has no base either, but no log.
    package var isKnownFilled: Bool {
        guard access(baseFile, F_OK) != 0, errno == ENOENT else { return false }
        do throws(LogError) { _ = try readState() } catch { return false }
        return true
    }
    package func markFile(target: String) -> String { path + "/replicated-" + target }
    package func sendingFile(target: String) -> String { path + "/sending-" + target }
    package func publishingFile(target: String) -> String { path + "/publishing-" + target }

    func segmentFile(_ number: Int) -> String {
        let digits = String(number)
        return path + "/segment-" + String(repeating: "0", count: max(0, 6 - digits.count)) + digits
    }

    static func segmentNumber(_ name: String) -> Int? {
        guard name.hasPrefix("segment-"), name.utf8.count >= 14, !name.hasSuffix(".new") else { return nil }
        // At most 18 digits: the next number can always be counted.
        let digits = name.dropFirst(8)
        return digits.utf8.count <= 18 && digits.utf8.allSatisfy { (48...57).contains($0) } ? Int(digits) : nil
    }

    package func refuseDuringFailback() throws(LogError) {
        guard access(failbackFile, F_OK) != 0 else { throw .underFailback(folder: path) }
    }

    /// The log's state, without owning it.
    package func readState() throws(LogError) -> LogState {
        guard let state = try LogState.load(stateFile) else { throw .notALog(folder: path) }
        return state
    }

    /// Replaces what is recorded of the image's parents, and what a clean stop recorded of the image; a log that was not stopped
    /// cleanly has no such record and gets none. The caller holds the owner's lock.
    package func recordImage(_ cleanStop: LogState.CleanStop, parentsStamp: UInt64?) throws(LogError) {
        let found = try readState()
        var state = found
        if state.cleanStop != nil { state.cleanStop = cleanStop }
        state.parentsStamp = parentsStamp
        guard state != found else { return }
        do throws(SystemError) { try state.store(stateFile) } catch { throw .system(error) }
    }

    /// A target's name is part of a file name: letters, digits, `-`, `_` and `.`, at most 64.
    package static func isValidTarget(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.count <= 64 && name.utf8.first != 46
            && name.utf8.allSatisfy { (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0) || [45, 46, 95].contains($0) }
    }

    /// Marks that all of the log up to `mark.sequence` is verified at the target. Called by the uploader.
    package func storeMark(_ mark: ReplicatedMark, target: String) throws(SystemError) {
        try DurableFile.replace(markFile(target: target), with: Array(mark.encoded().utf8))
    }

    /// Tells that objects with all up to `mark.sequence` were verified at the target, though no head lists them yet: a full log
    /// waits for more. Not durable, for a power loss ends the waiting as well.
    package func noteSending(_ mark: ReplicatedMark, target: String) throws(SystemError) { try note(mark.encoded(), sendingFile(target: target)) }

    /// Tells, before it is put, which manifest the next head at the target names as the disk's newest: an answer that is lost may come before an
    /// outage in which the log loses the records that would show whose it is. Not durable, for a power loss begins a new history.
    package func notePublishing(manifest: String, target: String) throws(SystemError) {
        try note("farshore publishing 1\nmanifest \(manifest)\n", publishingFile(target: target))
    }

    /// Nil where nothing that can be read was noted.
    package func publishing(target: String) throws(LogError) -> String? {
        guard let text = try text(of: publishingFile(target: target)) else { return nil }
        var lines = StateLines(text.split(separator: "\n").map(String.init)[...])
        return lines.value("farshore publishing") == "1" ? lines.value("manifest") : nil
    }

    private func note(_ text: String, _ path: String) throws(SystemError) {
        try Descriptor.open(path + ".new", O_WRONLY | O_CREAT | O_TRUNC).write(Array(text.utf8), at: 0)
        guard rename(path + ".new", path) == 0 else { throw SystemError(errno: errno, operation: "rename", path: path) }
    }

    /// Nil when the uploader never marked anything for this target.
    package func readMark(target: String) throws(LogError) -> ReplicatedMark? { try readMark(markFile(target: target)) }

    private func readMark(_ path: String) throws(LogError) -> ReplicatedMark? {
        guard let text = try text(of: path) else { return nil }
        guard let mark = ReplicatedMark(text) else { throw .invalidFile(path: path, reason: "not a replicated mark") }
        return mark
    }

    /// The lowest of all targets' marks; everything when there is no target. A mark that cannot be read covers nothing.
    /// Of a target that gets a resynchronisation what the image has counts: `state` was read before, so that what is merged after the end
    /// of that does not count.
    func replicatedThrough(_ state: LogState) -> UInt64 {
        through(state) { through($0, markFile(target: $0), state) }
    }

    /// The same of what was sent, listed or not.
    func sentThrough(_ state: LogState) -> UInt64 { through(state) { through($0, sendingFile(target: $0), state) } }

    /// What the target that is furthest has.
    func furthestThrough(_ state: LogState) -> UInt64 { state.targets.map { mark(markFile(target: $0), state) }.max() ?? 0 }

    /// What was verified at the target, listed there or not.
    package func sent(target: String) throws(LogError) -> UInt64 {
        max(try readMark(target: target)?.sequence ?? 0, try readMark(sendingFile(target: target))?.sequence ?? 0)
    }

    /// Those that have least of the log: what it keeps, it keeps for them.
    package func targetsBehind() throws(LogError) -> Set<String> {
        let state = try readState()
        let least = replicatedThrough(state)
        return Set(state.targets.filter { through($0, markFile(target: $0), state) == least })
    }

    private func through(_ target: String, _ file: String, _ state: LogState) -> UInt64 { max(mark(file, state), isReleased(target: target) ? state.destagedSequence : 0) }

    private func through(_ state: LogState, _ ofTarget: (String) -> UInt64) -> UInt64 { state.targets.map(ofTarget).min() ?? .max }

    private func mark(_ file: String, _ state: LogState) -> UInt64 { (try? readMark(file))?.sequence(in: state.lineages) ?? 0 }

    /// The sequence the image is frozen at, or nil.
    package func readFreeze() throws(LogError) -> UInt64? { try freeze()?.sequence }

    /// When the image was frozen, by the wall clock; nil where it is not, or an earlier release froze it.
    package func freezeTime() throws(LogError) -> UInt64? { try freeze()?.wallNanoseconds }

    private func freeze() throws(LogError) -> (sequence: UInt64, wallNanoseconds: UInt64?)? {
        guard let text = try text(of: freezeFile) else { return nil }
        var lines = StateLines(text.split(separator: "\n").map(String.init)[...])
        let (isFreeze, sequence) = (lines.value("farshore freeze") == "1", lines.number("sequence"))
        let time = lines.number("time")
        guard isFreeze, let sequence, lines.isAtEnd else { throw .invalidFile(path: freezeFile, reason: "not a freeze") }
        return (sequence, time)
    }

    package func storeFreeze(sequence: UInt64, wallNanoseconds: UInt64 = Clock.wallNanoseconds()) throws(SystemError) {
        try DurableFile.replace(freezeFile, with: Array("farshore freeze 1\nsequence \(sequence)\ntime \(wallNanoseconds)\n".utf8))
    }

    var hasFailedSync: Bool { access(failedSyncFile, F_OK) == 0 }

    /// Syncs the segment. A failure is noted for the next opening, which must not trust the page cache; the note need not be
    /// durable, a power loss takes the page cache with it. Where no file can be made, the next opening fails as well.
    func sync(_ segment: Segment) throws(SystemError) {
        do throws(SystemError) { try segment.syncData() } catch {
            noteFailedSync(nil)
            throw error
        }
    }

    /// With nil a note that is there already stays as it is.
    func noteFailedSync(_ note: FailedSync?) {
        do throws(SystemError) {
            let file = try Descriptor.open(failedSyncFile, O_WRONLY | O_CREAT)
            if let note { try file.write(Array(note.encoded().utf8), at: 0) }
        } catch {
            // What could not be noted is not asked of the log: its records are checked all the same.
        }
    }

    /// Nil when nothing was noted but the failure.
    func readFailedSync() throws(LogError) -> FailedSync? {
        try text(of: failedSyncFile, limitBytes: 1 << 20).flatMap { FailedSync($0) }
    }

    private func text(of path: String, limitBytes: Int = 4096) throws(LogError) -> String? {
        do { return try DurableFile.read(path, limitBytes: limitBytes).map { String(decoding: $0, as: UTF8.self) } } catch { throw .system(error) }
    }
}

/// How far a target has the log, verified.
package struct ReplicatedMark: Equatable, Sendable {
    package var sequence: UInt64
    package var lineage: LogID

    package init(sequence: UInt64, lineage: LogID) {
        self.sequence = sequence
        self.lineage = lineage
    }

    init?(_ text: String) {
        var lines = StateLines(text.split(separator: "\n").map(String.init)[...])
        guard lines.value("farshore replicated") == "1", let sequence = lines.number("sequence"),
            let lineage = lines.value("lineage").flatMap(LogID.init(hex:)), lines.isAtEnd
        else { return nil }
        self.init(sequence: sequence, lineage: lineage)
    }

    func encoded() -> String { "farshore replicated 1\nsequence \(sequence)\nlineage \(lineage)\n" }

    /// The part of the mark that holds in the newest of `lineages`: an older lineage counts up to where it was left.
    package func sequence(in lineages: [LogState.Lineage]) -> UInt64 {
        guard let place = lineages.firstIndex(where: { $0.id == lineage }) else { return 0 }
        return lineages[(place + 1)...].reduce(sequence) { min($0, $1.branchSequence) }
    }
}

/// Whoever holds it owns the log: alone recovers, seals and destages.
package struct OwnerLock: ~Copyable, Sendable {
    private let file: Descriptor

    /// Throws `inUse` when another owner holds it.
    package static func acquire(_ folder: LogFolder) throws(LogError) -> OwnerLock {
        let file = try asLogError { () throws(SystemError) in try Descriptor.open(folder.lockFile, O_RDWR | O_CREAT) }
        guard try asLogError({ () throws(SystemError) in try file.tryLock(.exclusive) }) else { throw .inUse(folder: folder.path) }
        return OwnerLock(file: file)
    }

    /// A lock that a supervisor took and passed on as an open descriptor.
    package static func inherited(_ raw: Int32, folder: LogFolder) -> OwnerLock {
        OwnerLock(file: Descriptor(owning: raw, path: folder.lockFile))
    }

    private init(file: consuming Descriptor) { self.file = file }

    /// What a supervisor passes on to its worker.
    package var raw: Int32 { file.raw }
}
