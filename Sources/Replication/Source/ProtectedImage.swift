// A protected disk's image, opened as the format it had when it was protected: it is never looked at again what it might be, for a
// guest had it since. Called by the mount, the uploader and the commands that own a disk.

package import DiskImage
package import Site

extension ProtectedDisk {
    package func openImage(access: ImageAccess) throws -> any ImageFile {
        guard let known = ImageFormat(rawValue: format) else {
            throw SiteError(
                .catalogueDamaged, "the catalogue says that \(name) is a \(format) image, which this version does not know", remedy: "farshore doctor")
        }
        return try DiskImage.openImage(imagePath, access: access, format: known, parentFolders: parentFolders)
    }
}
