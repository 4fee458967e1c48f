// Commands that serve until they are stopped (mount, upload, point mount). Without --foreground the command starts
// itself again in a session of its own, waits until that process says it serves, and returns; until then the service's
// standard error is the terminal's, so that whatever stops its start is read where it was typed. Afterwards it is the
// log file. systemd is told by the protocol of sd_notify(3), which is one datagram.

import ArgumentParser
import BlockIO
import FuseExport
import Glibc

struct ServiceOptions: ParsableArguments {
    @Flag(name: .long, help: "Stay in the foreground, log to stderr, stop at SIGTERM or SIGINT.")
    var foreground = false
}

enum BackgroundService {
    private static let readyVariable = "FARSHORE_READY_DESCRIPTOR"
    /// Where a child finds the first descriptor it is given.
    private static let readyDescriptor: Int32 = 3

    /// Whether this process was started by `detach`: its log is a file once it serves.
    static var isDetached: Bool { getenv(readyVariable) != nil }

    /// Starts this same command with --foreground in the background and returns when it serves. When it does not come
    /// to that, its message is on the terminal already: this process exits with its status.
    static func detach() throws(SystemError) {
        var pair: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutableBytes(of: &pair) { Glibc.pipe($0.baseAddress!.assumingMemoryBound(to: Int32.self)) }
        guard made == 0 else { throw SystemError(errno: errno, operation: "make a pipe", path: "service") }
        let readEnd = Descriptor(owning: pair.0, path: "pipe")
        let writeEnd = Descriptor(owning: pair.1, path: "pipe")
        _ = fcntl(pair.0, F_SETFD, FD_CLOEXEC)
        _ = fcntl(pair.1, F_SETFD, FD_CLOEXEC)
        setenv(readyVariable, "1", 1)
        let child = try ChildProcess.spawn(
            "/proc/self/exe", Array(CommandLine.arguments.dropFirst()) + ["--foreground"], descriptors: [writeEnd.raw], newSession: true)
        unsetenv(readyVariable)
        try writeEnd.close()
        var word: UInt8 = 0
        while true {
            let count = read(readEnd.raw, &word, 1)
            if count == 1 { return }
            if count < 0, errno == EINTR { continue }
            break
        }
        switch child.wait() {
        case .exited(let status): exit(status == 0 ? ExitStatus.failed.rawValue : status)
        case .killed(let signal):
            throw SystemError(errno: EIO, operation: "start the service: it was ended by signal \(signal)", path: "farshore")
        }
    }

    /// Opens the log of a detached service, to append to.
    static func openLog(_ path: String) throws(SystemError) -> Descriptor {
        try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND)
    }

    /// The service serves from now on: tells systemd and the process that detached it, whose terminal it then leaves.
    static func announceReady(log: Int32) {
        notifySystemd("READY=1")
        guard isDetached else { return }
        var word: UInt8 = 1
        _ = write(readyDescriptor, &word, 1)
        close(readyDescriptor)
        unsetenv(readyVariable)
        leaveTerminal(log)
    }

    private static func leaveTerminal(_ log: Int32) {
        let nothing = open("/dev/null", O_RDONLY)
        if nothing >= 0 {
            dup2(nothing, STDIN_FILENO)
            close(nothing)
        }
        dup2(log, STDOUT_FILENO)
        dup2(log, STDERR_FILENO)
        // A working directory would keep its filesystem from being unmounted.
        _ = chdir("/")
    }

    /// Does nothing unless systemd waits (NOTIFY_SOCKET); it is a hint, so a failure is not one of the service.
    static func notifySystemd(_ state: String) {
        guard let path = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), path.hasPrefix("/") || path.hasPrefix("@") else { return }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
        if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
        let length = MemoryLayout<sa_family_t>.size + bytes.count
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let message = Array(state.utf8)
        _ = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(descriptor, message, message.count, Int32(MSG_NOSIGNAL), $0, socklen_t(length))
            }
        }
    }
}

/// One line of a service's log; a detached one logs to its file, while its standard error is still the terminal's.
@Sendable func serviceLog(_ text: String, to descriptor: Int32 = STDERR_FILENO) {
    let line = Array("\(timeText(nanoseconds: Clock.wallNanoseconds())) \(text)\n".utf8)
    _ = write(descriptor, line, line.count)
}
