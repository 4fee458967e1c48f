// VHDX and qcow2 survive a crash between any two changes of their file, whatever part of the unsynced ones is lost: flushed
// data is there, unflushed sectors are old or new, and neither a second reader nor QEMU finds anything but leaks.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite(.enabled(if: requires("qemu-img"))) struct MappedCrashTests {
    struct Shape: Sendable, CustomTestStringConvertible {
        let format: ImageFormat
        let options: [String]
        let sizeBytes: Int
        let steps: Int
        var testDescription: String { "\(format) \(options)" }
    }

    static let shapes = [
        Shape(format: .vhdx, options: ["-o", "block_size=1M"], sizeBytes: (5 << 20) + 512, steps: 24),
        Shape(format: .qcow2, options: ["-o", "cluster_size=512,refcount_bits=64"], sizeBytes: 100 << 10, steps: 60),
        Shape(format: .qcow2, options: ["-c", "-o", "cluster_size=4k"], sizeBytes: 100 << 10, steps: 60),
        Shape(format: .qcow2, options: ["-o", "cluster_size=4k,compat=0.10"], sizeBytes: 100 << 10, steps: 60),
        Shape(format: .qcow2, options: ["-c", "-o", "cluster_size=512,refcount_bits=8,compression_type=zstd"], sizeBytes: 100 << 10, steps: 60),
    ]

    @Test(arguments: shapes, 0..<UInt64(campaignScale)) func noCrashLosesWhatWasFlushed(_ shape: Shape, _ seed: UInt64) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: seed)
        let model = makeModel(shape, &random)
        let path = folder.file("image")
        try run("qemu-img", ["convert", "-f", "raw", "-O", shape.format.rawValue] + shape.options + [folder.write("in.raw", model), path])
        let start = try [UInt8](Data(contentsOf: URL(filePath: path)))
        let (steps, changes) = try record(shape, path, &random)
        var checked = 0
        for count in 0...changes.count {
            // Large files take their time: two kinds of loss are drawn for each change.
            let losses = shape.format == .vhdx ? Array(Loss.allCases.shuffled(using: &random).prefix(2)) : Loss.allCases
            for loss in losses {
                let file = crashed(start, changes, after: count, losing: loss, &random)
                let allowed = allowedSectors(model, steps, crashAfter: count)
                try checkSurvivor(folder, shape, file, allowed, "seed \(seed), change \(count) of \(changes.count), \(loss)", &random)
                checked += 1
            }
        }
        #expect(checked > 50)
    }

    private func checkSurvivor(
        _ folder: TestFolder, _ shape: Shape, _ file: [UInt8], _ allowed: [Set<[UInt8]>], _ which: String, _ random: inout SeededRandom
    ) throws {
        let path = try folder.write("survivor", file)
        let found = try openImage(path, access: .readOnly, format: shape.format).allBytes()
        for (sector, values) in allowed.enumerated() where !values.contains(Array(found[sector * 512..<sector * 512 + 512])) {
            Issue.record("\(which): sector \(sector) holds none of \(values.count) legal values")
            return
        }
        let asksOthers = Int.random(in: 0..<20, using: &random) == 0
        if asksOthers, shape.format == .qcow2 {
            // 3: leaks and nothing else.
            let check = try run("qemu-img", ["check", "-f", "qcow2", path], expecting: nil)
            #expect(check.status == 0 || check.status == 3, "\(which): \(check.output)")
        }
        let image = try openImage(path, access: .readWrite, format: shape.format)
        var model = found
        for start in stride(from: 0, to: model.count, by: shape.format == .vhdx ? 1 << 20 : 4096) {
            try image.put([UInt8](repeating: 0xC3, count: 512), at: UInt64(start))
            model.replaceSubrange(start..<start + 512, with: repeatElement(0xC3, count: 512))
        }
        try image.flush()
        #expect(try image.allBytes() == model, "\(which): one sector written in each block changed others")
        #expect(try openImage(path, access: .readOnly, format: shape.format).allBytes() == model, "\(which)")
        guard asksOthers else { return }
        if shape.format == .qcow2 { try run("qemu-img", ["check", "-q", "-r", "leaks", "-f", "qcow2", path]) }
        #expect(try independentBytes(path, shape.format, folder) == model, "\(which)")
    }

    private func makeModel(_ shape: Shape, _ random: inout SeededRandom) -> [UInt8] {
        var model = [UInt8](repeating: 0, count: shape.sizeBytes)
        for start in stride(from: 0, to: model.count - 8192, by: model.count / 5) {
            model.replaceSubrange(start..<start + 4096, with: random.bytes(4096))
            model.replaceSubrange(start + 4096..<start + 8192, with: repeatElement(0x77, count: 4096))
        }
        return model
    }

    private func record(_ shape: Shape, _ path: String, _ random: inout SeededRandom) throws -> ([CrashStep], [FileChange]) {
        let recorder = CrashRecorder()
        let image: any ImageFile = shape.format == .vhdx
            ? try openVHDX(path, access: .readWrite, listener: recorder.listener)
            : try openQCOW2(path, access: .readWrite, listener: recorder.listener)
        return (try recorder.record(image, steps: shape.steps, &random), recorder.changes)
    }
}
