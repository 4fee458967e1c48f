// `farshore doctor`: what this host offers, what is missing and how to get it. Each check states only what it found.

import ArgumentParser
import Foundation
import Site

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check the kernel, libraries, limits and clock of this host.",
        discussion: "Exit status 1 when something needed is missing; `degraded` lines cost speed or convenience only.\n\nExample:\n  farshore doctor")

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let checks = HostCheck.all(site: site.directory)
        try output.print(checks) { checks in
            checks.map { check in
                let line = "\(check.state.rawValue.padding(toLength: 9, withPad: " ", startingAt: 0))  \(check.name): \(check.found)"
                return check.remedy.map { "\(line)\n           Try: \($0)" } ?? line
            }.joined(separator: "\n")
        }
        if let missing = checks.first(where: { $0.state == .missing }) {
            throw Failure(.failed, "this host lacks what farshore needs: \(missing.name)", try: missing.remedy ?? "see the lines above")
        }
    }
}
