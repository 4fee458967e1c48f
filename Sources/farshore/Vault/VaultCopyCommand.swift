// `farshore vault copy` and `farshore vault adopt`: a vault kept at a second target, and made one of its own.

import ArgumentParser
import BlockIO
import Foundation
import Glibc
import ObjectStore
import Site
import Vault

struct VaultCopyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy",
        abstract: "Copy a vault to another target, or bring such a copy up to date.",
        discussion: """
            The copy has all points of the vault, and the same key opens it. A point appears in it when all that it needs was verified there. Interrupted
            at any moment, the next run goes on; only what is new since the last run on this host is looked for. --create begins it, once: without, a place that
            holds no copy is refused, for it may be a filesystem that is not mounted. While it is a copy nothing else writes to it: no uploader and no collection. With --prune what the collection of the vault removed is removed from the copy too (needs the right to delete there).

            To bring a large disk to a distant target, replicate it to a vault on a portable disk, send the disk, copy its vault to the target, adopt
            the copy and send the protected disk there: farshore vault adopt, farshore retarget.

            Example:
              farshore vault copy file:///backup/vault --to 's3://second/vault?region=eu-west-1' --create --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let from: String
        let to: String
        let sentObjects: UInt64
        let sentBytes: UInt64
        let presentObjects: UInt64
        let publishedChains: UInt64
        let removedObjects: UInt64

        var text: String {
            guard publishedChains > 0 || sentObjects > 0 else { return "\(to) is up to date" + removed }
            return "\(to): \(sentObjects) objects copied (\(bytesText(sentBytes)))" + (presentObjects > 0 ? ", \(presentObjects) were there" : "") + removed
        }

        private var removed: String { removedObjects > 0 ? "; \(removedObjects) objects removed" : "" }
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @Option(name: .long, help: ArgumentHelp("Where the copy is kept.", valueName: "url"))
    var to: String

    @Flag(name: .long, help: "Begin a copy there, in an empty directory, bucket prefix or container; a missing directory is made.")
    var create = false

    @Option(name: .long, help: ArgumentHelp("Go on: look for what is new after so many seconds, until ended by a signal.", valueName: "seconds"))
    var follow: UInt32?

    @Flag(name: .long, help: "Also remove what the vault does not have any more.")
    var prune = false

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard follow.map({ 1...86_400 ~= $0 }) ?? true else { throw ValidationError("--follow takes 1 to 86400 seconds") }
        guard follow == nil || !prune else { throw ValidationError("--prune reads the whole map of the copy: run it from a timer, beside a copy that follows or without one") }
    }

    func run() throws {
        let source = try openVault(url: url, key: key, site: site)
        do {
            try bringUp(source)
        } catch VaultError.fenced(let text) {
            throw Failure(.fenced, text, try: "leave what is there as it is, and copy into an empty place: farshore vault copy \(url) --to URL --create")
        }
    }

    private func bringUp(_ source: Vault) throws {
        let beginning = "mount its filesystem; where no copy was ever there: farshore vault copy \(url) --to \(to) --create"
        let copy: VaultCopy
        do {
            copy = try VaultCopy(of: source, at: try openStore(url: to, createDirectory: create), begins: create) { id throws(VaultError) in try memory(ofCopy: id) }
        } catch let error as StoreError where error.code == .bucketMissing && to.hasPrefix("file:") {
            throw Failure(.targetUnreachable, error.message, try: beginning)
        } catch VaultError.notFound(let text) {
            throw Failure(.notFound, text, try: beginning)
        }
        guard let follow else { return try show(prune ? copy.runAndPrune() : copy.run()) }
        while true {
            do {
                let report = try copy.run()
                if report.publishedChains > 0 { try show(report) }
            } catch let error as VaultError where error.isRecoverable {
                printError("farshore: \(error); tried again in \(follow) s")
            }
            sleep(follow)
        }
    }

    private func show(_ report: CopyReport) throws {
        let document = Document(
            from: url, to: to, sentObjects: report.sentObjects, sentBytes: report.sentBytes, presentObjects: report.presentObjects,
            publishedChains: report.publishedChains, removedObjects: report.removedObjects)
        try output.print(document, text: \.text)
    }

    /// What is remembered of a copy is of that copy: the source has chains of the same names.
    private func memory(ofCopy id: VaultID) throws(VaultError) -> HeadMemory {
        let folder = "\(site.directory.headsFolder)/copy-\(id)"
        do throws(SystemError) {
            try site.directory.create()
            try Directory.create(folder, mode: 0o700)
        } catch {
            throw .memory(error)
        }
        return HeadMemory(folder: folder)
    }
}

struct VaultAdopt: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "adopt",
        abstract: "Make a copy of a vault a vault of its own.",
        discussion: """
            With SEED, a vault that was replicated to a portable disk, that is copied to the URL first; interrupted, it is run again.
            From then on uploaders and collections write to it, and `farshore vault copy` into it is refused. Before, each object that a
            point needs is asked for, eight at a time: a million objects take about an hour where an answer takes 25 ms. When a newest state lacks one it
            stays a copy, exit status 6; what only older points lack is a warning.
            `farshore vault check URL --read-data` reads everything. For the disks of the other vault: farshore retarget.

            Example:
              farshore vault adopt 's3://second/vault?region=eu-west-1' --key-file /etc/farshore/vault.key
              farshore vault adopt file:///mnt/portable/vault 's3://second/vault?region=eu-west-1' --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        let vault: String
        let url: String
    }

    @Argument(help: ArgumentHelp("The copy; before another URL, the vault that is copied there first.", valueName: "seed-or-url"))
    var first: String

    @Argument(help: ArgumentHelp("Where the seed becomes a vault of its own: an empty place, or a copy of it that was begun.", valueName: "url"))
    var second: String?

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let url = second ?? first
        if second != nil {
            let seed = try openVault(url: first, key: key, site: site)
            _ = try VaultCopy(of: seed, at: openStore(url: url, createDirectory: true), begins: true) { _ in HeadMemory(folder: nil) }.run()
        }
        // Without the site's memory: that of the other vault may be ahead of the copy.
        let vault = try Vault.open(store: openStore(url: url), key: try key.source(), memory: HeadMemory(folder: nil), keyFiles: key.files)
        printError("farshore: \(url) is asked for each object that its points need")
        let progress = CountProgress()
        let older = try vault.adopt(progress: progress.note)
        progress.finish()
        if !older.isEmpty { printError("farshore: warning: older points at \(url) are not whole: \(older.summary)") }
        try output.print(Document(vault: vault.id.description, url: url)) { "\($0.url) is a vault of its own now" }
    }
}
