// Growing a disk without starting its replication over. Begun on the open disk (`beginGrowth`): `log.state` says what it grows
// to, before the image is touched. Ended by the next opening: whoever opens the disk first calls `completeGrowth`, which brings the
// image to its size, then `open`, which takes the size into the log. Each step can be repeated after a kill: the table of what a kill leaves is
// in docs/formats/change-log.md. The image is always the very file that is in use, whatever its name stands for by now.

import BlockIO
package import ChangeLog
package import DiskImage
import Glibc

/// Why a growth that was begun was given up: the disk goes on as it was.
package struct GrowthFailure: Sendable, CustomStringConvertible {
    package static let firstWords = "could not be grown: "

    package let cause: ImageError
    /// What it stays at.
    package let sizeBytes: UInt64

    package var description: String { "\(Self.firstWords)\(cause); it stays at \(sizeBytes) bytes" }
}

extension VirtualDisk {
    /// The disk has `bytes` from its next opening on. `format` is the image's. Refused while the image is held for initial replication,
    /// where there is no room for it, and where the image's name stands for another file.
    package func beginGrowth(to bytes: UInt64, format: ImageFormat) throws {
        try destage.withTurnNow {
            if let frozen = destage.frozenSequence {
                throw SystemError(errno: EBUSY, operation: "grow the image, which is held at sequence \(frozen) while it is replicated", path: image.path)
            }
            if let under = log.currentState.growingBytes, under != bytes {
                throw SystemError(errno: EBUSY, operation: "grow to \(bytes) bytes while a growth to \(under) is under way", path: image.path)
            }
            guard let file = try files.first?.opened(O_RDONLY) else { throw DiskError.imageReplaced(image: image.path) }
            try requireGrowable(file, format: format, from: sizeBytes, to: bytes)
            try log.noteGrowing(to: bytes)
            guard format == .raw || format == .vhdFixed else { return }
            // What lies behind the disk's end is used by nobody yet: where there is no room, the person who asks is told.
            do {
                try growImage(file, format: format, from: sizeBytes, to: bytes)
            } catch {
                // An image that is larger already, and maybe not durably, is for the next opening.
                if (try? growingBytes(file, format: format)) == sizeBytes { try log.noteGrowing(to: nil) }
                throw error
            }
        }
    }

    /// Brings the image of a log to the size that a growth was begun for. The caller holds both locks, and opens image and disk afterwards. Returns
    /// why, where storage did not let it grow: the disk has its old size then. Throws where the image is not what was left.
    package static func completeGrowth(
        of image: borrowing ImageLock, format: ImageFormat, folder: LogFolder, lock: borrowing OwnerLock
    ) throws -> GrowthFailure? {
        let state = try folder.readState()
        guard let bytes = state.growingBytes else { return nil }
        // It is being brought to another state, and maybe another size.
        try folder.refuseDuringFailback()
        let path = image.descriptor.path
        if let cleanStop = state.cleanStop {
            let now = try ImageIdentity.durable(of: image.descriptor)
            try checkUnchanged(cleanStop, named: path) { now }
        }
        let found = try growingBytes(image.descriptor, format: format)
        // Blocks are where a dynamic one says; the others are as large as their files, which may end anywhere between.
        guard format == .vhdDynamic ? found == state.diskBytes || found == bytes : (state.diskBytes...bytes).contains(found) else {
            throw DiskError.sizeMismatch(image: path, imageBytes: found, logBytes: state.diskBytes)
        }
        // What the clean stop recorded is not the image that is there from the first change on.
        if state.cleanStop != nil { try folder.noteGrowth(bytes, cleanStop: nil, holding: lock) }
        var (failure, refusal): (GrowthFailure?, ImageError?)
        do throws(ImageError) { try growImage(image.descriptor, format: format, from: state.diskBytes, to: bytes) } catch {
            if error.isOfStorage, (try? showsNoGrowth(image.descriptor, format: format, from: state.diskBytes, to: bytes)) == true {
                failure = GrowthFailure(cause: error, sizeBytes: state.diskBytes)
            } else {
                refusal = error
            }
        }
        if state.cleanStop != nil || failure != nil {
            let cleanStop = state.cleanStop == nil ? nil : LogState.CleanStop(try ImageIdentity.durable(of: image.descriptor))
            try folder.noteGrowth(failure == nil ? bytes : nil, cleanStop: cleanStop, holding: lock)
        }
        if let refusal { throw refusal }
        return failure
    }
}

extension ImageError {
    /// The file cannot be longer, or be written at its end.
    fileprivate var isOfStorage: Bool {
        guard case .system(let error) = self else { return false }
        return [ENOSPC, EDQUOT, EFBIG, EIO].contains(error.errno)
    }
}
