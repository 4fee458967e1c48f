// An image file out of few bytes: byte 0 says how it is opened, three bytes its size in sectors, then extents of
// (place in units of 64 bytes: 4 bytes, length: 2 bytes, data). Files are sparse and lie in memory.

import BlockIO
import DiskImage
import Glibc

struct ImageInput {
    private static let opensForWriting: UInt8 = 1
    private static let rightsChecksums: UInt8 = 2
    private static let sectorsMax: UInt64 = (96 << 20) / 512
    private static let extentsMax = 64
    private static let readBytes = 64 << 10

    static func run(_ input: [UInt8], format: ImageFormat) throws {
        var fields = InputBytes(input)
        let flags = fields.byte()
        let file = try makeFile(&fields)
        let path = "/proc/self/fd/\(file.raw)"
        if flags & rightsChecksums != 0 { try rightChecksums(file, format) }
        for probed in [format, nil] as [ImageFormat?] {
            do throws(ImageError) {
                let image = try openImage(path, access: flags & opensForWriting != 0 ? .readWrite : .readOnly, format: probed)
                exercise(image, path: path, writes: flags & opensForWriting != 0)
                _ = try inspectImage(path, format: probed)
            } catch {
                require(!"\(error)".isEmpty, "a refusal says why")
            }
        }
    }

    private static func makeFile(_ fields: inout InputBytes) throws -> Descriptor {
        let file = try memoryFile()
        let bytes = fields.number(bytes: 3) % (sectorsMax + 1) * 512
        try file.truncate(to: bytes)
        for _ in 0..<extentsMax where !fields.isEmpty {
            let place = fields.number(bytes: 4) * 64
            let data = fields.bytes(Int(fields.number(bytes: 2)))
            guard place < bytes else { continue }
            try file.write(Array(data.prefix(Int(min(UInt64(data.count), bytes - place)))), at: place)
        }
        return file
    }

    // MARK: - what is done with an image that was accepted

    private static func exercise(_ image: any ImageFile, path: String, writes: Bool) {
        let size = image.sizeBytes
        require(size > 0 && size % 512 == 0, "a disk of \(size) bytes")
        let places = [0, size / 3 & ~4095, size - min(size, 4096)]
        let before = places.map { read(image, at: $0) }
        require(places.map { read(image, at: $0) } == before, "reads the same twice")
        walk(image)
        guard writes, let written = change(image, at: places[1]) else { return }
        guard let again = try? openImage(path, access: .readOnly, format: nil) else {
            require(false, "what was written to is not accepted any more")
            return
        }
        require(again.sizeBytes == size && read(again, at: places[1]) == .success(written), "what was written is not read again")
        for (place, old) in zip(places, before) where place + 4096 <= places[1] || place >= places[1] + 4096 {
            // A read that failed may have met what opening for writing mends.
            if case .success = old { require(read(again, at: place) == old, "a write changed something else") }
        }
    }

    private static func read(_ image: any ImageFile, at place: UInt64) -> Result<[UInt8], SystemError> {
        var bytes = [UInt8](repeating: 0xA5, count: Int(min(4096, image.sizeBytes - place)))
        return Result { () throws(SystemError) in
            var failure: SystemError?
            bytes.withUnsafeMutableBytes { buffer in
                do throws(SystemError) { try image.read(into: buffer, at: place) } catch { failure = error }
            }
            if let failure { throw failure }
            return bytes
        }
    }

    /// Extents that rise and end, whatever the tables say.
    private static func walk(_ image: any ImageFile) {
        var position: UInt64 = 0
        for _ in 0..<16 {
            guard let data = try? image.nextData(from: position), data < image.sizeBytes else { return }
            require(data >= position, "data before the place asked for")
            guard let hole = try? image.nextHole(from: data), hole < image.sizeBytes else { return }
            require(hole > data, "a hole where data begins")
            position = hole
        }
    }

    /// The bytes that stand at `place` afterwards, or nil when the image took no write.
    private static func change(_ image: any ImageFile, at place: UInt64) -> [UInt8]? {
        let bytes = [UInt8](repeating: 0x5A, count: Int(min(4096, image.sizeBytes - place)))
        do {
            try bytes.withUnsafeBytes { try image.write($0, at: place) }
            try image.zero(at: place, length: 512)
            try image.flush()
            return [UInt8](repeating: 0, count: 512) + bytes.dropFirst(512)
        } catch {
            return nil
        }
    }

