// The program that workers are made of: held open, so that every successor is of the same version even when the file at
// its path was replaced meanwhile; only an upgrade changes it. And the trial of a new one, before a worker is ended for it:
// a child maps the slots and says its version.

import BlockIO
import CFuse
import Glibc

struct WorkerProgram: ~Copyable {
    let path: String
    let version: String
    private let file: Descriptor

    /// The program this process was started from, which need not be at its path any more.
    static func own(version: String) throws(SystemError) -> WorkerProgram {
        WorkerProgram(path: "/proc/self/exe", version: version, file: try refer("/proc/self/exe"))
    }

    fileprivate static func refer(_ path: String) throws(SystemError) -> Descriptor {
        let raw = farshore_refer(path)
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "find the program", path: path) }
        return Descriptor(owning: raw, path: path)
    }

    init(path: String, version: String, file: consuming Descriptor) {
        self.path = path
        self.version = version
        self.file = file
    }

    /// What to execute. Not by way of /proc/self: a child's own descriptors take these numbers before it is executed.
    var executable: String { "/proc/\(getpid())/fd/\(file.raw)" }
}

/// A new program on trial.
struct ProgramTrial: ~Copyable {
    static let millisecondsMax: UInt64 = 10_000
    private static let textBytesMax = 1_000

    enum Verdict: Equatable { case fit(version: String), unfit(reason: String) }

    let path: String
    private let file: Descriptor
    private let child: ChildProcess
    private let output: Descriptor
    private let deadline = Clock.monotonicNanoseconds() + ProgramTrial.millisecondsMax * 1_000_000

    /// Starts the program at `path` with `arguments`; the slots are its descriptor 3.
    static func start(path: String, arguments: [String], slots: Int32) throws(SystemError) -> ProgramTrial {
        let file = try WorkerProgram.refer(path)
        var pair: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutableBytes(of: &pair) {
            farshore_pipe($0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard made == 0 else { throw SystemError(errno: errno, operation: "make a pipe", path: path) }
        let output = Descriptor(owning: pair.0, path: "pipe")
        let theirs = Descriptor(owning: pair.1, path: "pipe")
        let child: ChildProcess
        do throws(SystemError) {
            child = try ChildProcess.spawn("/proc/\(getpid())/fd/\(file.raw)", arguments, descriptors: [slots], standardError: theirs.raw)
        } catch {
            throw SystemError(errno: error.errno, operation: error.operation, path: path)
        }
        return ProgramTrial(path: path, file: file, child: child, output: output)
    }

    private init(path: String, file: consuming Descriptor, child: ChildProcess, output: consuming Descriptor) {
        self.path = path
        self.file = file
        self.child = child
        self.output = output
    }

    /// Nil while it goes on.
    func poll() -> Verdict? {
        let isLate = Clock.monotonicNanoseconds() > deadline
        if isLate { kill(child.pid, SIGKILL) }
        // Not waited for: one that hangs in storage cannot be ended, and the supervisor has other work.
        guard let ending = child.poll() else { return nil }
        if isLate { return .unfit(reason: "it did not answer within \(ProgramTrial.millisecondsMax / 1000) s") }
        var bytes = [UInt8](repeating: 0, count: ProgramTrial.textBytesMax)
        let count = read(output.raw, &bytes, bytes.count)
        let text = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(separator: "\n").joined(separator: "; ")
        guard ending == .exited(0), !text.isEmpty else {
            return .unfit(reason: text.isEmpty ? "it is no farshore that could take over (\(ending))" : text)
        }
        return .fit(version: text)
    }

    /// The program, to make workers of.
    consuming func program(version: String) -> WorkerProgram {
        WorkerProgram(path: path, version: version, file: file)
    }
}
