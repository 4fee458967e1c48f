// `farshore failover commit` and `cancel`: how a failover ends.

import ArgumentParser
import Failover

struct FailoverCommit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "commit",
        abstract: "Settle a failover: no other point can be chosen any more, and it cannot be cancelled.",
        discussion: """
            The points from before the one that was chosen are let go, but for pinned ones; with --keep-points the policy decides on them as before. After a
            failback that is the whole history until then. `failover show` says beforehand how many they are, and this command before it begins.
            The unit is not replicated until it is reprotected.

            Example:
              farshore failover commit db1
            """)

    @OptionGroup var options: UnitOptions

    @Flag(name: .long, help: "Keep the points from before the failover.")
    var keepPoints = false

    @OptionGroup var output: OutputOptions

    func run() throws {
        var before = 0
        let standing = try options.opened().failovers.commit(options.unit, keepsPoints: keepPoints) { points in
            before = points.count
            guard before > 0, let oldest = pointTime(micros: points.oldestMicros), let newest = pointTime(micros: points.newestMicros) else { return }
            printError("\(before) points from before the failover go, of \(oldest) to \(newest)")
        }
        var document = StandingDocument(standing)
        document.pointsLetGo = before
        try output.print(document, text: \.text)
    }
}

struct FailoverCancel: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Take a failover back that is not committed, or a preparation; the source can go on.",
        discussion: """
            On the host that failed over: the recovery disks and what was written on them are removed (refused while somebody uses them), then the vault
            lets the source's uploader publish again (farshore resume DISK there). On the host that was prepared: its mount serves the disks again. Where
            nothing is under way any more, what an interrupted command left on this host is removed. --lost, on another host: the one that failed over is gone for good.

            Example:
              farshore failover cancel db1
            """)

    @OptionGroup var options: UnitOptions

    @Flag(name: .long, help: "The host that failed over will never come back; what was written there is given up.")
    var lost = false

    @Flag(name: .long, help: "Only while the disks are not made, so that no guest can have written on them.")
    var unfinished = false

    @OptionGroup var output: OutputOptions

    func run() throws {
        let standing = try options.opened().failovers.cancel(options.unit, isLost: lost, onlyUnfinished: unfinished)
        try output.print(StandingDocument(standing), text: \.text)
    }
}
