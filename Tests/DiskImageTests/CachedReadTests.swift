// Reads that do not wait, and reads by two open file descriptions: the same bytes as any other read.

import BlockIO
import DiskImage
import Testing

@Suite struct CachedReadTests {
    private static let diskBytes = 6 << 20

    /// What was just read is in memory; the kernel may drop it at any moment, so it gets some tries.
    private func cachedBytes(_ image: any ImageFile, at offset: UInt64, count: Int) throws -> [UInt8]? {
        for _ in 0..<20 {
            _ = try image.bytes(at: offset, count: count)
            var bytes = [UInt8](repeating: 0xEE, count: count)
            if bytes.withUnsafeMutableBytes({ image.readIfCached(into: $0, at: offset) }) { return bytes }
        }
        return nil
    }

    @Test(arguments: OutputFormat.allCases)
    func whatIsInMemoryIsReadWithoutWaiting(format: OutputFormat) throws {
        let folder = try TestFolder()
        let path = folder.file("image")
        try OutputImage.makeEmpty(path, format, UInt64(Self.diskBytes))
        let image = try openImage(path, access: .readWrite, format: format.imageFormat)
        var random = SeededRandom(seed: 7)
        let data = random.bytes(3 << 20)
        // The last third stays a hole, of which a dynamic VHD stores nothing.
        try image.put(data, at: 0)
        for (offset, count) in [(0, 4096), (4096, 64 << 10), ((2 << 20) - 4096, 1 << 20), (512, 512), ((3 << 20) - 4096, 8192)] {
            let found = try cachedBytes(image, at: UInt64(offset), count: count)
            let expected = (offset..<offset + count).map { $0 < data.count ? data[$0] : 0 }
            #expect(found == expected, "\(format) at \(offset)")
        }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let beyond = bytes.withUnsafeMutableBytes { image.readIfCached(into: $0, at: UInt64(Self.diskBytes) - 512) }
        #expect(!beyond)
    }

    /// Through the descriptor with readahead and the one without, mixed.
    @Test(arguments: OutputFormat.allCases)
    func streamsAndScatteredReadsSeeWhatWasWritten(format: OutputFormat) throws {
        let folder = try TestFolder()
        let path = folder.file("image")
        try OutputImage.makeEmpty(path, format, UInt64(Self.diskBytes))
        let image = try openImage(path, access: .readWrite, format: format.imageFormat)
        var random = SeededRandom(seed: 11)
        var model = [UInt8](repeating: 0, count: Self.diskBytes)
        for round in 0..<40 {
            let bytes = random.bytes(4096)
            let at = Int(random.next() % UInt64(Self.diskBytes / 4096)) * 4096
            try image.put(bytes, at: UInt64(at))
            model.replaceSubrange(at..<at + 4096, with: bytes)
            let start = round * 131_072 % (Self.diskBytes - 131_072)
            for offset in stride(from: start, to: start + 131_072, by: 8192) {
                #expect(try image.bytes(at: UInt64(offset), count: 8192) == Array(model[offset..<offset + 8192]))
            }
            #expect(try image.bytes(at: UInt64(at), count: 4096) == bytes)
        }
    }
}
