// The unique id of an image that is made from a state in a vault: docs/formats/vhd.md, "Whose id an image of a point has". A VHD's child
// knows its parent by it alone, so it stands for what the image holds: no two states have the same, and one has the same in every restore.
// Used by Restore and for the VHDs of mounted points.

import BlockIO
package import DiskImage
import ObjectStore
package import Vault

/// 16 bytes. The lineage is no part of it: sequences are never used twice, and which lineage tells of one changes when another branches off.
package func pointImageID(vault: VaultID, disk: VaultID, sequence: UInt64, format: OutputFormat) -> [UInt8] {
    var number = [UInt8](repeating: 0, count: 8)
    number.withUnsafeMutableBytes { $0.putLE(sequence, at: 0) }
    return Array(Digests.sha256(Array("farshore-point-image".utf8) + vault.bytes + disk.bytes + number + Array(format.rawValue.utf8)).prefix(16))
}
