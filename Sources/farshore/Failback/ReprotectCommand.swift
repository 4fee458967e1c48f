// `farshore reprotect`, on the host that took over, and `farshore failover release`, on the one that guests left.

import ArgumentParser
import Failover
import Vault

struct ReprotectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reprotect",
        abstract: "Replicate a machine from the host that it was failed over to.",
        discussion: """
            After `failover commit`. The uploader of this host sends what was written here since; nothing is replicated anew, and all points stay.

            Example:
              farshore reprotect db1 && farshore upload
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let standing = try OpenedFailback(options).failbacks.reprotect(options.unit)
        try output.print(StandingDocument(standing)) { "\($0.text)\nNext: farshore upload, where it does not run yet" }
    }
}

struct FailoverRelease: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "release",
        abstract: "Take a machine that guests left out of this site.",
        discussion: """
            Its disks are no longer disks of this site, and their logs go. Images that a failover made go too; others stay unless --remove-images is given, with all that was
            written to them. One that a failback has half changed is renamed to NAME.half-refreshed. Where this host has writes that the vault never got, or cannot tell,
            nothing is released without --drop-writes. The vault is not touched.

            Example:
              farshore failover release db1
            """)

    @OptionGroup var options: UnitOptions

    @Flag(name: .long, help: "Remove images too that no failover made.")
    var removeImages = false

    @Flag(name: .long, help: "Go on where this host has writes that the vault never got, or cannot tell.")
    var dropWrites = false

    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        let isImageRemoved: Bool
    }

    func run() throws {
        let released = try OpenedFailback(options).failbacks.releaseReplica(options.unit, removesImages: removeImages, dropsWrites: dropWrites)
        try output.print(released.map { Document(disk: $0.disk, image: $0.image, isImageRemoved: $0.isImageRemoved) }) { documents in
            documents.map { "\($0.disk): released; \($0.image) \($0.isImageRemoved ? "is removed" : "stays")" }.joined(separator: "\n")
        }
    }
}
