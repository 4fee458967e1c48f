// What a worker's threads are doing, read from /proc by its supervisor: to tell a wait for storage from a hang, and to
// leave a trace of a hang before it is ended.

import BlockIO
import Glibc

struct ThreadStates {
    /// Of more only the number is told.
    private static let linesMax = 64

    struct Thread {
        let id: String
        let name: String
        /// As in /proc/PID/stat: R, S, D, T (stopped), t (held by a debugger), Z.
        let state: Character
        /// How often it has gone to sleep: the same number twice is one sleep.
        let sleepCount: UInt64?
    }

    let pid: Int32
    private(set) var threads: [Thread] = []

    init(of pid: Int32) {
        self.pid = pid
        guard let ids = try? Directory.list("/proc/\(pid)/task") else { return }
        for id in ids {
            // `PID (NAME) STATE …`; the name may hold anything.
            guard let text = Self.text("/proc/\(pid)/task/\(id)/stat"), let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")"),
                let state = text[text.index(after: close)...].first(where: { $0 != " " })
            else { continue }
            threads.append(Thread(
                id: id, name: String(text[text.index(after: open)..<close]), state: state, sleepCount: Self.number("voluntary_ctxt_switches:\t", in: "/proc/\(pid)/task/\(id)/status")))
        }
    }

    /// Uninterruptible sleep.
    var waitsForStorage: Bool { threads.contains { $0.state == "D" } }
    /// A debugger's stop is somebody's will.
    var waitsForOthers: Bool { waitsForStorage || threads.contains { $0.state == "t" } }

    /// The threads that were in one and the same wait for storage all the time since `earlier`: a signal would not end them.
    func stuck(since earlier: ThreadStates) -> [Thread] {
        threads.filter { thread in
            thread.state == "D" && earlier.threads.contains { $0.id == thread.id && $0.state == "D" && $0.sleepCount == thread.sleepCount }
        }
    }

    /// One line a thread: where it is in the kernel, and in which system call.
    var lines: [String] {
        let rest = threads.count - min(threads.count, Self.linesMax)
        return threads.prefix(Self.linesMax).map { thread in
            let place = Self.text("/proc/\(pid)/task/\(thread.id)/wchan") ?? "?"
            let call = Self.text("/proc/\(pid)/task/\(thread.id)/syscall")?.split(separator: "\n").first.map(String.init) ?? "?"
            return "thread \(thread.id) (\(thread.name)) state \(thread.state), in \(place), system call \(call)"
        } + (rest > 0 ? ["and \(rest) threads more"] : [])
    }

    /// Bytes written by any call so far; 0 where the kernel does not count.
    static func writtenBytes(of pid: Int32) -> UInt64 {
        number("wchar: ", in: "/proc/\(pid)/io") ?? 0
    }

    /// What follows `key` at the start of a line.
    private static func number(_ key: String, in path: String) -> UInt64? {
        text(path)?.split(separator: "\n").first { $0.hasPrefix(key) }.flatMap { UInt64($0.dropFirst(key.utf8.count)) }
    }

    private static func text(_ path: String) -> String? {
        guard let bytes = try? MountedExport.readAll(path) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
