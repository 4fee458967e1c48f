// A folder that goes away with the test, the tools of the trade, and images filled with known bytes.

import BlockIO
import DiskImage
import Foundation
import Testing

final class TestFolder: Sendable {
    let path: String

    init(in parent: String = NSTemporaryDirectory()) throws {
        path = parent + "/farshore-images-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { path + "/" + name }

    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        try Data(bytes).write(to: URL(filePath: file(name)))
        return file(name)
    }
}

struct ToolResult {
    let status: Int32
    let output: String
}

/// Runs a tool to its end; stdout and stderr together.
@discardableResult
func run(_ tool: String, _ arguments: [String], expecting status: Int32? = 0) throws -> ToolResult {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = [tool] + arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let output = String(decoding: data, as: UTF8.self)
    if let status { #expect(process.terminationStatus == status, "\(tool) \(arguments): \(output)") }
    return ToolResult(status: process.terminationStatus, output: output)
}

func vhdPython(_ arguments: [String], expecting status: Int32? = 0) throws -> ToolResult {
    let tool = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "tools/vhd.py").path
    return try run("python3", [tool] + arguments, expecting: status)
}

func vhdxPython(_ arguments: [String], expecting status: Int32? = 0) throws -> ToolResult {
    let tool = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "tools/vhdx.py").path
    return try run("python3", [tool] + arguments, expecting: status)
}

/// The disk's bytes as a reader shows them that is not ours; it complains where the image breaks its format's rules.
func independentBytes(_ path: String, _ format: ImageFormat, _ folder: TestFolder) throws -> [UInt8] {
    let raw = folder.file("independent.raw")
    switch format {
    case .raw: return try [UInt8](Data(contentsOf: URL(filePath: path)))
    case .vhdFixed, .vhdDynamic, .vhdDifferencing: _ = try vhdPython(["read", path, raw])
    case .vhdx: _ = try vhdxPython(["read", path, raw])
    case .qcow2:
        try run("qemu-img", ["check", "-q", "-f", "qcow2", path])
        try run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", path, raw])
    }
    return try [UInt8](Data(contentsOf: URL(filePath: raw)))
}

/// Without the tool the test is skipped; on CI, where everything is installed, it then fails when it runs.
func requires(_ tool: String) -> Bool {
    let found = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").contains {
        FileManager.default.isExecutableFile(atPath: "\($0)/\(tool)")
    }
    return found || ProcessInfo.processInfo.environment["CI"] == "true"
}

var campaignScale: Int { Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "") ?? 1 }

/// SplitMix64: the same numbers for the same seed.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        var filled = [UInt8](repeating: 0, count: count)
        for index in filled.indices { filled[index] = UInt8(truncatingIfNeeded: next()) }
        return filled
    }
}

extension ImageFile {
    func bytes(at offset: UInt64, count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        try bytes.withUnsafeMutableBytes { try read(into: $0, at: offset) }
        return bytes
    }

    func allBytes() throws -> [UInt8] { try bytes(at: 0, count: Int(sizeBytes)) }

    func put(_ bytes: [UInt8], at offset: UInt64) throws {
        try bytes.withUnsafeBytes { try write($0, at: offset) }
    }
}

extension OutputImage {
    static func makeEmpty(_ path: String, _ format: OutputFormat, _ sizeBytes: UInt64) throws {
        let output = try begin(path, format: format, sizeBytes: sizeBytes, uniqueID: [UInt8](1...16), timeStamp: 5)
        try output.finish(replacing: false)
    }
}

/// What a guest may do with an image that was opened: it works, or fails with an error.
func exercise(_ image: any ImageFile, _ random: inout SeededRandom) {
    for _ in 0..<4 {
        let offset = UInt64.random(in: 0..<image.sizeBytes, using: &random) & ~4095
        let count = Int(min(8192, image.sizeBytes - offset))
        do {
            _ = try image.bytes(at: offset, count: count)
            _ = try image.nextData(from: offset)
            _ = try image.nextHole(from: offset)
            try image.put([UInt8](repeating: 1, count: count), at: offset)
            try image.flush()
        } catch {
            #expect(error is SystemError)
        }
    }
}
