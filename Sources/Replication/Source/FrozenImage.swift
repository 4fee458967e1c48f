// A disk's image while its owner holds it still: read by name, and proven afterwards to have been the state at one sequence all
// the while. Used by initial replication and by a resynchronisation.

import BlockIO
import ChangeLog
import DiskImage
import Site

struct FrozenImage {
    let disk: ProtectedDisk
    let owner: any DiskOwner
    let folder: LogFolder
    let sequence: UInt64

    /// What `body` makes of the image.
    func read<Value>(_ body: (any ImageFile) throws -> Value) throws -> Value {
        let image = try disk.openImageForReading()
        let before = try ImageIdentity(of: image.files)
        let value = try body(image)
        // Frozen means that nobody writes: what changed the image is not us, and what was read may be a mixture.
        guard try ImageIdentity(of: image.files) == before else {
            throw failure("was changed by somebody else while it was read", remedy: "stop the program that uses the image")
        }
        // A block device does not tell of changes, but destage cannot have begun while the freeze stood.
        guard try folder.readFreeze() == sequence else { throw failure("was let go of while it was read", remedy: "farshore status \(disk.name)") }
        // The owner has just looked, as it did for the first freeze, whether the name stands for the file it serves.
        guard try owner.freeze() == sequence, try image.files.allSatisfy({ (file) throws(SystemError) in try file.isThere() }) else {
            throw failure("was replaced while it was read", remedy: "farshore status \(disk.name)")
        }
        return value
    }

    private func failure(_ what: String, remedy: String) -> AttemptFailure {
        AttemptFailure(.mayPass, "\(disk.imagePath) \(what)", remedy: remedy, cause: ImageError.inUse(path: disk.imagePath))
    }
}
