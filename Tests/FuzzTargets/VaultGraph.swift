// A small sound vault as contents by key, in which one content can be replaced: the object is sealed again, and whatever names it by hash
// or id is changed to name the new one, up to the newest head.

import Glibc
import ObjectStore
import Vault
import VaultFixtures

struct VaultGraph {
    let vault: Vault
    /// Without the keys and the marker, in the order of their keys.
    private(set) var places: [ObjectPlace]
    private(set) var contents: [String: [UInt8]]
    private var stored: [String: [UInt8]]

    static let sound = Result { try VaultGraph() }

    private init() throws {
        let store = MemoryStore()
        vault = try Vault.create(store: store, protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        var limits = HistoryWriter.Limits()
        limits.manifestsPerFull = 2
        let disk = try ModelDisk(vault, sizeBytes: 256 << 10, seed: 1, limits: limits)
        try disk.replicateInitially()
        for number in 0..<3 { try disk.step(records: 6, checkpoint: number == 1, tag: "t\(number)") }
        stored = store.contents
        places = stored.keys.sorted().compactMap { Self.place($0) }
        contents = [:]
        for place in places { contents[place.key] = try SealedObject.open(stored[place.key] ?? [], place: place, keys: vault.keys) }
    }

    func store() -> MemoryStore { MemoryStore(stored) }

    private static func place(_ key: String) -> ObjectPlace? {
        let parts = key.split(separator: "/").map(String.init)
        switch (parts.first, parts.count) {
        case ("catalog", 2): return UInt64(parts[1]).map { .catalog($0) }
        case ("heads", 3): return VaultID(parts[1]).flatMap { group in UInt64(parts[2]).map { .head(group: group, $0) } }
        case ("maps", 2): return Hash256(parts[1]).map { .mapPage($0) }
        case ("chunks", 3):
            let name = parts[2].split(separator: ".").map(String.init)
            guard name.count == 2, let id = Hash256(name[0]), let epoch = UInt32(name[1]) else { return nil }
            return .chunk(ChunkRef(id: id, epoch: epoch))
        case ("disks", 5):
            guard let disk = VaultID(parts[1]), let lineage = VaultID(parts[2]) else { return nil }
            let numbers = parts[4].split(separator: "-").compactMap { UInt64($0) }
            if parts[3] == "manifests", let sequence = numbers.first { return .manifest(disk: disk, lineage: lineage, sequence: sequence) }
            return parts[3] == "segments" && numbers.count == 2 ? .segment(disk: disk, lineage: lineage, first: numbers[0], last: numbers[1]) : nil
        default: return nil
        }
    }

    mutating func replace(_ place: ObjectPlace, by content: [UInt8]) {
        var changed: Set<String> = []
        replace(place, content, &changed)
    }

    private mutating func replace(_ place: ObjectPlace, _ content: [UInt8], _ changed: inout Set<String>) {
        guard changed.insert(place.key).inserted, let oldContent = contents[place.key], let oldBytes = stored[place.key] else { return }
        let (new, oldName, newName) = renamed(place, oldContent, content)
        guard let bytes = content.withUnsafeBytes({ try? SealedObject.seal($0, place: new, keys: vault.keys, generation: 0) }) else { return }
        contents[new.key] = content
        stored[new.key] = bytes
        let names = [(oldName, newName), (Digest.sha256(oldBytes), Digest.sha256(bytes))]
        for other in places where other.kind != .chunk && other.kind != .segment && !changed.contains(other.key) {
            guard let text = contents[other.key] else { continue }
            let renamed = names.reduce(text) { Self.replacing($1.0, by: $1.1, in: $0) }
            if renamed != text { replace(other, renamed, &changed) }
        }
    }

    /// Where the content lies now, and the ids that name the old and the new one.
    private func renamed(_ place: ObjectPlace, _ old: [UInt8], _ new: [UInt8]) -> (ObjectPlace, [UInt8], [UInt8]) {
        let ids = [old, new].map { content in content.withUnsafeBytes { vault.keys.contentID($0) } }
        switch place.kind {
        case .mapPage: return (.mapPage(ids[1]), ids[0].bytes, ids[1].bytes)
        case .chunk: return (.chunk(ChunkRef(id: ids[1], epoch: 0)), ids[0].bytes, ids[1].bytes)
        default: return (place, [], [])
        }
    }

    private static func replacing(_ old: [UInt8], by new: [UInt8], in text: [UInt8]) -> [UInt8] {
        guard !old.isEmpty else { return text }
        var result = text
        replace(old, by: new, in: &result)
        replace(Array(Hex.encode(old).utf8), by: Array(Hex.encode(new).utf8), in: &result)
        return result
    }

    /// Both have the same length.
    private static func replace(_ old: [UInt8], by new: [UInt8], in text: inout [UInt8]) {
        text.withUnsafeMutableBytes { bytes in
            var start = 0
            while start + old.count <= bytes.count, let found = memchr(bytes.baseAddress! + start, Int32(old[0]), bytes.count - start - old.count + 1) {
                let isName = memcmp(found, old, old.count) == 0
                if isName { found.copyMemory(from: new, byteCount: new.count) }
                start = UnsafeRawPointer(found) - UnsafeRawPointer(bytes.baseAddress!) + (isName ? new.count : 1)
            }
        }
    }
}
