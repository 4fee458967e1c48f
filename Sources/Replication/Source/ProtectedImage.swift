// A protected disk's image, opened as the format it had when it was protected: it is never looked at again what it might be, for a
// guest had it since. Called by the mount, the uploader and the commands that own a disk.

package import DiskImage
package import Site

extension ProtectedDisk {
    /// For its owner: the very file that is locked, and its parents locked too.
    package func openImage(locked lock: borrowing ImageLock, access: ImageAccess = .readWrite, parentLocks: ParentLocks? = nil) throws -> any ImageFile {
        try DiskImage.openImage(locked: lock, access: access, format: try imageFormat(), parentFolders: parentFolders, parentLocks: parentLocks)
    }

    /// To be read by name, while its owner holds it still.
    package func openImageForReading() throws -> any ImageFile {
        try DiskImage.openImage(imagePath, access: .readOnly, format: try imageFormat(), parentFolders: parentFolders)
    }

    package func imageFormat() throws(SiteError) -> ImageFormat {
        guard let known = ImageFormat(rawValue: format) else {
            throw SiteError(
                .catalogueDamaged, "the catalogue says that \(name) is a \(format) image, which this version does not know", remedy: "farshore doctor")
        }
        return known
    }
}
