// What decides whether a recovery point is good: the file systems' own checkers, a script, or a guest that boots from it.

import ArgumentParser
import Foundation

enum CheckKind: String, ExpressibleByArgument, CaseIterable {
    case fsck, script, boot
}

struct CheckOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("fsck, script or boot.", valueName: "kind"))
    var check: CheckKind?

    @Option(name: .long, help: ArgumentHelp("The program for `--check script`: good when it exits with 0. FARSHORE_ROOTS and FARSHORE_IMAGES name the mounted file systems and the disks, divided by colons.", valueName: "file"))
    var script: String?

    @Option(name: .long, help: "The seconds that the check may take; then the verdict is bad.")
    var timeLimit: Double = 600

    @Option(name: .long, help: ArgumentHelp("`--check boot`: what the guest's serial console has to show.", valueName: "text"))
    var console: String = "login:"

    @Option(name: .long, help: ArgumentHelp("`--check boot`: keep a picture of the guest's screen (PNG).", valueName: "file"))
    var screenshot: String?

    @Option(name: .long, help: "`--check boot`: the guest's memory in MiB.")
    var memory: Int = 1024

    @Option(name: .customLong("qemu"), parsing: .unconditionalSingleValue, help: ArgumentHelp("`--check boot`: a further argument for QEMU; may be repeated.", valueName: "argument"))
    var arguments: [String] = []

    /// A script that is named without --check is meant.
    var kind: CheckKind { check ?? (script == nil ? .fsck : .script) }

    func validate() throws {
        guard (kind == .script) == (script != nil) else { throw ValidationError("--script goes with --check script, and the other way round") }
        guard kind == .boot || (screenshot == nil && arguments.isEmpty) else { throw ValidationError("--screenshot and --qemu go with --check boot") }
        guard timeLimit > 0, memory > 0, !console.isEmpty else { throw ValidationError("--time-limit and --memory are numbers above 0, --console is not empty") }
    }

    /// What the verdict hangs on beside the program: with another one of these a point may be another one.
    var judgement: [String] { ["\(timeLimit)"] + (kind == .boot ? ["\(memory)", console] + arguments : []) }

    /// As verdicts have it: the kind, and the script's name.
    var name: String {
        guard let script else { return kind.rawValue }
        let file = script.split(separator: "/").last.map(String.init) ?? script
        let plain = file.map { $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) ? $0 : "-" }
        return String("script-\(String(plain))".prefix(64))
    }
}
