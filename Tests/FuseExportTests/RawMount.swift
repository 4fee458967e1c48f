// A mount of raw files for one test: starts `raw-export` (supervisor and worker), and takes everything down again
// whatever the test did: the processes by pid, the mount lazily, the files.

import Foundation
import FuseExport
import Glibc
import Testing

/// Why a mount test cannot run here; nil when it can. In CI a missing tool is a failure, not a skip.
func cannotMount(_ tools: String...) -> String? {
    if access("/dev/fuse", R_OK | W_OK) != 0 { return "/dev/fuse is not accessible" }
    let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
    for tool in ["fusermount3"] + tools where !folders.contains(where: { access("\($0)/\(tool)", X_OK) == 0 }) {
        return "\(tool) is not installed"
    }
    return nil
}

func canMount(_ tools: String...) -> Bool {
    if ProcessInfo.processInfo.environment["CI"] == "true" { return true }
    return tools.allSatisfy { cannotMount($0) == nil }
}

struct Output {
    let status: Int32
    let text: String
}

/// Runs a command to its end; its output is for the message of a failed expectation.
@discardableResult
func run(_ command: String, _ arguments: String...) throws -> Output {
    let process = Process()
    let pipe = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [command] + arguments
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return Output(status: process.terminationStatus, text: text)
}

final class RawMount {
    let folder: String
    let directory: String
    let image: String
    let supervisor: ChildProcess
    private let logPath: String
    private var ending: ChildProcess.Ending?

    var raw: String { directory + "/disk/disk.raw" }
    var vhd: String { directory + "/disk/disk.vhd" }
    var log: String { (try? String(contentsOfFile: logPath, encoding: .utf8)) ?? "" }

    /// Serves a sparse image of `sizeBytes`, or the one `prepare` makes of it.
    init(
        sizeBytes: UInt64 = 64 << 20, readOnly: Bool = false, asNobody: Bool = false, arguments: [String] = [], waitsFor sign: Sign = .ready,
        prepare: (String) throws -> Void = { _ in }
    ) throws {
        var template = Array("/var/tmp/farshore-export-XXXXXX".utf8CString)
        folder = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
        directory = folder + "/mnt"
        image = folder + "/disk.img"
        logPath = folder + "/log"
        try Data().write(to: URL(fileURLWithPath: image))
        truncate(image, off_t(sizeBytes))
        try prepare(image)
        let output = open(logPath, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        defer { close(output) }
        // Not Foundation's Process: it takes a child for running as long as a grandchild lives.
        var command = [RawMount.executable.path, directory, readOnly ? "ro:" + image : image] + arguments
        if asNobody {
            // A copy, because a checkout below a private home is closed to others.
            let copy = folder + "/raw-export"
            try FileManager.default.copyItem(atPath: command[0], toPath: copy)
            for path in [folder, image, copy] { chown(path, 65534, 65534) }
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copy] + command.dropFirst()
        }
        supervisor = try ChildProcess.spawn(command[0], Array(command.dropFirst()), standardError: output)
        for _ in 0..<1000 where !shows(sign) { usleep(10_000) }
        try #require(shows(sign), "the mount did not start: \(log)")
    }

    /// How a mount shows that it serves: by its word, or by its disk.
    enum Sign { case ready, disk }

    private func shows(_ sign: Sign) -> Bool {
        switch sign {
        case .ready: log.contains("ready\n")
        case .disk: access(raw, F_OK) == 0
        }
    }

    /// Built beside the tests.
    static var executable: URL {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().appendingPathComponent("raw-export")
    }

    var workerPID: pid_t? {
        let children = try? String(contentsOfFile: "/proc/\(supervisor.pid)/task/\(supervisor.pid)/children", encoding: .utf8)
        return children?.split(separator: " ").compactMap { pid_t($0) }.first { pid in
            (try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)) == "farshore-worker\n"
        }
    }

    /// SIGTERM to the supervisor; how it ended.
    func stop() -> ChildProcess.Ending {
        kill(supervisor.pid, SIGTERM)
        return waitForSupervisor()
    }

    func killSupervisor() {
        kill(supervisor.pid, SIGKILL)
        _ = waitForSupervisor()
    }

    @discardableResult
    func waitForSupervisor() -> ChildProcess.Ending {
        if let ending { return ending }
        let result = supervisor.wait()
        ending = result
        return result
    }

    deinit {
        if ending == nil {
            let worker = workerPID
            killSupervisor()
            if let worker { kill(worker, SIGKILL) }
        }
        if (try? MountedExport.at(directory)) ?? nil != nil { FuseMount.detach(directory) }
        try? FileManager.default.removeItem(atPath: folder)
    }
}

/// A file opened for one test.
final class OpenFile {
    let descriptor: Int32

    init(_ path: String, _ flags: Int32) throws {
        descriptor = open(path, flags)
        try #require(descriptor >= 0, "open \(path): \(String(cString: strerror(errno)))")
    }

    deinit { close(descriptor) }

    func write(_ bytes: [UInt8], at offset: Int) -> Int { pwrite(descriptor, bytes, bytes.count, offset) }

    func read(_ count: Int, at offset: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        let result = pread(descriptor, &bytes, count, offset)
        return result < 0 ? [] : Array(bytes[..<result])
    }
}

/// The errno a call leaves, or 0.
func errorCode(_ call: () -> Int) -> Int32 { call() < 0 ? errno : 0 }

// What the Glibc overlay leaves out; the C module that has it cannot be imported beside Foundation.
@_silgen_name("fallocate") func fallocate(_ descriptor: Int32, _ mode: Int32, _ offset: off_t, _ length: off_t) -> Int32
let O_DIRECT: Int32 = 0o40000
let keepSize: Int32 = 1
let punchHole: Int32 = 2
let zeroRange: Int32 = 16
