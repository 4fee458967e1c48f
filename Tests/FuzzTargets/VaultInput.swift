// A vault by somebody who holds its key and means harm: one object of a sound vault is changed, sealed again, and every hash and id that
// leads to it made right. Input: which object (1 byte), then changes of its content (kind: 1 byte, place: 2 bytes, length: 1 byte, data).
// Everything a reader does with a vault must end with an error or with data.

import ObjectStore
import RecoveryPoints
import Vault
import VaultFixtures

struct VaultInput {
    private static let changesMax = 16
    private static let diskBytesReadMax: UInt64 = 1 << 20

    static func run(_ input: [UInt8]) throws {
        var fields = InputBytes(input)
        var graph = try VaultGraph.sound.get()
        let number = Int(fields.byte()) % graph.places.count
        var content = graph.contents[graph.places[number].key] ?? []
        for _ in 0..<changesMax where !fields.isEmpty { change(&content, &fields) }
        graph.replace(graph.places[number], by: content)
        readAll(graph.store())
    }

    private static func change(_ content: inout [UInt8], _ fields: inout InputBytes) {
        let kind = fields.byte()
        let start = Int(fields.number(bytes: 2)) % (content.count + 1)
        let data = fields.bytes(Int(fields.byte()))
        let end = min(content.count, start + data.count)
        switch kind % 4 {
        case 0: content.replaceSubrange(start..<end, with: data.prefix(end - start))
        case 1: content.insert(contentsOf: data, at: start)
        case 2: content.removeSubrange(start..<end)
        default: replaceNumber(&content, from: start, by: data)
        }
    }

    /// The first decimal number behind `start`: what JSON is changed by most to the point.
    private static func replaceNumber(_ content: inout [UInt8], from start: Int, by data: [UInt8]) {
        let isDigit = { (byte: UInt8) in (48...57).contains(byte) }
        guard let first = content[start...].firstIndex(where: isDigit) else { return }
        let end = content[first...].firstIndex { !isDigit($0) } ?? content.count
        let number = data.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        content.replaceSubrange(first..<end, with: Array(String(number).utf8))
    }

    private static func readAll(_ store: MemoryStore) {
        guard let vault = try? Vault.open(store: store, key: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings) else { return }
        _ = try? VaultCheck(vault: vault, readData: true, threads: 1).run()
        guard let catalog = try? vault.catalog().document else { return }
        for disk in catalog.disks.prefix(4) {
            _ = try? SharedPoints(vault, of: disk).points(of: disk.id)
            guard let history = try? DiskHistory.newest(vault, disk), let points = try? history.points() else { continue }
            for point in points.suffix(2) { read(vault, disk, history, at: point.sequence) }
        }
    }

    private static func read(_ vault: Vault, _ disk: Catalog.Disk, _ history: DiskHistory, at sequence: UInt64) {
        let sources = PointSources(vault: vault)
        defer { sources.close() }
        guard let plan = try? history.plan(at: sequence), let reader = try? PointReader(sources, disk: disk.id, plan: plan) else { return }
        let count = min(reader.sizeBytes, diskBytesReadMax)
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        for offset in stride(from: 0, to: count, by: bytes.count) {
            bytes.withUnsafeMutableBytes { buffer in
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(UInt64(buffer.count), count - offset))])
                _ = try? reader.read(into: part, at: offset)
            }
        }
    }

    static func seeds() throws -> [[UInt8]] {
        (0..<UInt8(try VaultGraph.sound.get().places.count)).flatMap { number in
            [[number], [number, 3, 40, 0, 8, 255, 255, 255, 255, 255, 255, 31, 0], [number, 0, 16, 0, 2, 0, 1], [number, 2, 30, 0, 3, 0, 0, 0]]
        }
    }
}

/// An object of a vault as it is stored, read as each kind. Input: the kind (1 byte), the object.
struct VaultObjectInput {
    static func run(_ input: [UInt8]) throws {
        let graph = try VaultGraph.sound.get()
        var fields = InputBytes(input)
        let place = graph.places[Int(fields.byte()) % graph.places.count]
        let bytes = fields.remaining()
        guard let (object, plaintext) = try? SealedObject.openWhole(bytes, place: place, keys: graph.vault.keys) else { return }
        require(plaintext.count == object.header.plaintextBytes, "content of another length than stated")
    }

    static func seeds() throws -> [[UInt8]] {
        let graph = try VaultGraph.sound.get()
        let stored = graph.store().contents
        return graph.places.enumerated().compactMap { number, place in stored[place.key].map { [UInt8(number)] + $0.prefix(4000) } }
    }
}
