// An HTTP server on loopback that answers as a test says: for what real services do only on bad days. One connection
// serves requests until the script closes it.

import Foundation
import Synchronization

final class ScriptedServer: Sendable {
    struct Request: Sendable {
        let method: String
        let target: String
        let headers: [String: String]
        let body: [UInt8]
    }

    enum Answer: Sendable {
        case reply(Int, headers: [String: String] = [:], body: String = "")
        /// Sent as it is, then the connection is closed.
        case raw(String)
        case close
        /// A body of this size, a byte every tenth of a second.
        case trickle(body: Int)
        /// Nothing is sent and the connection stays open until the server ends.
        case hang
    }

    let port: UInt16
    private let listener: Int32
    private let state = Mutex((requests: [Request](), hanging: [Int32]()))

    /// `answer` gets each request with its index.
    init(_ answer: @escaping @Sendable (Int, Request) -> Answer) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, length) == 0 && listen(listener, 64) == 0 && getsockname(listener, $0, &length) == 0 }
        }
        guard bound else { throw POSIXError(.EADDRINUSE) }
        (self.listener, port) = (listener, UInt16(bigEndian: address.sin_port))
        Thread.detachNewThread { [self] in
            while true {
                let connection = accept(listener, nil, nil)
                guard connection >= 0 else { return }
                Thread.detachNewThread { self.serve(connection, answer) }
            }
        }
    }

    var endpoint: String { "http://127.0.0.1:\(port)" }
    var requests: [Request] { state.withLock { $0.requests } }

    /// Must be called: the accepting thread holds the server.
    func end() {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
        state.withLock { state in
            for connection in state.hanging { close(connection) }
            state.hanging = []
        }
    }

    private func serve(_ connection: Int32, _ answer: @Sendable (Int, Request) -> Answer) {
        while let request = read(connection) {
            let index = state.withLock { state in
                state.requests.append(request)
                return state.requests.count - 1
            }
            switch answer(index, request) {
            case .reply(let status, let headers, let body):
                var text = "HTTP/1.1 \(status) X\r\n"
                for (name, value) in headers { text += "\(name): \(value)\r\n" }
                if headers["Content-Length"] == nil { text += "Content-Length: \(body.utf8.count)\r\n" }
                send(connection, text + "\r\n" + (request.method == "HEAD" ? "" : body))
                continue
            case .raw(let text): send(connection, text)
            case .trickle(let count):
                send(connection, "HTTP/1.1 206 X\r\nContent-Length: \(count)\r\n\r\n")
                // Ends when the client gave up.
                while send(connection, "x") { Thread.sleep(forTimeInterval: 0.1) }
            case .close: break
            case .hang:
                state.withLock { $0.hanging.append(connection) }
                return
            }
            break
        }
        close(connection)
    }

    @discardableResult
    private func send(_ connection: Int32, _ text: String) -> Bool {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    private func read(_ connection: Int32) -> Request? {
        var bytes: [UInt8] = []
        var headEnd: Int?
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            if headEnd == nil, let found = Data(bytes).range(of: Data("\r\n\r\n".utf8)) { headEnd = found.upperBound }
            if let headEnd {
                let lines = String(decoding: bytes[..<headEnd], as: UTF8.self).components(separatedBy: "\r\n")
                var headers: [String: String] = [:]
                for line in lines.dropFirst() {
                    let parts = line.split(separator: ":", maxSplits: 1)
                    if parts.count == 2 { headers[parts[0].lowercased()] = parts[1].trimmingCharacters(in: .whitespaces) }
                }
                let wanted = headEnd + (Int(headers["content-length"] ?? "") ?? 0)
                if bytes.count >= wanted {
                    let words = lines[0].split(separator: " ").map(String.init)
                    return words.count == 3 ? Request(method: words[0], target: words[1], headers: headers, body: Array(bytes[headEnd..<wanted])) : nil
                }
            }
            let count = recv(connection, &buffer, buffer.count, 0)
            guard count > 0 else { return nil }
            bytes += buffer[..<count]
        }
    }
}
