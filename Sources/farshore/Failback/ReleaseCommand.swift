// `farshore failover release` and `farshore failback release`: the same, on the host that guests left.

import ArgumentParser
import Failover

private let releaseAbstract = "Take a machine that guests left out of this site."

private func releaseDiscussion(_ command: String) -> String {
    """
    Its disks are no longer disks of this site, and their logs go. Images that a failover made go too; others stay unless --remove-images is given, with all that was
    written to them. One that a failback has half changed is renamed to NAME.half-refreshed. Where this host has writes that the vault never got, or cannot tell,
    nothing is released without --drop-writes. The vault is not touched.

    Example:
      farshore \(command) release db1
    """
}

struct FailoverRelease: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "release", abstract: releaseAbstract, discussion: releaseDiscussion("failover"))

    @OptionGroup var release: ReleaseOptions

    func run() throws { try release.run() }
}

struct FailbackRelease: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "release", abstract: releaseAbstract, discussion: releaseDiscussion("failback"))

    @OptionGroup var release: ReleaseOptions

    func run() throws { try release.run() }
}

struct ReleaseOptions: ParsableArguments {
    @OptionGroup var options: UnitOptions

    @Flag(name: .long, help: "Remove images too that no failover made.")
    var removeImages = false

    @Flag(name: .long, help: "Go on where this host has writes that the vault never got, or cannot tell.")
    var dropWrites = false

    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        let isImageRemoved: Bool
    }

    func run() throws {
        let released = try OpenedFailback(options).failbacks.releaseReplica(options.unit, removesImages: removeImages, dropsWrites: dropWrites)
        try output.print(released.map { Document(disk: $0.disk, image: $0.image, isImageRemoved: $0.isImageRemoved) }) { documents in
            documents.map { "\($0.disk): released; \($0.image) \($0.isImageRemoved ? "is removed" : "stays")" }.joined(separator: "\n")
        }
    }
}
