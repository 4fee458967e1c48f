// Answers the control socket of a running mount. Owned by the mount's worker, which holds the site's mount lock:
// that lock makes it right to remove a socket left by a worker that died. Each connection has its own thread, at most
// `connectionsMax`; the handler is called on it and may block (a freeze takes as long as its destage).

package import BlockIO
import Foundation
import Glibc
import Synchronization

package final class ControlServer: Sendable {
    package typealias Answer = @Sendable (ControlRequest) -> ControlReply

    private static let connectionsMax = 16
    private static let idleSecondsMax = 60

    private struct State { var connections = 0; var isStopping = false }

    private let listener: Descriptor
    private let path: String
    private let answer: Answer
    private let state = Mutex(State())

    /// Listens at `path`; requests are answered until `stop`.
    package init(path: String, answer: @escaping Answer) throws(SystemError) {
        listener = try SocketAddress.makeStream(timeoutSeconds: 0)
        self.path = path
        self.answer = answer
        unlink(path)
        guard try SocketAddress(path).bind(listener.raw) == 0, chmod(path, 0o600) == 0, listen(listener.raw, 16) == 0 else {
            throw SystemError(errno: errno, operation: "listen", path: path)
        }
        Thread.detachNewThread { [self] in accept() }
    }

    /// Ends accepting; a request being answered is finished by its own thread.
    package func stop() {
        state.withLock { $0.isStopping = true }
        shutdown(listener.raw, Int32(SHUT_RDWR))
        unlink(path)
    }

    private func accept() {
        while true {
            let raw = Glibc.accept(listener.raw, nil, nil)
            if raw >= 0 { _ = fcntl(raw, F_SETFD, FD_CLOEXEC) }
            if state.withLock({ $0.isStopping }) {
                if raw >= 0 { close(raw) }
                return
            }
            guard raw >= 0 else {
                // Out of descriptors or memory: the next attempt may find some; never a busy loop.
                if errno != EINTR, errno != ECONNABORTED { usleep(100_000) }
                continue
            }
            let hasRoom = state.withLock { state in
                guard state.connections < Self.connectionsMax else { return false }
                state.connections += 1
                return true
            }
            guard hasRoom else {
                close(raw)
                continue
            }
            Thread.detachNewThread { [self] in
                serve(Descriptor(owning: raw, path: path))
                state.withLock { $0.connections -= 1 }
            }
        }
    }

    private func serve(_ socket: consuming Descriptor) {
        SocketAddress.setTimeout(socket.raw, seconds: Self.idleSecondsMax)
        var stream = LineStream(socket, lineBytesMax: controlRequestBytesMax)
        do {
            while let line = try stream.next() {
                let request: ControlRequest
                do {
                    request = try JSONDecoder().decode(ControlRequest.self, from: Data(line))
                } catch {
                    try reply(.refused(Self.garbled("not a request this version knows")), on: stream)
                    return
                }
                try reply(answer(request), on: stream)
            }
        } catch LineStream.Failure.tooLong {
            // Best effort: the peer that sent too much may not be reading.
            try? reply(.refused(Self.garbled("longer than \(controlRequestBytesMax) bytes")), on: stream)
        } catch {
            // The peer went away or fell silent: nothing is owed to it.
        }
    }

    private func reply(_ reply: ControlReply, on stream: borrowing LineStream) throws {
        try stream.send(Array(try JSONEncoder().encode(reply)))
    }

    private static func garbled(_ what: String) -> ControlRefusal {
        ControlRefusal(.garbled, "the message is \(what)", remedy: "use a farshore of the same version as the running mount")
    }
}
