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

    private struct Step {
        enum What { case put(at: Int, [UInt8]), flush }
        let what: What
        let changesBefore: Int
        var changesAfter = 0
    }

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

    private func record(_ shape: Shape, _ path: String, _ random: inout SeededRandom) throws -> ([Step], [FileChange]) {
        let recorder = CrashRecorder()
        let image: any ImageFile = shape.format == .vhdx
            ? try openVHDX(path, access: .readWrite, listener: recorder.listener)
            : try openQCOW2(path, access: .readWrite, listener: recorder.listener)
        var steps: [Step] = []
        for _ in 0..<shape.steps {
            var step = Step(what: randomStep(shape, &random), changesBefore: recorder.count)
            switch step.what {
            case .flush: try image.flush()
            case .put(let offset, let bytes):
                if bytes.allSatisfy({ $0 == 0 }) {
                    try image.zero(at: UInt64(offset), length: UInt64(bytes.count))
                } else {
                    try image.put(bytes, at: UInt64(offset))
                }
            }
            step.changesAfter = recorder.count
            steps.append(step)
        }
        return (steps, recorder.changes)
    }

    private func randomStep(_ shape: Shape, _ random: inout SeededRandom) -> Step.What {
        let kind = Int.random(in: 0..<10, using: &random)
        if kind < 2 { return .flush }
        let sector = Int.random(in: 0..<shape.sizeBytes / 512, using: &random)
        let count = min(Int.random(in: 1...12, using: &random), shape.sizeBytes / 512 - sector) * 512
        return .put(at: sector * 512, kind == 2 ? [UInt8](repeating: 0, count: count) : random.bytes(count))
    }

    /// For each sector the value of the last flush that ended before the crash, and every value written since.
    private func allowedSectors(_ start: [UInt8], _ steps: [Step], crashAfter count: Int) -> [Set<[UInt8]>] {
        var latest = stride(from: 0, to: start.count, by: 512).map { Array(start[$0..<$0 + 512]) }
        var allowed = latest.map { Set([$0]) }
        for step in steps where step.changesBefore <= count {
            switch step.what {
            case .flush where step.changesAfter <= count:
                for index in allowed.indices where allowed[index].count > 1 { allowed[index] = [latest[index]] }
            case .flush: break
            case .put(let offset, let bytes):
                for start in stride(from: 0, to: bytes.count, by: 512) {
                    latest[(offset + start) / 512] = Array(bytes[start..<start + 512])
                    allowed[(offset + start) / 512].insert(latest[(offset + start) / 512])
                }
            }
        }
        return allowed
    }
}
