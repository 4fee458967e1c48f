import Site
import Testing

@Suite struct ChunkPresenceTests {
    private let id = [UInt8](repeating: 7, count: 32)

    @Test func aChunkInFlightCountsAsAbsentUntilSettled() throws {
        let site = try TemporarySite()
        let catalogue = try site.catalogue()
        try catalogue.journalChunk(id, epoch: 3, vault: "v")
        #expect(try catalogue.presence(ofChunk: id, vault: "v") == nil)
        // What a restart sees.
        #expect(try site.catalogue().chunksInDoubt(vault: "v") == [ChunkInDoubt(id: id, epoch: 3)])
        try catalogue.settleChunk(id, epoch: 3, vault: "v")
        #expect(try catalogue.presence(ofChunk: id, vault: "v")?.epoch == 3)
        #expect(try catalogue.chunksInDoubt(vault: "v").isEmpty)
        #expect(try catalogue.presence(ofChunk: id, vault: "another") == nil)
    }

    @Test func aChunkFoundMissingIsForgotten() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.settleChunk(id, epoch: 1, vault: "v")
        try catalogue.forgetChunk(id, vault: "v")
        #expect(try catalogue.presence(ofChunk: id, vault: "v") == nil)
    }
}
