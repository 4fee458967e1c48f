// `farshore reprotect`, on the host that took over, and `farshore failover release`, on the one that guests left.

import ArgumentParser
import Failover
import Site
import Vault

struct ReprotectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reprotect",
        abstract: "Replicate a machine from the host that it was failed over to.",
        discussion: """
            After `failover commit`. The uploader of this host sends what was written here since; nothing is replicated anew, and all points stay.
            Away from home its disks get the failback policy of the policy that they have at home, as the vault has it; the command says which.

            Example:
              farshore reprotect db1 && farshore upload
            """)

    @OptionGroup var options: UnitOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let failback = try OpenedFailback(options)
        let standing = try failback.failbacks.reprotect(options.unit)
        var document = StandingDocument(standing)
        let own = try failback.failbacks.catalogue.disks().filter { own in standing.unit.disks.contains { $0.id.description == own.id } }
        document.policies = own.map { StandingDocument.Assigned(disk: $0.name, policy: $0.policy.name) }
        try output.print(document) { document in
            let policies = (document.policies ?? []).map { "policy of \($0.disk) on this host: \($0.policy)" }
            return ([document.text] + policies + ["Next: farshore policy assign POLICY DISK where another one is wanted; farshore upload, where it does not run yet"]).joined(separator: "\n")
        }
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
