// `farshore accept`: the way back for an image whose owner, mode, name or times changed while nothing served it.

import ArgumentParser
import ChangeLog
import Replication
import DiskImage
import Site
import VirtualDisk

struct AcceptCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "accept",
        abstract: "Take a disk's image for what Farshore left, after it was refused as changed.",
        discussion: """
            An image whose time of change moved while nothing served it is refused, because the log over it may no longer fit. chmod, chown,
            a rename or a hard link move that time too. If only such things happened, this keeps the image and its log.
            If the content changed, blocks of two states would be mixed: copy both aside and use `farshore unprotect DISK --discard-log`.

            Example:
              farshore accept db1
            """)

    @Argument(help: "The disk.")
    var disk: String

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        let locks = try DiskLocks.take(protected, site: site.directory)
        let image = try protected.openImage(locked: locks.image, access: .readOnly)
        try VirtualDisk.acceptImage(image, folder: LogFolder(protected.logFolder), lock: locks.log)
        try catalogue.record(.warning, disk: disk, "the administrator says that the content of \(protected.imagePath) was not changed")
        try output.print(Document(disk: disk, image: protected.imagePath)) { "\($0.disk): \($0.image) is taken as it is" }
    }
}