    // MARK: - checksums

    private static func rightChecksums(_ file: borrowing Descriptor, _ format: ImageFormat) throws {
        switch format {
        case .vhdx: try rightVHDXSums(file)
        case .qcow2, .raw: break
        case .vhdFixed, .vhdDynamic, .vhdDifferencing: try rightVHDSums(file)
        }
    }

    /// The sums of both headers and of both region tables (docs/formats/vhdx.md).
    private static func rightVHDXSums(_ file: borrowing Descriptor) throws {
        let size = try file.status().sizeBytes
        for (place, count) in [(64 << 10, 4 << 10), (128 << 10, 4 << 10), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] where UInt64(place + count) <= size {
            var bytes = try file.read(count: count, at: UInt64(place))
            if isZero(bytes) { continue }
            bytes.withUnsafeMutableBytes { $0.putLE(UInt32(0), at: 4) }
            let sum = crc32c(bytes)
            bytes.withUnsafeMutableBytes { $0.putLE(sum, at: 4) }
            try file.write(bytes, at: UInt64(place))
        }
    }

    /// Not byte by byte: each comparison counts as coverage.
    private static func isZero(_ bytes: [UInt8]) -> Bool { bytes.first == 0 && bytes.withUnsafeBytes { memcmp($0.baseAddress!, $0.baseAddress! + 1, $0.count - 1) == 0 } }

    /// The sums of both footers and of the dynamic header that the first one names.
    private static func rightVHDSums(_ file: borrowing Descriptor) throws {
        let size = try file.status().sizeBytes
        guard size >= 512 else { return }
        try rightVHDSum(file, at: 0, count: 512, sumAt: 64)
        try rightVHDSum(file, at: size - 512, count: 512, sumAt: 64)
        let header = try file.read(count: 512, at: 0).withUnsafeBytes { $0.getBE(UInt64.self, at: 16) }
        if header <= size, size - header >= 1024 { try rightVHDSum(file, at: header, count: 1024, sumAt: 36) }
    }

    private static func rightVHDSum(_ file: borrowing Descriptor, at place: UInt64, count: Int, sumAt: Int) throws {
        var bytes = try file.read(count: count, at: place)
        if isZero(bytes) { return }
        bytes.withUnsafeMutableBytes { $0.putBE(UInt32(0), at: sumAt) }
        let sum = ~bytes.reduce(UInt32(0)) { $0 &+ UInt32($1) }
        bytes.withUnsafeMutableBytes { $0.putBE(sum, at: sumAt) }
        try file.write(bytes, at: place)
    }

    // MARK: - inputs that are accepted

    static func seeds(_ format: OutputFormat) throws -> [[UInt8]] {
        try [opensForWriting | rightsChecksums, rightsChecksums].flatMap { flags in
            try [8 << 20, 64 << 20].map { size in
                let path = "/dev/shm/farshore-fuzz-\(getpid()).image"
                defer { unlink(path) }
                let output = try OutputImage.begin(path, format: format, sizeBytes: UInt64(size), uniqueID: [UInt8](1...16), timeStamp: 9)
                try [UInt8](repeating: 7, count: 512).withUnsafeBytes { try output.image.write($0, at: 4096) }
                try output.finish(replacing: true)
                let file = try Descriptor.open(path, O_RDONLY)
                return [flags] + (try encoded(file))
            }
        }
    }

    /// A file as an input: its data, without zeros.
    private static func encoded(_ file: borrowing Descriptor) throws -> [UInt8] {
        let size = try file.status().sizeBytes
        var input = little(size / 512, 3)
        var place: UInt64 = 0
        while place < size, let data = try file.nextData(from: place) {
            place = data & ~(UInt64(readBytes) - 1)
            let bytes = try file.read(count: Int(min(UInt64(readBytes), size - place)), at: place)
            for start in stride(from: 0, to: bytes.count, by: 64) {
                let part = bytes[start..<min(start + 64, bytes.count)]
                guard part.contains(where: { $0 != 0 }) else { continue }
                input += little((place + UInt64(start)) / 64, 4) + little(UInt64(part.count), 2) + part
            }
            place += UInt64(bytes.count)
        }
        return input
    }

    private static func little(_ number: UInt64, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) } }
}
