// `farshore host key`: a registration key, to be carried to a new host.

import ArgumentParser
import BlockIO
import Foundation
import Site
import Vault

struct HostKeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key",
        abstract: "Make a registration key, with which one new host gets the vault's key and joins it.",
        discussion: """
            The key is one line, printed or written to a file (0600). Carry it as you would the vault's key: until it was used or collected, who has it and can read
            the vault's objects can open the vault. It is good for one host, and for five days unless --days says otherwise, by the target's clock where the target
            tells one (S3, Azure), else by the clock of the host that joins. `vault collect` removes it from the vault when it was used or has expired.

            Example:
              farshore host key file:///srv/vault --key-file /etc/farshore/vault.key --out registration.txt
            """)

    @Argument(help: ArgumentHelp("The vault, as the new host reaches it.", valueName: "url"))
    var url: String

    @OptionGroup var key: KeyOptions

    @Option(name: .long, help: ArgumentHelp("How long it is good for, 1 to 30.", valueName: "days"))
    var days = Registration.daysDefault

    @Option(name: .long, help: ArgumentHelp("Write it to this new file instead of printing it.", valueName: "file"))
    var out: String?

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let vault: String
        let id: String
        let expires: String
        /// Absent where it went to a file.
        let registrationKey: String?
        let file: String?
    }

    func validate() throws {
        guard (1...30).contains(days) else { throw ValidationError("--days is 1 to 30") }
    }

    func run() throws {
        if let out, access(out, F_OK) == 0 { throw Failure(.inUse, "\(out) is there already", try: "--out with a new file") }
        let vault = try openVault(url: url, key: key, site: site)
        let made = try vault.makeRegistration(url: url, days: days)
        let text = try made.text()
        if let out { try DurableFile.replace(absolutePath(out), with: Array((text + "\n").utf8)) }
        let document = Document(
            vault: vault.id.description, id: made.id.description, expires: timeText(nanoseconds: made.expiresMicros * 1_000), registrationKey: out == nil ? text : nil,
            file: out.map(absolutePath))
        try output.print(document) { document in
            let place = document.file.map { "The registration key is in \($0)" } ?? "\(text)\n"
            return "\(place)\nGood for one host, until \(document.expires). There: farshore host join --registration-key FILE" + (vault.isEncrypted ? " --key-file FILE" : "")
        }
    }
}
