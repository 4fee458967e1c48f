// What can be done about a job that did not end well, or runs: which command tries it again and which one takes it back. Pure; the commands
// themselves do the work, and say no where it is no longer possible (`farshore job retry`, `farshore job cancel`).

package enum JobRecourse: Equatable, Sendable {
    /// The words of a command of this program.
    case command([String])
    case refused(String, remedy: String)
}

extension Job {
    /// `later`: an attempt at the same that was made since.
    package func retry(later: Job?) -> JobRecourse {
        switch state {
        case .running: return .refused("job \(id) runs", remedy: "farshore job show \(id)")
        case .succeeded: return .refused("job \(id) succeeded", remedy: "farshore job list shows what did not")
        case .failed, .interrupted, .cancelled: break
        }
        if let later { return .refused("job \(later.id) is a later attempt at it", remedy: "farshore job show \(later.id)") }
        switch kind {
        // The uploader does them by itself; what makes it do so at once is another command.
        case .initialReplication: return .command(["resume", disk ?? ""] + target)
        case .resynchronisation: return .command(["resync", disk ?? "", "--now"] + target)
        case .protect, .unprotect, .failover, .failback, .failoverPreparation, .testFailover:
            guard let command else { return .refused("job \(id) is of an earlier release, which did not keep the command", remedy: "the command that began it, once more") }
            if let word = command.words.first(where: Self.wordsThatGiveUpWrites.contains) {
                return .refused("job \(id) was told \(word), which gives up writes: a person says that each time", remedy: "farshore job show \(id) prints the command")
            }
            return .command(command.words)
        }
    }

    private static let wordsThatGiveUpWrites: Set<String> = ["--drop-home-writes", "--drop-writes", "--discard-log"]

    /// `later`: as above.
    package func cancel(later: Job?) -> JobRecourse {
        if state == .succeeded { return .refused("job \(id) succeeded: there is nothing to cancel", remedy: undoing) }
        if let later { return .refused("job \(later.id) is a later attempt at it", remedy: "farshore job cancel \(later.id)") }
        if state == .cancelled { return .refused("job \(id) was cancelled", remedy: "farshore job retry \(id) begins it again") }
        let unit = disk ?? ""
        switch kind {
        case .initialReplication, .resynchronisation: return .command(["pause", unit] + target)
        case .protect: return .refused("a disk is protected when its job has ended, and not before: there is nothing to take back", remedy: "farshore status, and where it is listed: farshore unprotect \(unit)")
        case .unprotect: return .refused("what was merged is in the image: it can only be ended", remedy: "farshore job retry \(id)")
        case .failoverPreparation: return .command(["failover", "cancel", unit, "--unfinished"] + vaultWords)
        case .failover:
            if command?.words.contains("change-point") == true {
                return .refused("a change of point goes on from disks that were made before it", remedy: "farshore job retry \(id), or farshore failover change-point \(unit) with the old point; " + undoing)
            }
            if hasDone("failover") { return .refused("the disks of \(unit) are made, and guests may write on them", remedy: "farshore job retry \(id) starts what did not start; " + undoing) }
            return .command(["failover", "cancel", unit, "--unfinished"] + vaultWords)
        case .failback:
            guard isCompletion else { return .command(["failback", "cancel", unit] + vaultWords) }
            return hasDone("publish") ? .refused("\(unit) is back on this host", remedy: undoing) : .command(["failover", "cancel", unit, "--unfinished"] + vaultWords)
        case .testFailover:
            if steps.contains(where: { $0.name == "unmount" }) { return .refused("a test that is being cleaned up can only be ended", remedy: "farshore job retry \(id)") }
            guard let name = command?.value(of: "--name") else { return .refused("job \(id) does not say which test it was", remedy: "farshore failover tests, then farshore failover cleanup NAME") }
            return .command(["failover", "cleanup", name])
        }
    }

    /// What takes back what succeeded.
    private var undoing: String {
        let unit = disk ?? "UNIT"
        return switch kind {
        case .protect: "farshore unprotect \(unit)"
        case .unprotect: "farshore protect IMAGE --name \(unit) --vault URL"
        case .initialReplication, .resynchronisation: "farshore pause \(unit)"
        case .failover, .failoverPreparation: "farshore failover cancel \(unit) takes it back, with all that was written since"
        case .failback: isCompletion ? "farshore failover cancel \(unit) takes it back, with all that was written since" : "farshore failback cancel \(unit)"
        case .testFailover: "farshore failover tests"
        }
    }

    /// Its process ends by itself what it has in hand, or can be ended anywhere.
    package var isOfUploader: Bool { kind.isOfUploader }

    private var isCompletion: Bool { steps.contains { $0.name == "claim" } }
    private func hasDone(_ step: String) -> Bool { steps.contains { $0.name == step && $0.state == .succeeded } }
    private var target: [String] { vault.map { ["--vault", $0] } ?? [] }

    /// A site that never got as far as to know the unit is told where it is.
    private var vaultWords: [String] {
        ["--vault", "--key-file", "--passphrase-file"].flatMap { option in command?.value(of: option).map { [option, $0] } ?? [] }
    }
}

extension Job.Command {
    func value(of option: String) -> String? {
        for (index, word) in words.enumerated() {
            if word.hasPrefix(option + "=") { return String(word.dropFirst(option.count + 1)) }
            if word == option, index + 1 < words.count { return words[index + 1] }
        }
        return nil
    }
}
