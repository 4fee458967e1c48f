// Where `image convert` and `restore` make an image. Asked before anything is read or fetched.

import DiskImage
import Glibc
import Site

/// Throws where an image must not be made: over what is no file, over an existing file without `force`, over an image in use, and over one
/// that a disk of the site is read from.
func requireOutputPlace(_ path: String, force: Bool, _ site: SiteOptions) throws {
    try OutputImage.requireReplaceable(path)
    guard access(path, F_OK) == 0 else { return }
    guard force else { throw Failure(.inUse, "\(path) is there already", try: "give another file, or --force to replace it") }
    // No site is made for a question.
    guard access(site.directory.cataloguePath, F_OK) == 0 else { return }
    try site.catalogue().refuseDisksReading(path, try: "give another file")
}
