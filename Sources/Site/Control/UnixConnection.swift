// A connection to somebody else's Unix socket with a deadline: a listener whose queue is full lets nobody wait for ever.

package import BlockIO
import Glibc

package enum UnixConnection {
    private static let pauseMicroseconds: UInt32 = 20_000

    /// ETIMEDOUT when nobody took the connection by `deadline` of the monotonic clock.
    package static func open(_ path: String, deadline: UInt64) throws(SystemError) -> Descriptor {
        let address = try SocketAddress(path)
        let socket = try SocketAddress.makeStream(timeoutSeconds: 0)
        _ = fcntl(socket.raw, F_SETFL, O_NONBLOCK)
        while address.connect(socket.raw) != 0 {
            guard errno == EAGAIN || errno == EINTR else { throw SystemError(errno: errno, operation: "connect to", path: path) }
            guard Clock.monotonicNanoseconds() < deadline else { throw SystemError(errno: ETIMEDOUT, operation: "connect to", path: path) }
            usleep(pauseMicroseconds)
        }
        return socket
    }
}
