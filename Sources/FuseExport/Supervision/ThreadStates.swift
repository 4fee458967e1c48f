// What a worker's threads are doing, read from /proc by its supervisor: to tell a wait for storage from a hang, and to
// leave a trace of a hang before it is ended.

import BlockIO
import Glibc

struct ThreadStates {
    private static let threadsMax = 64

    struct Thread {
        let id: String
        let name: String
        /// As in /proc/PID/stat: R, S, D, T (stopped), t (held by a debugger), Z.
        let state: Character
    }

    let pid: Int32
    private(set) var threads: [Thread] = []

    init(of pid: Int32) {
        self.pid = pid
        guard let ids = try? Directory.list("/proc/\(pid)/task") else { return }
        for id in ids.prefix(Self.threadsMax) {
            // `PID (NAME) STATE …`; the name may hold anything.
            guard let text = Self.text("/proc/\(pid)/task/\(id)/stat"), let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")"),
                let state = text[text.index(after: close)...].first(where: { $0 != " " })
            else { continue }
            threads.append(Thread(id: id, name: String(text[text.index(after: open)..<close]), state: state))
        }
    }

    /// Uninterruptible sleep is a wait for storage; a debugger's stop is somebody's will.
    var waitsForOthers: Bool { threads.contains { $0.state == "D" || $0.state == "t" } }

    /// One line a thread: where it is in the kernel, and in which system call.
    var lines: [String] {
        threads.map { thread in
            let place = Self.text("/proc/\(pid)/task/\(thread.id)/wchan") ?? "?"
            let call = Self.text("/proc/\(pid)/task/\(thread.id)/syscall")?.split(separator: "\n").first.map(String.init) ?? "?"
            return "thread \(thread.id) (\(thread.name)) state \(thread.state), in \(place), system call \(call)"
        }
    }

    /// Bytes written by any call so far; 0 where the kernel does not count.
    static func writtenBytes(of pid: Int32) -> UInt64 {
        for line in text("/proc/\(pid)/io")?.split(separator: "\n") ?? [] where line.hasPrefix("wchar: ") {
            return UInt64(line.dropFirst(7)) ?? 0
        }
        return 0
    }

    private static func text(_ path: String) -> String? {
        guard let bytes = try? MountedExport.readAll(path) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
