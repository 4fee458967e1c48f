// An object that holds disk content, of whichever disk.

package import Vault

package enum DataSource: Hashable, Sendable {
    case chunk(ChunkRef)
    case segment(disk: VaultID, SegmentID)

    package init(_ source: MapSource, disk: VaultID) {
        switch source {
        case .chunk(let chunk): self = .chunk(chunk)
        case .segment(let segment): self = .segment(disk: disk, segment)
        }
    }

    package var place: ObjectPlace {
        switch self {
        case .chunk(let chunk): .chunk(chunk)
        case .segment(let disk, let segment): .segment(disk: disk, lineage: segment.lineage, first: segment.first, last: segment.last)
        }
    }
}
