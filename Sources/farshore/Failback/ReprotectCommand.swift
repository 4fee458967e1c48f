// `farshore reprotect`, on the host that took over.

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
