// Starts a program with exactly the descriptors it is given. Every descriptor of ours is close-on-exec; the ones named
// here are duplicated to fixed numbers in the child.

package import BlockIO
import CFuse
import Glibc

package struct ChildProcess: Sendable {
    package let pid: Int32

    /// `descriptors` become 3, 4, 5 … in the child; `standardError` replaces its 1 and 2.
    package static func spawn(
        _ executable: String, _ arguments: [String], descriptors: [Int32] = [], standardError: Int32? = nil, newSession: Bool = false
    ) throws(SystemError) -> ChildProcess {
        var actions = posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawnattr_init(&attributes)
        defer {
            posix_spawn_file_actions_destroy(&actions)
            posix_spawnattr_destroy(&attributes)
        }
        var targets = descriptors.enumerated().map { (source: $0.element, target: Int32(3 + $0.offset)) }
        if let standardError { targets += [(standardError, 1), (standardError, 2)] }
        // Every source is lifted above all targets first: no duplicate may overwrite another's source.
        let lowest = max(256, Int32(clamping: descriptors.count) + 3)
        var lifted: [Int32] = []
        defer { for descriptor in lifted { close(descriptor) } }
        for (source, target) in targets {
            let copy = farshore_duplicate_above(source, lowest)
            guard copy >= 0 else { throw SystemError(errno: errno, operation: "hand on a descriptor", path: executable) }
            lifted.append(copy)
            posix_spawn_file_actions_adddup2(&actions, copy, target)
        }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        let session: Int32 = newSession ? 0x80 : 0  // POSIX_SPAWN_SETSID
        posix_spawnattr_setflags(&attributes, Int16(Int32(POSIX_SPAWN_SETSIGMASK) | session))
        return try start(executable, arguments, &actions, &attributes)
    }

    private static func start(
        _ executable: String, _ arguments: [String], _ actions: inout posix_spawn_file_actions_t, _ attributes: inout posix_spawnattr_t
    ) throws(SystemError) -> ChildProcess {
        var words: [UnsafeMutablePointer<CChar>?] = ([executable] + arguments).map { strdup($0) }
        words.append(nil)
        defer { for word in words { free(word) } }
        var pid = pid_t()
        let code = posix_spawnp(&pid, executable, &actions, &attributes, words, farshore_environment())
        guard code == 0 else { throw SystemError(errno: code, operation: "start", path: executable) }
        return ChildProcess(pid: pid)
    }

    package enum Ending: Equatable, Sendable {
        case exited(Int32)
        case killed(signal: Int32)

        init(status: Int32) {
            self = status & 0x7f == 0 ? .exited(status >> 8 & 0xff) : .killed(signal: status & 0x7f)
        }
    }

    /// How the process ended; nil while it runs.
    package func poll() -> Ending? { wait(WNOHANG) }

    /// Waits for the process to end.
    package func wait() -> Ending { wait(0) ?? .exited(0) }

    private func wait(_ options: Int32) -> Ending? {
        var status: Int32 = 0
        while true {
            let result = waitpid(pid, &status, options)
            if result == pid { return Ending(status: status) }
            if result == 0 { return nil }
            if errno != EINTR { return .exited(0) }
        }
    }
}
