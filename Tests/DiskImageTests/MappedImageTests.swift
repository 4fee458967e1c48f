// VHDX and qcow2 as QEMU makes them, with every option it has: read equal, written equal, and sound afterwards in QEMU's
// eyes; what is not served is refused with what to run instead.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite(.enabled(if: requires("qemu-img"))) struct MappedImageTests {
    static let vhdxOptions = [
        "subformat=dynamic", "subformat=dynamic,block_size=1M", "subformat=dynamic,block_size=8M,log_size=2M", "subformat=dynamic,block_size=256M",
        "subformat=dynamic,block_state_zero=off", "subformat=fixed,block_size=1M", "subformat=fixed,block_state_zero=off", "subformat=fixed,log_size=16M",
    ]
    static let qcow2Options = [
        "compat=0.10", "compat=0.10,cluster_size=512", "compat=1.1", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "lazy_refcounts=on",
        "refcount_bits=1", "refcount_bits=2,cluster_size=4k", "refcount_bits=4", "refcount_bits=8", "refcount_bits=32", "refcount_bits=64,cluster_size=512",
        "preallocation=metadata", "preallocation=falloc,cluster_size=4k", "preallocation=full", "compression_type=zstd",
    ]
    private static let sizeBytes = 5 << 20

    @Test(arguments: vhdxOptions) func aVHDXOfQEMUs(_ options: String) throws { try readAndWrite(.vhdx, ["-o", options]) }
    @Test(arguments: qcow2Options) func aQCOW2OfQEMUs(_ options: String) throws { try readAndWrite(.qcow2, ["-o", options]) }
    @Test(arguments: ["zlib", "zstd"], ["512", "4k", "64k", "2M"]) func compressedClusters(_ type: String, _ cluster: String) throws {
        try readAndWrite(.qcow2, ["-c", "-o", "compression_type=\(type),cluster_size=\(cluster)"])
    }

    /// Random writes and zeroing over several openings, against an array; an independent reader has the last word.
    private func readAndWrite(_ format: ImageFormat, _ options: [String]) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: UInt64(options.joined().utf8.reduce(7) { $0 &* 31 &+ Int($1) } & 0xFFFF))
        var model = mixture(&random)
        let path = folder.file("q.img")
        try run("qemu-img", ["convert", "-f", "raw", "-O", format.rawValue] + options + [folder.write("in.raw", model), path])
        #expect(try inspectImage(path).format == format)
        #expect(try openImage(path, access: .readOnly).allBytes() == model)
        for round in 0..<4 {
            let image = try openImage(path, access: .readWrite)
            for _ in 0..<40 { try change(image, &model, &random) }
            try image.flush()
            #expect(try image.allBytes() == model, "round \(round)")
            #expect(try openImage(path, access: .readOnly).allBytes() == model, "round \(round)")
        }
        #expect(try independentBytes(path, format, folder) == model)
        try run("qemu-img", ["compare", "-f", "raw", "-F", format.rawValue, folder.write("model.raw", model), path])
    }

    private func change(_ image: any ImageFile, _ model: inout [UInt8], _ random: inout SeededRandom) throws {
        let sector = Int.random(in: 0..<model.count / 512, using: &random)
        let longest = Int.random(in: 0..<6, using: &random) == 0 ? 2000 : 20
        let count = min(Int.random(in: 1...longest, using: &random) * 512, model.count - sector * 512)
        let place = sector * 512..<sector * 512 + count
        if Int.random(in: 0..<3, using: &random) == 0 {
            try image.zero(at: UInt64(place.lowerBound), length: UInt64(count))
            model.replaceSubrange(place, with: repeatElement(0, count: count))
        } else {
            let bytes = random.bytes(count)
            try image.put(bytes, at: UInt64(place.lowerBound))
            model.replaceSubrange(place, with: bytes)
        }
        #expect(try image.bytes(at: UInt64(place.lowerBound), count: count) == Array(model[place]))
    }

    /// Runs of random bytes, of one byte, and of zeros.
    private func mixture(_ random: inout SeededRandom) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.sizeBytes)
        for start in stride(from: 0, to: bytes.count - 70_000, by: 200_000) {
            let part = Bool.random(using: &random) ? random.bytes(50_000) : [UInt8](repeating: 0xAB, count: 70_000)
            bytes.replaceSubrange(start..<start + part.count, with: part)
        }
        return bytes
    }

    @Test(.enabled(if: requires("qemu-io"))) func zeroAndDiscardedClusters() throws {
        let folder = try TestFolder()
        let path = folder.file("z.qcow2")
        try run("qemu-img", ["create", "-q", "-f", "qcow2", path, "8M"])
        let commands = ["write -P 17 0 4M", "write -z 1M 512k", "write -z -u 2M 512k", "discard 3M 512k", "write -z 6M 1M"]
        try run("qemu-io", ["-d", "unmap", "-f", "qcow2"] + commands.flatMap { ["-c", $0] } + [path])
        var model = try independentBytes(path, .qcow2, folder)
        #expect(model.contains(17) && model[1 << 20] == 0)
        #expect(try openImage(path, access: .readOnly).allBytes() == model)
        let image = try openImage(path, access: .readWrite)
        for start in [1 << 20, (2 << 20) + 512, (3 << 20) + 70_144, (6 << 20) + 4096] {
            try image.put([UInt8](repeating: 9, count: 1024), at: UInt64(start))
            model.replaceSubrange(start..<start + 1024, with: repeatElement(9, count: 1024))
        }
        try image.flush()
        #expect(try independentBytes(path, .qcow2, folder) == model)
    }

    /// Small clusters with wide refcounts: the refcount table is outgrown, several times.
    @Test(arguments: ["512,refcount_bits=64", "512,refcount_bits=1", "4k,refcount_bits=64"]) func theRefcountTableGrows(_ options: String) throws {
        let folder = try TestFolder()
        let path = folder.file("g.qcow2")
        try run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=\(options)", path, "96M"])
        let image = try openImage(path, access: .readWrite)
        var model = [UInt8](repeating: 0, count: 96 << 20)
        for start in stride(from: 0, to: model.count, by: 1 << 20) {
            let bytes = [UInt8](repeating: UInt8(1 + start >> 20), count: 900 << 10)
            try image.put(bytes, at: UInt64(start))
            model.replaceSubrange(start..<start + bytes.count, with: bytes)
            if start % (7 << 20) == 0 { try image.flush() }
        }
        try image.flush()
        #expect(try independentBytes(path, .qcow2, folder) == model)
        #expect(try openImage(path, access: .readOnly).allBytes() == model)
    }

    @Test func whatIsNotServedIsRefusedWithWhatToRun() throws {
        let folder = try TestFolder()
        let base = folder.file("base.qcow2")
        try run("qemu-img", ["create", "-q", "-f", "qcow2", base, "4M"])
        let refused: [(name: String, options: [String], says: String, remedy: String)] = [
            ("backed", ["-b", base, "-F", "qcow2"], "backing file", "qemu-img convert"),
            ("aes", ["-o", "encrypt.format=aes,encrypt.key-secret=s", "--object", "secret,id=s,data=x"], "encryption method", "qemu-img convert"),
            ("outside", ["-o", "data_file=\(folder.file("data.raw"))"], "external data file", "qemu-img convert"),
            ("extended", ["-o", "extended_l2=on"], "extended L2", "extended_l2=off"),
        ]
        for image in refused {
            let path = folder.file(image.name)
            try run("qemu-img", ["create", "-q", "-f", "qcow2"] + image.options + [path, "4M"])
            for access in [ImageAccess.readOnly, .readWrite] {
                let error = #expect(throws: ImageError.self) { try openImage(path, access: access) }
                guard case .unsupported(_, let what, let remedy)? = error else {
                    Issue.record("\(image.name): \(String(describing: error))")
                    continue
                }
                #expect(what.contains(image.says) && remedy.contains(image.remedy), "\(what); \(remedy)")
            }
        }
    }

    @Test func whatWritingWouldSpoilIsReadOnly() throws {
        let folder = try TestFolder()
        func make(_ name: String, _ change: (String) throws -> Void) throws -> String {
            let path = folder.file(name)
            try run("qemu-img", ["create", "-q", "-f", "qcow2", path, "4M"])
            try run("qemu-io", ["-f", "qcow2", "-c", "write -P 3 0 1M", path])
            try change(path)
            return path
        }
        let cases = [
            (try make("snapshot") { try run("qemu-img", ["snapshot", "-c", "one", $0]) }, "internal snapshots", "qemu-img snapshot -d"),
            (try make("bitmap") { try run("qemu-img", ["bitmap", "--add", $0, "b0"]) }, "bitmaps", "qemu-img bitmap --remove"),
            (try make("dirty") { try Descriptor.open($0, 2).write([1], at: 79) }, "not closed cleanly", "qemu-img check -r all"),
        ]
        for (path, says, remedy) in cases {
            let before = try Data(contentsOf: URL(filePath: path))
            #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 2 << 20) == [UInt8](repeating: 3, count: 1 << 20) + [UInt8](repeating: 0, count: 1 << 20))
            let error = #expect(throws: ImageError.self) { try openImage(path, access: .readWrite) }
            guard case .unsupported(_, let what, let toRun)? = error else {
                Issue.record("\(path): \(String(describing: error))")
                continue
            }
            #expect(what.contains(says) && toRun.contains(remedy), "\(what); \(toRun)")
            #expect(try Data(contentsOf: URL(filePath: path)) == before)
        }
    }

    /// A disk of the largest size in each format is made, reached at its end and searched for data in little time and space.
    @Test(arguments: [OutputFormat.vhdx, .qcow2]) func theLargestDisk(_ format: OutputFormat) throws {
        let folder = try TestFolder()
        let size: UInt64 = 64 << 40
        try OutputImage.makeEmpty(folder.file("l"), format, size)
        let image = try openImage(folder.file("l"), access: .readWrite)
        try image.put([9, 9], at: size - 2)
        try image.flush()
        let again = try openImage(folder.file("l"), access: .readOnly)
        #expect(try again.bytes(at: size - 3, count: 3) == [0, 9, 9])
        #expect(try again.nextData(from: 0) == size - 4096)
        #expect(throws: ImageError.self) { try OutputImage.makeEmpty(folder.file("m"), format, size + 512) }
    }

    /// A file larger than what is opened again is not made: the write is refused, and what was written before stays.
    @Test(arguments: [0, 256 << 10]) func aFileGrowsNoFurtherThanItIsOpened(_ spareClusters: Int) throws {
        let folder = try TestFolder()
        let path = folder.file("edge.qcow2")
        try run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", path, "64M"])
        // Of a refcount table of 8 MiB, with 64 counts a block.
        let most = (8 << 20) / 8 * 64
        try Descriptor.open(path, 2).truncate(to: UInt64(most - spareClusters - 3) * 512)
        var image = try openImage(path, access: .readWrite)
        var written = 0
        let error = #expect(throws: SystemError.self) {
            while written < 10 {
                try image.put([UInt8](repeating: UInt8(written + 1), count: 512), at: UInt64(written) << 20)
                written += 1
            }
        }
        #expect(error?.errno == EFBIG && "\(error!)".contains("\(most - (256 << 10))") && written == (spareClusters == 0 ? 0 : 3))
        try image.flush()
        image = try openImage(path, access: .readWrite)
        for place in 0..<written { #expect(try image.bytes(at: UInt64(place) << 20, count: 512) == [UInt8](repeating: UInt8(place + 1), count: 512)) }
        try image.flush()
    }

    /// Two GiB are what one refcount block counts: nothing is missing, and nothing is left over.
    @Test func aFileThatEndsWithItsRefcountBlock() throws {
        let folder = try TestFolder()
        let path = folder.file("exact.qcow2")
        try OutputImage.makeEmpty(path, .qcow2, 1 << 30)
        let made = try openImage(path, access: .readWrite)
        try made.put([1, 2, 3], at: 0)
        try made.flush()
        try Descriptor.open(path, 2).truncate(to: 2 << 30)
        let image = try openImage(path, access: .readWrite)
        try image.put([4, 5, 6], at: 0)
        try image.flush()
        #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 3) == [4, 5, 6])
    }
}
