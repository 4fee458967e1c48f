// Disks of this site that are read from a file: who replaces it, or serves it to guests that write, breaks them. While such a disk is
// mounted the image's locks say so too; unmounted, nobody but the catalogue knows.

import DiskImage
import Replication
import Site

extension Catalogue {
    /// Throws where the file at `path` is a disk's image or one that it is read through. `remedy`: what to do that leaves the disk alone.
    func refuseDisksReading(_ path: String, try remedy: String) throws {
        let all = try disks()
        if let own = all.first(where: { isSameFile($0.imagePath, path) }) {
            throw Failure(.inUse, "\(path) is the image of \(own.name), which this site protects", try: "\(remedy), or first farshore unprotect \(own.name)")
        }
        let readers = try all.filter { try isImage($0.imagePath, $0.imageFormat(), parentFolders: $0.parentFolders, readThrough: path) }
        guard !readers.isEmpty else { return }
        let names = readers.map { "\($0.imagePath), the image of \($0.name)" }.joined(separator: "; ")
        throw Failure(
            .inUse, "\(path) is read through by \(names): what they show would change with it",
            try: "\(remedy), or first " + readers.map { "farshore unprotect \($0.name)" }.joined(separator: " and "))
    }

    /// Throws where one of the files that the image at `path` is read through is a disk's image: guests change it.
    func refuseDisksUnder(_ path: String, parents: [ChainLink]) throws {
        let all = try disks()
        for parent in parents {
            guard let disk = all.first(where: { isSameFile($0.imagePath, parent.path) }) else { continue }
            throw Failure(
                .inUse, "\(path) is read through \(parent.path), the image of \(disk.name): what it shows would change with that",
                try: "farshore unprotect \(disk.name) first, and let no guest use it any more")
        }
    }
}
