// A protected disk: the image with its change log over it. Writes go to the log only; a map says where each block's
// newest data is; destage merges sealed segments into the image. Invariants:
//  - a map entry is inserted before its record counts as complete, and cleared only after the image holds it durably;
//  - a block read from the image was not being written by destage meanwhile (`clearGeneration`);
//  - one owner: whoever opened the log holds its lock.
// Called by the mount's reader threads (ServedDisk), the uploader's and the CLI's control calls.

package import BlockIO
package import ChangeLog
package import DiskImage
import Synchronization

package final class VirtualDisk: ServedDisk, @unchecked Sendable {
    // Sendable: all stored properties are constants that are themselves safe for many threads.
    package let name: String
    package let sizeBytes: UInt64
    package let isWritable = true
    package let log: ChangeLog
    package let image: any ImageFile
    /// How the log's last run ended.
    package let lastStop: LastStop
    let map: BlockMap
    /// Raised before destage clears map entries: who read the image meanwhile reads again.
    let clearGeneration = Atomic<UInt64>(0)
    let destage: DestageControl
    /// The image and what it is read through, as they were opened.
    let files: [OpenedFile]
    /// What guests read from the image: destage leaves the device to them (`DestagePace`).
    let imageReadBytes = Atomic<UInt64>(0)
    private let identity: @Sendable () throws -> ImageIdentity

    /// Opens the disk over `image`. `lock`: the caller owns the log. `identity` tells whether the image was changed meanwhile.
    /// `parentsAreHeld`: the same mount goes on with the parents that it has open; what became of them is asked when it has ended.
    package static func open(
        name: String, image: any ImageFile, folder: LogFolder, lock: consuming OwnerLock, sequencer: Sequencer, options: ChangeLog.Options,
        parentsAreHeld: Bool = false, identity: (@Sendable () throws -> ImageIdentity)? = nil
    ) throws(DiskError) -> VirtualDisk {
        let (path, files) = (image.path, image.files)
        let identity = identity ?? { try ImageIdentity.durable(of: files) }
        do {
            // Before the size is compared, which it may have changed.
            try folder.refuseDuringFailback()
            let state = try folder.readState()
            guard state.growingBytes ?? state.diskBytes == image.sizeBytes else {
                throw DiskError.sizeMismatch(image: path, imageBytes: image.sizeBytes, logBytes: state.growingBytes ?? state.diskBytes)
            }
            guard !folder.isImageReplaced else { throw DiskError.imageReplaced(image: named(image)) }
            // Before the log is opened: that ends the clean stop, and the question could not be asked again.
            try checkUnchanged(state.cleanStop, image, identity)
            var options = options
            options.parentsStamp = parentsAreHeld ? state.parentsStamp : try checkParents(of: image, since: state)
            let map = try BlockMap(diskBytes: image.sizeBytes)
            let frozen = try folder.readFreeze()
            let (log, lastStop) = try ChangeLog.open(folder, lock: lock, sequencer: sequencer, options: options) { blocks, segment in
                map.replay(blocks, segment: segment)
            }
            let disk = VirtualDisk(name: name, image: image, log: log, map: map, lastStop: lastStop, frozen: frozen, identity: identity)
            try disk.startDestage()
            try log.markGrowth()
            return disk
        } catch { throw DiskError(error) }
    }

    private init(
        name: String, image: any ImageFile, log: ChangeLog, map: BlockMap, lastStop: LastStop, frozen: UInt64?,
        identity: @escaping @Sendable () throws -> ImageIdentity
    ) {
        self.name = name
        self.image = image
        self.log = log
        self.map = map
        self.lastStop = lastStop
        self.identity = identity
        sizeBytes = image.sizeBytes
        destage = DestageControl(frozenSequence: frozen)
        files = image.files
    }

    /// Throws where the image is not as the last clean stop of its log left it; after a kill only of its parents something is known.
    package static func refuseChanged(_ image: any ImageFile, since state: LogState) throws(DiskError) {
        let files = image.files
        do {
            try checkUnchanged(state.cleanStop, image) { try ImageIdentity.durable(of: files) }
            _ = try checkParents(of: image, since: state)
        } catch { throw DiskError(error) }
    }

    /// What the parents are now. They are asked for themselves after a clean stop too: what it recorded is what it found when it stopped.
    private static func checkParents(of image: any ImageFile, since state: LogState) throws -> UInt64? {
        let now = try ImageIdentity.parentsStamp(of: image.files)
        if let then = state.parentsStamp, then != now {
            let parents = image.files.dropFirst().map(\.path.shown).joined(separator: ", ")
            throw DiskError.imageChanged(image: "a parent that \(image.path) is read through (\(parents))", recordedBytes: 0, foundBytes: 0)
        }
        return now
    }

    static func checkUnchanged(
        _ cleanStop: LogState.CleanStop?, _ image: any ImageFile, _ identity: () throws -> ImageIdentity
    ) throws {
        if let cleanStop { try checkUnchanged(cleanStop, named: named(image), identity) }
    }

    static func checkUnchanged(_ cleanStop: LogState.CleanStop, named name: String, _ identity: () throws -> ImageIdentity) throws {
        guard cleanStop.evidence != ImageIdentity.Evidence.replaced.rawValue else { throw DiskError.imageReplaced(image: name) }
        let now = try identity()
        guard cleanStop == LogState.CleanStop(now) else {
            throw DiskError.imageChanged(image: name, recordedBytes: cleanStop.imageBytes, foundBytes: now.sizeBytes)
        }
    }

    /// What a clean stop is evidence of does not tell an image from its parents.
    private static func named(_ image: any ImageFile) -> String {
        let parents = image.files.dropFirst().map(\.path.shown)
        return parents.isEmpty ? image.path : "\(image.path), or a parent that it is read through (\(parents.joined(separator: ", "))),"
    }

    /// Takes the image for what the last clean stop left, because somebody who knows says so. `lock` is the log's.
    package static func acceptImage(_ image: any ImageFile, folder: LogFolder, lock: borrowing OwnerLock) throws(DiskError) {
        do {
            try folder.refuseDuringFailback()
            let state = try folder.readState()
            guard image.sizeBytes == state.diskBytes || image.sizeBytes == state.growingBytes else {
                throw DiskError.sizeMismatch(image: image.path, imageBytes: image.sizeBytes, logBytes: state.diskBytes)
            }
            try folder.recordImage(
                LogState.CleanStop(try ImageIdentity.durable(of: image.files)), parentsStamp: try ImageIdentity.parentsStamp(of: image.files))
            try DurableFile.remove(folder.replacedFile)
        } catch { throw DiskError(error) }
    }

    /// What has the image's name is refused until it is accepted, also over a log that nobody closed. `lock` is the log's.
    package static func noteReplaced(_ folder: LogFolder, lock: borrowing OwnerLock) throws(DiskError) {
        do throws(SystemError) { try DurableFile.replace(folder.replacedFile, with: []) } catch { throw .system(error) }
    }

    /// Ends a clean run. The caller has ended all requests before. Where the image's name stands for another file by now, that one is
    /// refused by the next opening until it is accepted: `imageReplaced`, thrown when all else was done.
    package func close() throws(DiskError) {
        var isReplaced = false
        do {
            stopDestage()
            // A freeze or merge that is under way gives up, and writes nothing more to the image.
            try destage.withTurnNow {
                try log.flush()
                try image.flush()
                let found = try identityOfOpenFiles()
                isReplaced = found == nil
                try log.close(cleanStop: LogState.CleanStop(found ?? ImageIdentity(evidence: .replaced, sizeBytes: 0, stamp: 0)))
            }
        } catch {
            log.abandon()
            throw DiskError(error)
        }
        if isReplaced { throw .imageReplaced(image: Self.named(image)) }
    }

    /// Nil when the name of the image, or of a parent, stands for another file than was opened. A parent that is gone is an error.
    private func identityOfOpenFiles() throws -> ImageIdentity? {
        if let image = files.first, try !image.isThere() { return nil }
        // Before it: the identity opens what the names stand for.
        if try files.contains(where: { (file) throws(SystemError) in try file.isReplaced() }) { return nil }
        let found = try identity()
        // After it: it was of the open files then.
        return try files.allSatisfy { (file) throws(SystemError) in try file.isThere() } ? found : nil
    }

    /// What was merged would be lost with the file, and what the uploader reads, by the names of all of them, would be another disk.
    func requireImageInPlace() throws {
        for file in files where try !file.isThere() { throw DiskError.imageReplaced(image: file.path) }
    }

    /// Lets go of log and image without a flush; the next open finds everything acknowledged.
    package func abandon() {
        stopDestage()
        log.abandon()
    }

    package func flush() throws(SystemError) { try log.flush() }

    /// All records up to the sequence returned are durable: what the uploader may read.
    package func makeDurable() throws(SystemError) -> UInt64 { try log.makeDurable() }

    package func holdsRecord(sequence: UInt64) -> Bool {
        // When the log cannot be read the request is executed again, and fails with the reason.
        (try? log.holdsRecord(sequence: sequence)) ?? false
    }

    /// Cuts one recovery point over `disks`: its number and its time. It holds no write; not yet durable.
    package static func cutPoint(_ disks: [VirtualDisk], tag: String, isAppConsistent: (_ wallNanoseconds: UInt64) -> Bool = { _ in false }) throws(SystemError) -> UInt64 {
        try ChangeLog.cutPoint(disks.map(\.log), tag: tag, isAppConsistent: isAppConsistent)
    }

    func blockBytesOnDisk(_ block: Int) -> Int {
        Int(min(UInt64(blockBytes), sizeBytes - UInt64(block) * UInt64(blockBytes)))
    }
}

extension LogState.CleanStop {
    init(_ identity: ImageIdentity) {
        self.init(evidence: identity.evidence.rawValue, imageBytes: identity.sizeBytes, stamp: identity.stamp)
    }
}
