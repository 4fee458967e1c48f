// A program that is run to its end, or to the end of its time: then it and what it started are killed. It ends with this process, too.

import BlockIO
import FuseExport
import Glibc

final class BoundedProgram {
    private static let outputBytesMax = 16_384

    enum Ending: Equatable {
        case exited(Int32)
        case killed(signal: Int32)
        case outOfTime
    }

    struct Result {
        let ending: Ending
        /// The end of what it said on both of its outputs.
        let output: String

        var isSuccess: Bool { ending == .exited(0) }

        /// One line: how it ended and the last it said.
        var summary: String {
            let end =
                switch ending {
                case .exited(let status): "exit \(status)"
                case .killed(let signal): "killed by signal \(signal)"
                case .outOfTime: "out of time"
                }
            let last = output.split(whereSeparator: \.isNewline).last { !$0.allSatisfy(\.isWhitespace) }
            return last.map { "\(end): \($0)" } ?? end
        }
    }

    private let child: ChildProcess
    private let output: Descriptor
    private var seen: Ending?

    /// Starts it where the disks of `export` are seen, with `environment` on top of this process's own. A program that is not installed is
    /// refused with `package`, which has it.
    init(_ words: [String], environment: [String: String] = [:], on export: PrivateExport, package: String? = nil) throws {
        guard Self.isInstalled(words[0]) else {
            let remedy = package.map { "install it: apt-get install \($0)" } ?? "give the path of a program that can be executed"
            throw Failure(.notFound, "this host has no program \(words[0])", try: remedy)
        }
        let path = export.reached(export.place) + "/output-\(UInt64.random(in: 0 ... .max))"
        output = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
        guard unlink(path) == 0 else { throw SystemError(errno: errno, operation: "remove", path: path) }
        let settings = environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        let command = export.words(["setpriv", "--pdeathsig", "KILL", "env"] + settings + words)
        child = try ChildProcess.spawn(command[0], Array(command.dropFirst()), standardError: output.raw, newSession: true)
    }

    static func run(_ words: [String], environment: [String: String] = [:], seconds: Double, on export: PrivateExport, package: String? = nil) throws -> Result {
        let program = try BoundedProgram(words, environment: environment, on: export, package: package)
        return try program.result(within: seconds)
    }

    /// Waits for its end, `seconds` at most.
    func result(within seconds: Double) throws -> Result {
        let deadline = Clock.monotonicNanoseconds() + UInt64(seconds * 1e9)
        var pause: UInt32 = 500
        while ending == nil {
            if Clock.monotonicNanoseconds() > deadline {
                stop()
                return Result(ending: .outOfTime, output: try said())
            }
            usleep(pause)
            pause = min(pause * 2, 100_000)
        }
        // What it left running in the background must not hold what it was given.
        kill(-child.pid, SIGKILL)
        return Result(ending: ending ?? .outOfTime, output: try said())
    }

    /// Nil while it runs.
    var ending: Ending? {
        if seen == nil {
            switch child.poll() {
            case .exited(let status): seen = .exited(status)
            case .killed(let signal): seen = .killed(signal: signal)
            case nil: break
            }
        }
        return seen
    }

    /// Kills it and all it started.
    func stop() {
        guard ending == nil else { return }
        kill(-child.pid, SIGKILL)
        kill(child.pid, SIGKILL)
        _ = child.wait()
        seen = .killed(signal: SIGKILL)
    }

    private func said() throws -> String {
        let size = try output.status().sizeBytes
        let count = min(size, UInt64(Self.outputBytesMax))
        return String(decoding: try output.read(count: Int(count), at: size - count), as: UTF8.self)
    }

    static func isInstalled(_ name: String) -> Bool {
        if name.contains("/") { return access(name, X_OK) == 0 }
        let folders = getenv("PATH").map { String(cString: $0) } ?? "/usr/sbin:/usr/bin:/sbin:/bin"
        return folders.split(separator: ":").contains { access("\($0)/\(name)", X_OK) == 0 }
    }
}
