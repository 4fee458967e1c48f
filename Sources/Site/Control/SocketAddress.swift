// Unix stream sockets at paths of any length: the kernel takes 107 bytes, so the socket's folder is opened and the
// name is reached through /proc/self/fd. Used by ControlServer and ControlClient, and to talk to QEMU.

package import BlockIO
import Glibc

package struct SocketAddress: ~Copyable {
    private let folder: Descriptor
    private let name: String

    package init(_ path: String) throws(SystemError) {
        folder = try Descriptor.open(Directory.parent(of: path) ?? ".", O_RDONLY | O_DIRECTORY)
        name = String(path.split(separator: "/").last ?? "")
    }

    func bind(_ socket: Int32) -> Int32 { withAddress { Glibc.bind(socket, $0, $1) } }

    package func connect(_ socket: Int32) -> Int32 { withAddress { Glibc.connect(socket, $0, $1) } }

    private func withAddress(_ call: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let path = Array("/proc/self/fd/\(folder.raw)/\(name)".utf8)
        guard path.count < MemoryLayout.size(ofValue: address.sun_path) else {
            errno = ENAMETOOLONG
            return -1
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }

    package static func makeStream(timeoutSeconds: Int) throws(SystemError) -> Descriptor {
        let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "make a socket", path: "unix") }
        setTimeout(raw, seconds: timeoutSeconds)
        return Descriptor(owning: raw, path: "unix")
    }

    static func setTimeout(_ socket: Int32, seconds: Int) {
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }
}

/// One line in, one line out, over a connected stream.
package struct LineStream: ~Copyable {
    package enum Failure: Error { case ended, tooLong, timedOut, broken(Int32) }

    let socket: Descriptor
    private let lineBytesMax: Int
    private var pending: [UInt8] = []

    package init(_ socket: consuming Descriptor, lineBytesMax: Int) {
        self.socket = socket
        self.lineBytesMax = lineBytesMax
    }

    /// The next line without its newline, or nil when the other side has ended cleanly between lines.
    package mutating func next() throws(Failure) -> [UInt8]? {
        var scanned = 0
        while true {
            if let end = pending[scanned...].firstIndex(of: 0x0A) {
                let line = Array(pending[..<end])
                pending.removeSubrange(...end)
                return line
            }
            scanned = pending.count
            guard scanned <= lineBytesMax else { throw .tooLong }
            guard try receive() else {
                if pending.isEmpty { return nil }
                throw .ended
            }
        }
    }

    private mutating func receive() throws(Failure) -> Bool {
        var block = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(socket.raw, &block, block.count, 0)
            if count > 0 {
                pending.append(contentsOf: block[..<count])
                return true
            }
            if count == 0 { return false }
            if errno == EINTR { continue }
            throw errno == EAGAIN ? .timedOut : .broken(errno)
        }
    }

    package func send(_ line: [UInt8]) throws(Failure) {
        let bytes = line + [0x0A]
        var done = 0
        while done < bytes.count {
            // MSG_NOSIGNAL: a peer that went away is an error here, not a SIGPIPE that ends the worker.
            let count = bytes.withUnsafeBytes { Glibc.send(socket.raw, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL)) }
            if count > 0 { done += count; continue }
            if errno == EINTR { continue }
            throw errno == EAGAIN ? .timedOut : .broken(errno)
        }
    }
}
