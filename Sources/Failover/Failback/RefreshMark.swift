// The file `failback` in a log's folder: how far the image beside it is on its way to another state. Mirrors docs/formats/failback.md.
// It is there before the first byte of the image is changed and goes after the new log is there; while it is there, nobody else opens
// image or log (`LogFolder.refuseDuringFailback`). Written by ImageRefresh.

package import BlockIO
package import ChangeLog
package import DiskImage
import Foundation
package import Vault

package struct RefreshMark: Codable, Equatable, Sendable {
    /// A state of the disk in the vault.
    package struct State: Codable, Equatable, Sendable {
        package let lineage: VaultID
        package let sequence: UInt64

        package init(lineage: VaultID, sequence: UInt64) {
            self.lineage = lineage
            self.sequence = sequence
        }
    }

    package struct Pass: Codable, Equatable, Sendable {
        package let target: State
        /// The blocks below are as in the target, durably.
        package var doneBlocks: UInt64
    }

    private(set) var format = 1
    package let vault: VaultID
    package let disk: VaultID
    /// What the image held, as a whole, before the pass under way; nil where that is not known.
    package internal(set) var base: State?
    /// Over `base` the image held the log's records after it, which the vault does not have.
    package internal(set) var hasUnsent: Bool
    /// Under way, or interrupted.
    package internal(set) var pass: Pass?
    /// Over all passes.
    package internal(set) var writtenBytes: UInt64 = 0
    package internal(set) var fetchedBytes: UInt64 = 0

    package init(vault: VaultID, disk: VaultID, base: State?, hasUnsent: Bool) {
        self.vault = vault
        self.disk = disk
        self.base = base
        self.hasUnsent = hasUnsent
    }

    /// A file of a mark that was never put in its place: nothing was done under it.
    static func isUnfinished(_ name: String) -> Bool { name.hasPrefix("failback.") && name.hasSuffix(".new") }

    /// Nil when no failback was begun there. A file that is none is an error: what the image holds is not known then.
    package static func load(_ folder: LogFolder) throws(RefreshError) -> RefreshMark? {
        let bytes: [UInt8]?
        do { bytes = try DurableFile.read(folder.failbackFile, limitBytes: 1 << 16) } catch { throw .system(error) }
        guard let bytes else { return nil }
        guard let mark = try? JSONDecoder().decode(RefreshMark.self, from: Data(bytes)) else {
            throw .refused("\(folder.failbackFile) is damaged: it does not say what the image holds", try: "farshore failback cancel UNIT, then farshore failback start UNIT, which compares the whole image")
        }
        guard mark.format == 1 else { throw .refused("\(folder.failbackFile) was written by a newer version", try: "that version") }
        return mark
    }

    package func store(_ folder: LogFolder) throws(RefreshError) {
        do throws(SystemError) { try DurableFile.replace(folder.failbackFile, with: try encoded(folder)) } catch { throw .system(error) }
    }

    package static func remove(_ folder: LogFolder) throws(RefreshError) {
        do throws(SystemError) { try DurableFile.remove(folder.failbackFile) } catch { throw .system(error) }
    }

    private func encoded(_ folder: LogFolder) throws(SystemError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        do { return Array(try encoder.encode(self)) + [0x0A] } catch {
            throw SystemError(errno: 22, operation: "write the state of the failback as JSON (\(error))", path: folder.failbackFile)
        }
    }
}

package enum RefreshError: Error, CustomStringConvertible {
    case vault(VaultError)
    case image(ImageError)
    case log(LogError)
    case system(SystemError)
    case stopped
    case refused(String, try: String)

    package var description: String {
        switch self {
        case .vault(let error): "\(error)"
        case .image(let error): "\(error)"
        case .log(let error): "\(error)"
        case .system(let error): "\(error)"
        case .stopped: "stopped; the next run goes on"
        case .refused(let what, _): what
        }
    }
}
