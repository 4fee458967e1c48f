// The command line: one binary, one thin file a command, grouped by noun.

import ArgumentParser
import CLinux
@preconcurrency import Glibc

struct Farshore: ParsableCommand {
    static let release = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "farshore",
        abstract: "Continuous replication of virtual disks to a vault.",
        version: Self.release,
        subcommands: [
            VaultCommand.self,
            MountCommand.self,
            UnmountCommand.self,
            UpgradeCommand.self,
            TakeoverTrialCommand.self,
            ServeMountCommand.self,
            ServePointsCommand.self,
            ImageCommand.self,
            ProtectCommand.self,
            UnprotectCommand.self,
            AcceptCommand.self,
            GrowCommand.self,
            TargetCommand.self,
            RetargetCommand.self,
            HostCommand.self,
            SiteCommand.self,
            UploadCommand.self,
            MachineCommand.self,
            GroupCommand.self,
            PlanCommand.self,
            ApplyCommand.self,
            PolicyCommand.self,
            PointCommand.self,
            RestoreCommand.self,
            FileCommand.self,
            VerifyCommand.self,
            BisectCommand.self,
            AuditCommand.self,
            DrillCommand.self,
            FailoverCommand.self,
            ReprotectCommand.self,
            FailbackCommand.self,
            StatusCommand.self,
            JobCommand.self,
            EventsCommand.self,
            PauseCommand.self,
            ResumeCommand.self,
            ResyncCommand.self,
            DoctorCommand.self,
        ])
}

@main
struct Program {
    /// ArgumentParser's own exit codes are replaced by the documented ones.
    static func main() {
        setvbuf(stdout, nil, _IOLBF, 0)
        // It would hold keys, and guests' data.
        farshore_write_no_core()
        // Whoever owns a log has a file open for each of its segments: hundreds, with several disks thousands.
        _ = farshore_raise_open_files_max()
        do {
            var command = try Farshore.parseAsRoot(words)
            try command.run()
        } catch {
            exit(report(error).rawValue)
        }
    }

    /// What it was told to do.
    static var words: [String] { siteLifted(from: Array(CommandLine.arguments.dropFirst())) }

    /// `farshore --site DIR command` means the same as `farshore command --site DIR`.
    private static func siteLifted(from arguments: [String]) -> [String] {
        guard let first = arguments.first else { return arguments }
        if first == "--site", arguments.count > 2 {
            return Array(arguments[2...]) + ["--site", arguments[1]]
        }
        if first.hasPrefix("--site="), arguments.count > 1 { return Array(arguments[1...]) + [first] }
        return arguments
    }

    private static func report(_ error: any Error) -> ExitStatus {
        if let failure = Failure.explaining(error)?.repeatingKey(of: words) {
            printError("farshore: \(failure)")
            return failure.status
        }
        let code = Farshore.exitCode(for: error)
        let text = Farshore.fullMessage(for: error)
        if code == .success {
            print(text)
            return .done
        }
        if code == .validationFailure {
            // The parser names the command's own help in its last line.
            let help = text.firstMatch(of: /\n *See '(farshore.* --help)' for more information\.\n?/)
            printError(help.map { "\(text[..<$0.range.lowerBound])\nTry: \($0.1)" } ?? text + "\nTry: farshore --help")
            return .usage
        }
        if !text.isEmpty { printError("farshore: \(text)\nTry: farshore doctor") }
        return .failed
    }
}
