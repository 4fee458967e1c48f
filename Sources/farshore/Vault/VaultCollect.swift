// `farshore vault collect`: removes what retention and `vault forget` left over.

import ArgumentParser
import Foundation
import Vault

struct VaultCollect: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collect",
        abstract: "Remove the objects of a vault that no point needs any more.",
        discussion: """
            Run it from a timer, with credentials of its own that may delete; uploaders need none that do. It goes in two steps: what
            nothing needs is condemned, and deleted when every uploader of the vault has taken note of that, mostly by the next run. Interrupted at any
            moment, it goes on with the next run; several at once do no harm. Damage in the vault stops it before anything is deleted.

            An uploader takes note within an hour, a disk in initial replication at its end. One that will never come back, because its host is
            gone, holds everything up: name one of its disks, or its group, with --retire. If it does come back,
            it is fenced and stops. `farshore unprotect` does that by itself where it reaches the vault.

            Example:
              farshore vault collect file:///backup/vault --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        struct Waiting: Encodable {
            let group: String
            /// One of its disks, for --retire.
            let disk: String
            let host: String
            let lastWrite: String
        }

        let condemnedObjects: UInt64
        let condemnedBytes: UInt64
        let deletedObjects: UInt64
        let sparedObjects: UInt64
        let deletedChainObjects: UInt64
        let epoch: UInt32
        let waiting: [Waiting]

        init(_ report: CollectReport) {
            condemnedObjects = report.condemnedObjects
            condemnedBytes = report.condemnedBytes
            deletedObjects = report.deletedObjects
            sparedObjects = report.sparedObjects
            deletedChainObjects = report.deletedChainObjects
            epoch = report.epoch
            waiting = report.waiting.map {
                Waiting(group: $0.name, disk: $0.disk, host: $0.host, lastWrite: timeText(nanoseconds: $0.sinceMicros.multipliedReportingOverflow(by: 1000).partialValue))
            }
        }

        var text: String {
            var lines = ["\(deletedObjects) objects deleted"]
            if deletedChainObjects > 0 { lines[0] += ", and \(deletedChainObjects) old heads and catalogs" }
            if condemnedObjects > 0 { lines.append("\(condemnedObjects) objects (\(bytesText(condemnedBytes))) condemned in epoch \(epoch - 1)") }
            for one in waiting { lines.append("waiting for the uploader of \(one.group) on \(one.host), which wrote last at \(one.lastWrite); if it will not come back: --retire \(one.disk)") }
            return lines.joined(separator: "\n")
        }
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @Option(name: .long, help: ArgumentHelp("A disk, or group, whose uploader will not come back: it is fenced, and waited for no more. May be given several times.", valueName: "disk"))
    var retire: [String] = []

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let vault = try openVault(url: url, key: key, site: site)
        for disk in retire { try vault.release(writerOf: disk, host: "vault collect on \(ProcessInfo.processInfo.hostName)") }
        try output.print(Document(try Collector(vault: vault).run()), text: \.text)
    }
}
