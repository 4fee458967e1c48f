// File `base` of a recovery disk: the point that its image is filled from (docs/formats/recovery-disk.md). While it is there the
// image alone is not the disk. Written by who makes the disk, removed when the image stands alone.

import BlockIO
package import DiskImage
import Foundation
package import Vault

package struct RecoveryBase: Codable, Equatable, Sendable {
    private static let bytesMax = 4096

    package private(set) var format = 1
    package let vault: VaultID
    package let disk: VaultID
    /// The lineage that had the point when the disk was made; the vault may since name the point by a later one.
    package let lineage: VaultID
    package let sequence: UInt64
    /// Of the disk at the point.
    package let sizeBytes: UInt64
    /// Ties the presence map to this file.
    package let fill: VaultID

    package init(vault: VaultID, disk: VaultID, lineage: VaultID, sequence: UInt64, sizeBytes: UInt64) {
        self.vault = vault
        self.disk = disk
        self.lineage = lineage
        self.sequence = sequence
        self.sizeBytes = sizeBytes
        fill = .random()
    }

    /// Nil where there is none: the image stands alone.
    package static func load(_ path: String) throws(ImageError) -> RecoveryBase? {
        let bytes: [UInt8]?
        do throws(SystemError) { bytes = try DurableFile.read(path, limitBytes: bytesMax) } catch { throw .system(error) }
        guard let bytes else { return nil }
        guard let base = try? JSONDecoder().decode(RecoveryBase.self, from: Data(bytes)), base.sizeBytes > 0, base.sizeBytes % 512 == 0,
            base.sizeBytes <= FormatLimits.diskBytesMax, base.sequence <= FormatLimits.integerMax
        else {
            throw .damaged(ImageDamage(
                path: path, field: "content", offset: 0, found: "\(bytes.count) bytes", expected: "the point that the image is filled from",
                meaning: "without it nobody knows what the image lacks; make the recovery disk again from its point"))
        }
        guard base.format == 1 else {
            throw .unsupported(path: path, what: "format \(base.format) is not known to this program", remedy: "use a newer version of farshore")
        }
        return base
    }

    package func store(_ path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        try DurableFile.replace(path, with: [UInt8](try encoder.encode(self)))
    }
}
