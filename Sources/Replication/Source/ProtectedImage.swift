// A protected disk's image, opened as the format it had when it was protected: it is never looked at again what it might be, for a
// guest had it since. Called by the mount, the uploader and the commands that own a disk.

import ChangeLog
package import DiskImage
package import Site

extension ProtectedDisk {
    /// Throws while the image alone is not the disk.
    package func refuseWhileFilled() throws(SiteError) {
        guard LogFolder(logFolder).isBeingFilled else { return }
        throw SiteError(
            .refused, "the image of \(name) is being filled from a recovery point still, and is not the disk without it",
            remedy: "farshore mount DIR, and wait until farshore status \(name) says that the image stands alone")
    }

    /// For its owner: the very file that is locked, and its parents locked too.
    package func openImage(locked lock: borrowing ImageLock, access: ImageAccess = .readWrite, parentLocks: ParentLocks? = nil) throws -> any ImageFile {
        try refuseWhileFilled()
        return try openImageFile(locked: lock, access: access, parentLocks: parentLocks)
    }

    /// The file, whether it is the whole disk or not.
    package func openImageFile(locked lock: borrowing ImageLock, access: ImageAccess, parentLocks: ParentLocks? = nil) throws -> any ImageFile {
        try DiskImage.openImage(locked: lock, access: access, format: try imageFormat(), parentFolders: parentFolders, parentLocks: parentLocks)
    }

    /// To be read by name, while its owner holds it still.
    package func openImageForReading() throws -> any ImageFile {
        try refuseWhileFilled()
        return try DiskImage.openImage(imagePath, access: .readOnly, format: try imageFormat(), parentFolders: parentFolders)
    }

    package func imageFormat() throws(SiteError) -> ImageFormat {
        guard let known = ImageFormat(rawValue: format) else {
            throw SiteError(
                .catalogueDamaged, "the catalogue says that \(name) is a \(format) image, which this version does not know", remedy: "farshore doctor")
        }
        return known
    }
}
