// What a key of the vault names, for those who meet keys in a LIST. A key that no place of ours has is nobody's business.

enum ObjectName: Hashable {
    case chunk(ChunkRef)
    case mapPage(Hash256)
    case kept(disk: VaultID, Hash256)
    case manifest(disk: VaultID, lineage: VaultID, sequence: UInt64)
    case segment(disk: VaultID, SegmentID)
    case collectionList(epoch: UInt32, number: UInt64)

    init?(key: String) {
        let parts = key.split(separator: "/", omittingEmptySubsequences: false)
        guard let name = Self.name(parts), name.key == key else { return nil }
        self = name
    }

    private static func name(_ parts: [Substring]) -> ObjectName? {
        switch (parts.first, parts.count) {
        case ("chunks", 3):
            let words = parts[2].split(separator: ".", omittingEmptySubsequences: false)
            guard words.count == 2, let id = Hash256(String(words[0])), let epoch = UInt32(words[1]) else { return nil }
            return .chunk(ChunkRef(id: id, epoch: epoch))
        case ("maps", 2):
            return Hash256(String(parts[1])).map { .mapPage($0) }
        case ("collect", 3):
            guard let epoch = UInt32(parts[1]), let number = UInt64(parts[2]) else { return nil }
            return .collectionList(epoch: epoch, number: number)
        case ("disks", 4):
            guard parts[2] == "kept", let disk = VaultID(String(parts[1])), let id = Hash256(String(parts[3])) else { return nil }
            return .kept(disk: disk, id)
        case ("disks", 5):
            guard let disk = VaultID(String(parts[1])), let lineage = VaultID(String(parts[2])) else { return nil }
            if parts[3] == "manifests" { return UInt64(parts[4]).map { .manifest(disk: disk, lineage: lineage, sequence: $0) } }
            let ends = parts[4].split(separator: "-", omittingEmptySubsequences: false).map { UInt64($0) }
            guard parts[3] == "segments", ends.count == 2, let first = ends[0], let last = ends[1] else { return nil }
            return .segment(disk: disk, SegmentID(lineage: lineage, first: first, last: last))
        default:
            return nil
        }
    }

    var place: ObjectPlace {
        switch self {
        case .chunk(let ref): .chunk(ref)
        case .mapPage(let id): .mapPage(id)
        case .kept(let disk, let id): .keptPoints(disk: disk, id)
        case .manifest(let disk, let lineage, let sequence): .manifest(disk: disk, lineage: lineage, sequence: sequence)
        case .segment(let disk, let id): .segment(disk: disk, lineage: id.lineage, first: id.first, last: id.last)
        case .collectionList(let epoch, let number): .collectionList(epoch: epoch, number)
        }
    }

    var key: String { place.key }
}
