// Commands of a person, run by /bin/sh in a process group of their own with a limit of time: pre and post scripts, start, stop and
// check. At the limit the group gets SIGTERM, and SIGKILL two seconds later. The end of what they print is kept for events and reports.

package import BlockIO
import Foundation
import Glibc

package struct TimedCommand: Sendable {
    package struct Outcome: Equatable, Sendable {
        package enum Ending: Equatable, Sendable { case exited(Int32), killed(signal: Int32), timedOut }

        package let ending: Ending
        /// The last `outputBytesMax` of both streams.
        package let output: String
        package let seconds: Double

        package var isSuccess: Bool { ending == .exited(0) }

        /// How it ended and what it said, for an event.
        package var text: String {
            let end =
                switch ending {
                case .exited(let status): "exited \(status)"
                case .killed(let signal): "was ended by signal \(signal)"
                case .timedOut: "did not end in time and was stopped"
                }
            let said = output.split(whereSeparator: \.isNewline).suffix(20).joined(separator: "; ")
            return said.isEmpty ? end : "\(end): \(said)"
        }
    }

    package static let outputBytesMax = 16 << 10
    /// Of 4 KiB. Bounded: what a child prints without end must not keep its end from being seen.
    private static let (blocksMax, lastBlocksMax) = (16, 1024)
    private static let graceNanoseconds: UInt64 = 2_000_000_000
    private static let pollMilliseconds: Int32 = 20

    package let command: String
    package let environment: [String: String]
    package let seconds: Double

    package init(_ command: String, environment: [String: String] = [:], seconds: Double) {
        self.command = command
        self.environment = environment
        self.seconds = seconds
    }

    package func run() throws(SystemError) -> Outcome {
        // Not a pipe, so that both ends are close-on-exec from the beginning: other threads start programs too.
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw SystemError(errno: errno, operation: "make a pipe for", path: command)
        }
        let reading = Descriptor(owning: ends[0], path: "pipe")
        let started = Clock.monotonicNanoseconds()
        defer { close(ends[1]) }
        let pid = try start(output: ends[1])
        return watch(pid, reading, started)
    }

    private func start(output: Int32) throws(SystemError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawnattr_init(&attributes)
        defer {
            posix_spawn_file_actions_destroy(&actions)
            posix_spawnattr_destroy(&attributes)
        }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        posix_spawn_file_actions_adddup2(&actions, output, 2)
        var (none, all) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))
        let merged = ProcessInfo.processInfo.environment.merging(environment) { _, given in given }
        var words = Self.copies(["/bin/sh", "-c", command])
        var variables = Self.copies(merged.map { "\($0.key)=\($0.value)" })
        defer { for text in words + variables { free(text) } }
        var pid = pid_t()
        let code = posix_spawn(&pid, "/bin/sh", &actions, &attributes, &words, &variables)
        guard code == 0 else { throw SystemError(errno: code, operation: "run", path: command) }
        return pid
    }

    private static func copies(_ texts: [String]) -> [UnsafeMutablePointer<CChar>?] {
        var found: [UnsafeMutablePointer<CChar>?] = texts.map { strdup($0) }
        found.append(nil)
        return found
    }

    private func watch(_ pid: pid_t, _ reading: borrowing Descriptor, _ started: UInt64) -> Outcome {
        _ = fcntl(reading.raw, F_SETFL, O_NONBLOCK)
        let limit = started + UInt64(seconds * 1e9)
        var output: [UInt8] = []
        var (hasTerminated, hasKilled) = (false, false)
        while true {
            var status: Int32 = 0
            let ended = waitpid(pid, &status, WNOHANG)
            // What it wrote last is there when its end is seen, more than one look takes.
            Self.drain(reading.raw, &output, blocksMax: ended == pid ? Self.lastBlocksMax : Self.blocksMax)
            if ended == pid || (ended < 0 && errno != EINTR) {
                // What it left behind in its group runs on, as a started machine does; only a limit that was passed ends all of it.
                if hasTerminated { kill(-pid, SIGKILL) }
                let code = status & 0x7f
                let ending: Outcome.Ending = hasTerminated ? .timedOut : code == 0 ? .exited(status >> 8 & 0xff) : .killed(signal: code)
                return Outcome(
                    ending: ending, output: String(decoding: output, as: UTF8.self), seconds: Double(Clock.monotonicNanoseconds() - started) / 1e9)
            }
            let now = Clock.monotonicNanoseconds()
            if !hasTerminated, now >= limit {
                hasTerminated = true
                kill(-pid, SIGTERM)
            } else if hasTerminated, !hasKilled, now >= limit + Self.graceNanoseconds {
                hasKilled = true
                kill(-pid, SIGKILL)
            }
            var waiting = pollfd(fd: reading.raw, events: Int16(POLLIN), revents: 0)
            poll(&waiting, 1, Self.pollMilliseconds)
        }
    }

    private static func drain(_ descriptor: Int32, _ output: inout [UInt8], blocksMax: Int) {
        var block = [UInt8](repeating: 0, count: 4096)
        for _ in 0..<blocksMax {
            let count = read(descriptor, &block, block.count)
            guard count > 0 else { break }
            output.append(contentsOf: block[..<count])
        }
        if output.count > outputBytesMax { output.removeFirst(output.count - outputBytesMax) }
    }
}
