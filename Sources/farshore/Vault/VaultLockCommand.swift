// `farshore vault lock`: what points need stays locked at a target that locks objects.

import ArgumentParser
import Foundation
import ObjectStore
import Site
import Vault

struct VaultLockCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lock",
        abstract: "Extend the locks of the objects that recovery points need, in a bucket with object lock.",
        discussion: """
            A bucket with object lock and a default retention locks each object for a time when it is written. What points need for longer gets its
            lock extended by this command: after it, everything needed is locked for the time given or longer, by the target's clock. What no point
            needs is left to expire. Run it each day, from a timer, as the identity that collects. Interrupted, it goes on with the next run.

            Objects that somebody deleted or wrote over are locked too, in the version that is sound, and told (exit status 6): `farshore vault undo`
            brings them back.

            Example:
              farshore vault lock 's3://bucket/vault?region=eu-west-1' --key-file /etc/farshore/vault.key --for 15d
            """)

    struct Document: Encodable {
        let objects: UInt64
        let extendedObjects: UInt64
        let hiddenObjects: UInt64
        let missingObjects: UInt64
        let damaged: [String]

        init(_ report: LockReport) {
            (objects, extendedObjects) = (report.objects, report.extendedObjects)
            (hiddenObjects, missingObjects, damaged) = (report.hiddenObjects, report.missingObjects, report.damage.map(\.description))
        }

        var text: String { "\(objects) objects that points need are locked, \(extendedObjects) of them for longer than before" }
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @Option(name: .customLong("for"), help: ArgumentHelp("How long from now everything needed is to stay locked: 15d, 2h.", valueName: "time"), transform: lockSpan)
    var span: Int

    @Option(name: .long, help: ArgumentHelp("governance: who may bypass it can still delete; compliance: nobody can. Without it, each object keeps its own, or gets that of the bucket.", valueName: "mode"))
    var mode: LockMode?

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let report = try VaultLock(soundVault(url: url, key: key, site: site, locking: true), spanSeconds: span, mode: mode, extends: true).run()
        try output.print(Document(report), text: \.text)
        try report.refuseMeddled()
    }
}

extension LockMode: ExpressibleByArgument {
    package init?(argument: String) { self.init(rawValue: argument.uppercased()) }
    package static var allValueStrings: [String] { ["governance", "compliance"] }
}

extension LockReport {
    /// What is left of the vault is locked by now; that there is less than there should be ends the command with a status of its own.
    func refuseMeddled() throws {
        guard !isWhole else { return }
        let found = [
            hiddenObjects > 0 ? "\(hiddenObjects) objects that points need were deleted or written over" : nil,
            missingObjects > 0 ? "\(missingObjects) are not there in any version" : nil,
        ].compactMap(\.self) + damage.map(\.description)
        throw Failure(.integrityDamage, found.joined(separator: "; "), try: "`farshore vault undo URL` shows what can be brought back")
    }
}

@Sendable func lockSpan(_ text: String) throws -> Int {
    guard let seconds = Quantity.seconds(text).flatMap({ Int(exactly: $0) }), 1...VaultLock.spanSecondsMax ~= seconds else {
        throw ValidationError("\(text.debugDescription) is no span of time up to \(VaultLock.spanSecondsMax / 86_400) days: write 15d or 2h")
    }
    return seconds
}

/// The vault at `url` as its sound versions tell it.
func soundVault(url: String, key: KeyOptions, site: SiteOptions, locking: Bool) throws -> SoundVault {
    try SoundVault(store: openStore(url: url), key: try key.source(), memory: headMemory(site), keyFiles: key.files, locking: locking)
}
