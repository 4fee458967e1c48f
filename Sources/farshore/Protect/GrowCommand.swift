// `farshore grow`: a protected disk gets larger, mounted or not. Its image and log are prepared by whoever has the disk open; the
// opening after that ends it, so a mount's worker gives way to a successor (VirtualDisk/Growth.swift).

import ArgumentParser
import BlockIO
import ChangeLog
import DiskImage
import Failover
import FuseExport
import Glibc
import Replication
import Site
import Vault
import VirtualDisk

struct GrowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "grow",
        abstract: "Make a protected disk larger; its replication goes on, its points keep the size they had.",
        discussion: """
            The disk of a raw image, a fixed or a dynamic VHD grows, mounted or not; it never shrinks. What is added reads as zeros. While
            it is mounted its users notice a pause, as with `farshore upgrade`, and see the new size within a second; a loop device
            takes it with `losetup -c`, QEMU with `block_resize`. Interrupted, it can be run again.

            Example:
              farshore grow db1 200G
            """)

    private static let restartSecondsMax: UInt64 = 30

    @Argument(help: "The disk.")
    var disk: String

    @Argument(help: "The new size, whole MiB: \(Quantity.byteChoices).", transform: byteCount)
    var size: UInt64

    @OptionGroup var site: SiteOptions
    @OptionGroup var output: OutputOptions

    struct Document: Encodable {
        let disk: String
        let image: String
        let oldSizeBytes: UInt64
        let sizeBytes: UInt64
    }

    func run() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        let state = try LogFolder(protected.logFolder).readState()
        let old = state.diskBytes
        guard size >= old else {
            throw Failure(.usage, "\(disk) has \(old) bytes and never shrinks", try: "a size above that, or a new disk")
        }
        guard size <= FormatLimits.diskBytesMax, state.growths.count < FormatLimits.growthsMax else {
            throw Failure(.usage, "a disk has at most \(FormatLimits.diskBytesMax) bytes in a vault, and grows \(FormatLimits.growthsMax) times", try: "a smaller size, or a new disk")
        }
        if size > old {
            try requireGrowable(protected.imagePath, format: try protected.imageFormat(), disk: disk, from: old, to: size)
            if try !growMounted() { try growUnmounted(protected) }
        }
        if protected.sizeBytes != size { try catalogue.setSize(size, ofDisk: disk) }
        if size > old { try catalogue.record(.information, disk: disk, "grown from \(old) to \(size) bytes") }
        try output.print(Document(disk: disk, image: protected.imagePath, oldSizeBytes: old, sizeBytes: size)) {
            "\($0.disk): \(bytesText($0.sizeBytes))" + ($0.oldSizeBytes == $0.sizeBytes ? " already" : ", was \(bytesText($0.oldSizeBytes))")
        }
    }

    /// False when no mount serves the disk.
    private func growMounted() throws -> Bool {
        let client = ControlClient(site: site.directory)
        guard try isMounted(client) else { return false }
        let supervisor = try UpgradeCommand.supervisor(of: site.directory)
        if case .refused(let refusal) = try client.ask(.grow(disk: disk, sizeBytes: size), timeoutSeconds: 120) {
            let status: ExitStatus =
                switch refusal.reason {
                case .busy: .inUse
                case .notEnoughSpace: .notEnoughSpace
                default: .failed
                }
            throw Failure(status, refusal.message, try: refusal.remedy)
        }
        let outcome = try UpgradeCommand.replaceWorker(of: site.directory, supervisor: supervisor)
        guard let now = try served(client), now.sizeBytes == size else {
            try refuseGivenUp()
            let reason = outcome.failure.map { ": \($0)" } ?? ""
            throw Failure(.failed, "\(disk) is prepared for its new size, but not served with it\(reason)", try: "farshore status \(disk), then farshore grow \(disk) \(size) again")
        }
        return true
    }

    /// Its new worker found that the image cannot grow, and said why in an event.
    private func refuseGivenUp() throws {
        let catalogue = try site.catalogue()
        let protected = try catalogue.disk(named: disk)
        let state = try LogFolder(protected.logFolder).readState()
        guard state.growingBytes == nil, state.diskBytes < size else { return }
        let said = try catalogue.events(limit: 10, disk: disk).last { $0.text.hasPrefix(GrowthFailure.firstWords) }?.text
        let format = try protected.imageFormat()
        var status = ExitStatus.failed
        do throws(ImageError) { try requireGrowable(protected.imagePath, format: format, from: state.diskBytes, to: size) } catch { status = Failure(error).status }
        throw Failure(status, "\(disk) \(said ?? "stays at \(state.diskBytes) bytes")", try: Self.givenUpRemedy(disk))
    }

    private static func givenUpRemedy(_ disk: String) -> String { "make room where the image of \(disk) lies, then the same command again" }

    /// A worker that is being replaced does not answer for a moment.
    private func isMounted(_ client: ControlClient) throws -> Bool {
        let deadline = Clock.monotonicNanoseconds() + Self.restartSecondsMax * 1_000_000_000
        while true {
            do throws(SiteError) {
                return try served(client) != nil
            } catch {
                guard error.code == .mountAway else { throw error }
                guard try SiteLock.isTaken(site.directory.mountLockPath) else { return false }
                guard Clock.monotonicNanoseconds() < deadline else { throw error }
            }
            usleep(50_000)
        }
    }

    private func served(_ client: ControlClient) throws(SiteError) -> ServedDiskStatus? {
        guard case .status(let disks, _, _) = try client.demand(.status) else { return nil }
        return disks.first { $0.disk == disk }
    }

    private func growUnmounted(_ protected: ProtectedDisk) throws {
        // An opening may have ended an earlier growth just now, or given it up.
        _ = try withOwned(protected) { if $0.sizeBytes != size { try $0.beginGrowth(to: size, format: try protected.imageFormat()) } }
        guard let failure = try withOwned(protected, { _ in }) else { return }
        let status = Failure(failure.cause).status
        throw Failure(status, "\(disk) \(failure)", try: Self.givenUpRemedy(disk))
    }

    /// Its locks are given up when this returns.
    private func withOwned(_ protected: ProtectedDisk, _ body: (VirtualDisk) throws -> Void) throws -> GrowthFailure? {
        let opened = try waitingForUploader(of: site.directory) { try OwnedDisk.open(protected, site: site.directory) }
        do { try body(opened.disk) } catch {
            opened.disk.abandon()
            throw error
        }
        try opened.disk.close()
        return opened.growthFailure
    }
}

extension ProtectedDisk {
    /// What the disk has until it is open: its log knows of a growth before the catalogue does. Whether it opens is not asked here.
    var sizeBytesUntilOpen: UInt64 { (try? LogFolder(logFolder).readState().diskBytes) ?? sizeBytes }

    /// Before the image is opened, by who has both locks. Where it could not be grown, an event says so, and the disk goes on.
    func completeGrowth(of image: borrowing ImageLock, holding lock: borrowing OwnerLock, site: SiteDirectory) throws -> GrowthFailure? {
        guard let failure = try VirtualDisk.completeGrowth(of: image, format: imageFormat(), folder: LogFolder(logFolder), lock: lock) else { return nil }
        do { try Catalogue(site: site).record(.warning, disk: name, "\(failure)") } catch { serviceLog("\(name) \(failure); no event recorded: \(error)") }
        return failure
    }
}
