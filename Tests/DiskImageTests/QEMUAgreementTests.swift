// QEMU, libvhdi and a reader of our own in Python see the same disk as we do, in images they made and in ours.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite struct QEMUAgreementTests {
    static let sizes: [UInt64] = [512, 1 << 20, (1 << 20) + 512, 10_000_384, 68_157_440, 5_368_709_632, 137_438_953_472, 1 << 40]

    @Test(.enabled(if: requires("qemu-img")), arguments: sizes)
    func sizesOfImagesQEMUMakes(_ size: UInt64) throws {
        let folder = try TestFolder()
        for (index, options) in ["force_size=off", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"].enumerated() {
            let image = folder.file("\(index).vhd")
            try run("qemu-img", ["create", "-q", "-f", "vpc", "-o", options, image, "\(size)"])
            #expect(try virtualSize(image, "vpc") == openImage(image, access: .readOnly).sizeBytes, "\(options), \(size)")
        }
    }

    @Test(.enabled(if: requires("qemu-img")), arguments: OutputFormat.allCases, [UInt64(1 << 20) + 512, 9 << 20])
    func ourImagesReadTheSameInQEMU(_ format: OutputFormat, _ size: UInt64) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: size)
        let raw = try folder.write("in.raw", pattern(size, &random))
        let made = folder.file("out.img")
        try convert(raw, made, format)
        let driver = format.rawValue.hasPrefix("vhd-") ? "vpc" : format.rawValue
        #expect(try virtualSize(made, driver) == size)
        try run("qemu-img", ["compare", "-f", "raw", "-F", driver, raw, made])
        try checkWithLibvhdi(made, format, size)
        #expect(try independentBytes(made, format.imageFormat, folder) == [UInt8](Data(contentsOf: URL(filePath: raw))))
    }

    private func checkWithLibvhdi(_ image: String, _ format: OutputFormat, _ size: UInt64) throws {
        guard format.rawValue.hasPrefix("vhd-"), requires("vhdiinfo") else { return }
        let info = try run("vhdiinfo", [image]).output
        #expect(info.contains("\(size) bytes"))
        #expect(info.contains(format == .vhdFixed ? "Fixed" : "Dynamic"))
    }

    @Test(.enabled(if: requires("qemu-img")), arguments: ["subformat=dynamic", "subformat=dynamic,force_size=on", "subformat=fixed"])
    func imagesFilledByQEMUReadTheSameHere(_ options: String) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: 7)
        let raw = try folder.write("in.raw", pattern(7 << 20, &random))
        try run("qemu-img", ["convert", "-f", "raw", "-O", "vpc", "-o", options, raw, folder.file("q.vhd")])
        let image = try openImage(folder.file("q.vhd"), access: .readOnly)
        let wanted = try [UInt8](Data(contentsOf: URL(filePath: raw)))
        let found = try image.allBytes()
        #expect(Array(found.prefix(wanted.count)) == wanted)
        #expect(found.dropFirst(wanted.count).allSatisfy { $0 == 0 })
    }

    @Test(.enabled(if: requires("qemu-io"))) func weAndQEMUWriteInTurns() throws {
        let folder = try TestFolder()
        let path = folder.file("turns.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 12 << 20)
        var model = [UInt8](repeating: 0, count: 12 << 20)
        for turn in 0..<8 {
            let (offset, value) = (turn * 1_400_320 / 512 * 512, UInt8(turn + 1))
            if turn % 2 == 0 {
                try run("qemu-io", ["-f", "vpc", "-c", "write -P \(value) \(offset) 65536", path])
            } else {
                let image = try openImage(path, access: .readWrite)
                try image.put([UInt8](repeating: value, count: 65536), at: UInt64(offset))
                try image.flush()
            }
            model.replaceSubrange(offset..<offset + 65536, with: repeatElement(value, count: 65536))
            #expect(try openImage(path, access: .readOnly).allBytes() == model, "turn \(turn)")
        }
        let raw = try folder.write("model.raw", model)
        try run("qemu-img", ["compare", "-f", "raw", "-F", "vpc", raw, path])
    }

    @Test(arguments: ["plain", "table-last", "gaps", "partial-bitmaps"], [512, 4096, 65536, 2 << 20])
    func imagesOfThePythonWriter(_ layout: String, _ block: Int) throws {
        let folder = try TestFolder()
        let size = block * 9 + 512
        _ = try vhdPython(["make", folder.file("p.vhd"), folder.file("p.raw"), "--size", "\(size)", "--block", "\(block)", "--layout", layout])
        var model = try [UInt8](Data(contentsOf: URL(filePath: folder.file("p.raw"))))
        #expect(try openImage(folder.file("p.vhd"), access: .readOnly).allBytes() == model)
        let image = try openImage(folder.file("p.vhd"), access: .readWrite)
        var random = SeededRandom(seed: UInt64(block))
        for _ in 0..<12 {
            let offset = Int.random(in: 0..<size / 512, using: &random) * 512
            let bytes = random.bytes(min(1536, size - offset))
            try image.put(bytes, at: UInt64(offset))
            model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        try image.flush()
        _ = try vhdPython(["read", folder.file("p.vhd"), folder.file("back.raw")])
        #expect(try [UInt8](Data(contentsOf: URL(filePath: folder.file("back.raw")))) == model)
    }

    private func virtualSize(_ path: String, _ driver: String) throws -> UInt64? {
        let json = try run("qemu-img", ["info", "--output=json", "-f", driver, path]).output
        let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
        return (object?["virtual-size"] as? NSNumber)?.uint64Value
    }

    /// Runs of data between runs of zeros.
    private func pattern(_ size: UInt64, _ random: inout SeededRandom) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(size))
        for start in stride(from: 0, to: bytes.count, by: 300_000) {
            let part = random.bytes(min(50_000, bytes.count - start))
            bytes.replaceSubrange(start..<start + part.count, with: part)
        }
        return bytes
    }

    private func convert(_ from: String, _ to: String, _ format: OutputFormat) throws {
        let source = try openImage(from, access: .readOnly)
        let output = try OutputImage.begin(to, format: format, sizeBytes: source.sizeBytes, uniqueID: [UInt8](1...16), timeStamp: 5)
        for offset in stride(from: 0, to: source.sizeBytes, by: 65536) {
            let bytes = try source.bytes(at: offset, count: Int(min(65536, source.sizeBytes - offset)))
            if bytes.contains(where: { $0 != 0 }) { try output.image.put(bytes, at: offset) }
        }
        try output.finish(replacing: false)
    }
}
