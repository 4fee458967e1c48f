// A vault whose chunks are at a second place: like any other, told apart when it is opened, copied to one place and to two.

import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct ChunksApartTests {
    private let main = MemoryStore()
    private let chunks = MemoryStore()

    private func open(_ store: any ObjectStore) throws -> Vault {
        try Vault.open(store: store, key: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings)
    }

    private func filled(_ store: any ObjectStore) throws -> ModelDisk {
        let vault = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        let disk = try ModelDisk(vault, sizeBytes: 3 << 20, seed: 11, limits: quickLimits())
        try disk.replicateInitially()
        for _ in 0..<8 { try disk.step(records: 3) }
        return disk
    }

    private func expectRefused(_ words: String, _ store: any ObjectStore) {
        #expect { _ = try open(store) } throws: { "\($0)".contains(words) }
    }

    @Test func chunksAndNothingElseAreAtTheSecondPlace() throws {
        let store = SplitStore(main: main, chunks: chunks)
        let disk = try filled(store)
        #expect(chunks.keys.count > 1 && chunks.keys.allSatisfy { $0.hasPrefix("chunks/") })
        #expect(main.keys.count > 10 && !main.keys.contains { $0.hasPrefix("chunks/") })
        let vault = try open(store)
        try expectAllReadable(vault, disk, "apart")
        #expect(try VaultCheck(vault: vault, readData: true).run().findings == [])
        // Garbage is found and removed at both.
        try chunks.put("chunks/00/\(String(repeating: "00", count: 32)).1", [1], ifAbsent: false)
        for _ in 0..<3 {
            _ = try Collector(vault: vault).run()
            try disk.acknowledge()
        }
        #expect(chunks.keys.contains("chunks/farshore.json") && !chunks.keys.contains { $0.hasPrefix("chunks/00/0000") })
        try expectAllReadable(try open(store), disk, "collected")
    }

    @Test func whoOpensItSaysWhereTheChunksAre() throws {
        _ = try filled(SplitStore(main: main, chunks: chunks))
        expectRefused("which its URL must name", main)
        expectRefused("does not hold the chunks of a vault", SplitStore(main: main, chunks: MemoryStore()))
        let (otherMain, otherChunks) = (MemoryStore(), MemoryStore())
        _ = try filled(SplitStore(main: otherMain, chunks: otherChunks))
        expectRefused("the chunks of another vault", SplitStore(main: main, chunks: otherChunks))
        let whole = MemoryStore()
        _ = try filled(whole)
        expectRefused("must name no place for them", SplitStore(main: whole, chunks: chunks))
        expectRefused("there is no vault", chunks)
    }

    @Test func copiesGoFromTwoPlacesToOneAndBack() throws {
        let source = SplitStore(main: main, chunks: chunks)
        let disk = try filled(source)
        let whole = MemoryStore()
        _ = try VaultCopy(of: open(source), at: whole, begins: true) { _ in HeadMemory(folder: nil) }.run()
        try expectAllReadable(try open(whole), disk, "in one place")
        let again = SplitStore(main: MemoryStore(), chunks: MemoryStore())
        for _ in 0..<2 { _ = try VaultCopy(of: open(whole), at: again, begins: true) { _ in HeadMemory(folder: nil) }.run() }
        try expectAllReadable(try open(again), disk, "in two again")
    }

    /// A second place that is not mounted, or another one: the heads of the copy would lead to chunks that are not with it.
    @Test func aCopyGoesOnOnlyWithTheSamePlaceForItsChunks() throws {
        let source = SplitStore(main: main, chunks: chunks)
        let disk = try filled(source)
        let (first, apart) = (MemoryStore(), MemoryStore())
        _ = try VaultCopy(of: open(source), at: SplitStore(main: first, chunks: apart), begins: true) { _ in HeadMemory(folder: nil) }.run()
        try disk.step(records: 5)
        let before = (first.keys, MemoryStore())
        for place in [SplitStore(main: first, chunks: before.1), first] as [any ObjectStore] {
            #expect { _ = try VaultCopy(of: open(source), at: place, begins: false) { _ in HeadMemory(folder: nil) } } throws: { error in
                switch error as? VaultError {
                case .noVault, .refused, .damaged: true
                default: false
                }
            }
        }
        #expect(first.keys == before.0 && before.1.keys.isEmpty)
        _ = try VaultCopy(of: open(source), at: SplitStore(main: first, chunks: apart), begins: false) { _ in HeadMemory(folder: nil) }.run()
        try expectAllReadable(try open(SplitStore(main: first, chunks: apart)), disk, "gone on with")
    }

    /// A creation that ended before the last object, or before the last two.
    @Test(arguments: [["farshore.json"], ["farshore.json", "chunks/farshore.json"]]) func anInterruptedCreationIsRepeated(_ missing: [String]) throws {
        let store = SplitStore(main: main, chunks: chunks)
        _ = try Vault.create(store: store, protection: .keyFile(TestVault.keyBytes), memory: HeadMemory(folder: nil), settings: TestVault.settings)
        try store.delete(missing)
        let disk = try filled(store)
        try expectAllReadable(try open(store), disk, "made again")
    }
}
