// Growing a disk without starting its replication over. Begun on the open disk (`beginGrowth`): `log.state` says what it grows
// to, before the image is touched. Ended by the next opening: whoever opens the disk first calls `completeGrowth`, which brings the
// image to its size, then `open`, which takes the size into the log. Each step can be repeated after a kill.

import BlockIO
package import ChangeLog
package import DiskImage
import Glibc

extension VirtualDisk {
    /// The disk has `bytes` from its next opening on. `format` is the image's. Refused while the image is held for initial replication.
    package func beginGrowth(to bytes: UInt64, format: ImageFormat) throws {
        try requireGrowable(image.path, format: format, from: sizeBytes, to: bytes)
        try destage.withTurnNow {
            if let frozen = destage.frozenSequence {
                throw SystemError(errno: EBUSY, operation: "grow the image, which is held at sequence \(frozen) while it is replicated", path: image.path)
            }
            if let under = log.currentState.growingBytes, under != bytes {
                throw SystemError(errno: EBUSY, operation: "grow to \(bytes) bytes while a growth to \(under) is under way", path: image.path)
            }
            try log.noteGrowing(to: bytes)
            guard format == .raw || format == .vhdFixed else { return }
            // What lies behind the disk's end is used by nobody yet: where there is no room, the person who asks is told.
            do {
                try growImage(image.path, format: format, from: sizeBytes, to: bytes)
            } catch {
                // An image that is larger already, and maybe not durably, is for the next opening.
                if let image = try? openImage(image.path, access: .readOnly, format: format), image.sizeBytes == sizeBytes { try log.noteGrowing(to: nil) }
                throw error
            }
        }
    }

    /// Brings the image of a log to the size that a growth was begun for. The caller holds `lock`, and opens image and disk afterwards.
    package static func completeGrowth(of path: String, format: ImageFormat, folder: LogFolder, lock: borrowing OwnerLock) throws {
        let state = try folder.readState()
        guard let bytes = state.growingBytes else { return }
        if state.cleanStop != nil, let image = try? openImage(path, access: .readOnly, format: format), image.sizeBytes == state.diskBytes {
            try checkUnchanged(state.cleanStop, image) { try ImageIdentity.durable(of: image.files) }
        }
        try growImage(path, format: format, from: state.diskBytes, to: bytes)
        // What the clean stop recorded is not the image that is there now.
        try folder.recordImage(LogState.CleanStop(try ImageIdentity.durable(of: openImage(path, access: .readOnly, format: format).files)))
    }
}
