// `farshore vault undo`: what somebody deleted or wrote over comes back from the versions that the target kept.

import ArgumentParser
import ObjectStore
import Vault

struct VaultUndoCommand: ParsableCommand {
    private static let shownMax = 20

    static let configuration = CommandConfiguration(
        commandName: "undo",
        abstract: "Bring back the objects of a vault that somebody deleted or wrote over, in a bucket that keeps versions.",
        discussion: """
            Looks at every version of the vault's objects and shows what is to be done, so that all points of the newest sound heads can be restored
            again; with --apply it is done. Objects that were deleted come back, earlier versions are copied over what was put on them, and what was
            put where a head or key would be looked for gets a delete marker. Sound versions are told by the vault's key, the hashes in the vault and
            what this host has seen of it: run it on the protected host, or where points were listed before. What a collection removed stays removed.

            Nothing sound is removed, so it may be repeated, and interrupted. Take the rights of whoever did the damage away first. Afterwards:
            farshore vault check URL --read-data

            Example:
              farshore vault undo 's3://bucket/vault?region=eu-west-1' --key-file /etc/farshore/vault.key
            """)

    struct Document: Encodable {
        struct Step: Encodable {
            let object: String
            /// `undelete`, `copy` or `delete`.
            let step: String
        }

        let steps: [Step]
        /// They were done.
        let applied: Bool
        let lost: [String]

        init(_ report: UndoReport, applied: Bool) {
            steps = report.steps.map { Step(object: $0.key, step: $0.kind.rawValue) }
            (self.applied, lost) = (applied, report.lost.map(\.description))
        }

        var text: String {
            guard !steps.isEmpty else { return "Nothing that points need was deleted or written over." }
            func count(_ kind: UndoStep.Kind) -> Int { steps.filter { $0.step == kind.rawValue }.count }
            var lines = steps.prefix(shownMax).map { "\($0.step)  \($0.object)" }
            if steps.count > shownMax { lines.append("and \(steps.count - shownMax) more (--json lists all)") }
            lines.append("\(count(.undelete)) deleted and \(count(.copy)) overwritten objects \(applied ? "were brought back" : "can be brought back")"
                + (count(.delete) > 0 ? ", \(count(.delete)) foreign ones \(applied ? "were" : "are to be") deleted" : ""))
            lines.append(applied ? "Now run `farshore vault check URL --read-data`." : "Nothing was changed; --apply does it.")
            return lines.joined(separator: "\n")
        }
    }

    @Argument(help: ArgumentHelp("The vault.", valueName: "url"))
    var url: String

    @Flag(name: .long, help: "Do it. Without it, what would be done is shown.")
    var apply = false

    @OptionGroup var key: KeyOptions
    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let undo = VaultUndo(try soundVault(url: url, key: key, site: site, locking: false))
        let report = try undo.plan()
        if apply { try undo.apply(report) }
        try output.print(Document(report, applied: apply), text: \.text)
        guard let first = report.lost.first else { return }
        throw Failure(
            .integrityDamage, "of \(report.lost.count) object\(report.lost.count == 1 ? "" : "s") no sound version is left; the first: \(first)",
            try: "`farshore vault check URL` names the points that need them; a copy of the vault may have them")
    }
}
