// Chains of differencing disks made by the Python writer, each file with what the disk must read as.

import BlockIO
import DiskImage
import Foundation
import Testing

final class TestChain {
    struct Level {
        let path: String
        let raw: String
        let id: String
    }

    let folder: TestFolder
    private(set) var levels: [Level] = []

    init(_ folder: TestFolder) { self.folder = folder }

    var leaf: Level { levels[levels.count - 1] }

    /// The disk of the last file, by the writer.
    func model() throws -> [UInt8] { try [UInt8](Data(contentsOf: URL(filePath: leaf.raw))) }

    /// The same by the writer's own reader.
    func readByPython() throws -> [UInt8] {
        _ = try vhdPython(["read", leaf.path, folder.file("python.raw")])
        return try [UInt8](Data(contentsOf: URL(filePath: folder.file("python.raw"))))
    }

    func base(_ name: String = "base.vhd", size: Int, _ more: [String] = []) throws {
        let level = level(name)
        _ = try vhdPython(["make", level.path, level.raw, "--size", "\(size)", "--id", level.id] + more)
        levels.append(level)
    }

    func child(seed: Int = 1, _ more: [String] = []) throws { try child("child\(levels.count).vhd", seed: seed, more) }

    func child(_ name: String, seed: Int = 1, _ more: [String] = []) throws {
        let level = level(name)
        _ = try vhdPython(["child", level.path, level.raw, "--parent", leaf.path, "--id", level.id, "--seed", "\(seed)"] + more)
        levels.append(level)
    }

    /// All files, to see that none but the last was changed.
    func bytes() throws -> [[UInt8]] { try levels.map { try [UInt8](Data(contentsOf: URL(filePath: $0.path))) } }

    private func level(_ name: String) -> Level {
        Level(path: folder.file(name), raw: folder.file(name) + ".raw", id: String(repeating: "00", count: 15) + String(format: "%02x", levels.count + 1))
    }
}

/// Random writes, zeros and flushes, in the image and in the model.
func change(_ image: any ImageFile, _ model: inout [UInt8], operations: Int, _ random: inout SeededRandom) throws {
    for _ in 0..<operations {
        let isAligned = Int.random(in: 0..<4, using: &random) > 0
        let unit = isAligned ? 512 : 1
        let offset = Int.random(in: 0..<model.count / unit, using: &random) * unit
        let longest = Int.random(in: 0..<6, using: &random) == 0 ? model.count / 2 : 20_000
        let count = min(Int.random(in: 1...longest, using: &random) / unit * unit, model.count - offset)
        switch Int.random(in: 0..<8, using: &random) {
        case 0: try image.flush()
        case 1:
            try image.zero(at: UInt64(offset), length: UInt64(count))
            model.replaceSubrange(offset..<offset + count, with: repeatElement(0, count: count))
        case 2:
            let count = min(count, 70_000)
            #expect(try image.bytes(at: UInt64(offset), count: count) == Array(model[offset..<offset + count]))
        default:
            let bytes = [UInt8](repeating: UInt8.random(in: 1...255, using: &random), count: count)
            try image.put(bytes, at: UInt64(offset))
            model.replaceSubrange(offset..<offset + count, with: bytes)
        }
    }
}
