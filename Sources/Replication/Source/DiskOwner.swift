// Who holds a protected disk's change log. Only the owner flushes, destages and freezes; the uploader asks it. While a
// mount runs that is its worker (MountedOwner); while none runs the uploader's own process opens the disk for the
// moment of the call (FolderOwner in the command line).

package import Site

package protocol DiskOwner: Sendable {
    /// Makes the log durable; returns the sequence through which its records may be uploaded.
    func makeDurable() throws -> UInt64

    /// Makes sure that the log has a sequence above all that there was before: cuts a point.
    func cut() throws

    /// Destages through a sequence S and holds the image at S, across restarts, until `unfreeze`. Returns S; a disk
    /// that is frozen already stays at its S.
    func freeze() throws -> UInt64

    /// Lets destage go on; a disk that is not frozen is left alone.
    func unfreeze() throws
}

/// The disk as a running mount of the site serves it.
package struct MountedOwner: DiskOwner {
    /// A freeze first destages all that is in the log.
    private static let freezeSecondsMax = 3600

    private let client: ControlClient
    private let disk: String

    package init(site: SiteDirectory, disk: String) {
        client = ControlClient(site: site)
        self.disk = disk
    }

    package func makeDurable() throws -> UInt64 {
        guard case .durable(let sequence) = try client.demand(.makeDurable(disk: disk), timeoutSeconds: 120) else { throw Self.crossed() }
        return sequence
    }

    package func cut() throws {
        guard case .points = try client.demand(.cut(disks: [disk], tag: nil, isApp: false), timeoutSeconds: 120) else { throw Self.crossed() }
    }

    package func freeze() throws -> UInt64 {
        guard case .frozen(let sequence) = try client.demand(.freeze(disk: disk), timeoutSeconds: Self.freezeSecondsMax) else { throw Self.crossed() }
        return sequence
    }

    package func unfreeze() throws {
        guard case .done = try client.demand(.unfreeze(disk: disk), timeoutSeconds: 120) else { throw Self.crossed() }
    }

    private static func crossed() -> SiteError {
        SiteError(.controlGarbled, "the mount answered another question", remedy: "unmount and mount again with one version of farshore")
    }
}
