// What supervisor and worker say to each other: datagrams on a socket pair that lives as long as the supervisor. An
// end of file tells either side that the other is gone.

import BlockIO
import Glibc

enum WorkerMessage: Equatable {
    /// Worker: the disks are open and requests are served.
    case ready
    /// Worker: it cannot start; the status, the reason and the remedy are for the person who asked.
    case refused(WorkerRefusal)
    /// Supervisor: finish what is in hand, close the disks, exit 0.
    case stop

    private static let bytesMax = 16 << 10

    var encoded: [UInt8] {
        switch self {
        case .ready: Array("ready".utf8)
        case .stop: Array("stop".utf8)
        case .refused(let refusal): Array("refused \(refusal.status)\n\(refusal.message)\u{1}\(refusal.remedy)".utf8.prefix(WorkerMessage.bytesMax))
        }
    }

    init?(_ bytes: some Sequence<UInt8>) {
        let text = String(decoding: Array(bytes), as: UTF8.self)
        switch text {
        case "ready": self = .ready
        case "stop": self = .stop
        default:
            guard text.hasPrefix("refused "), let end = text.firstIndex(of: "\n"),
                let status = Int32(text[..<end].dropFirst("refused ".count))
            else { return nil }
            let parts = text[text.index(after: end)...].split(separator: "\u{1}", maxSplits: 1, omittingEmptySubsequences: false)
            self = .refused(WorkerRefusal(status: status, message: String(parts[0]), remedy: parts.count > 1 ? String(parts[1]) : ""))
        }
    }

    func send(to socket: Int32) -> Bool {
        let bytes = encoded
        return Glibc.send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    enum Received: Equatable { case message(WorkerMessage), nothing, ended }

    static func receive(from socket: Int32, waiting: Bool) -> Received {
        var buffer = [UInt8](repeating: 0, count: bytesMax)
        while true {
            let count = recv(socket, &buffer, buffer.count, waiting ? 0 : Int32(MSG_DONTWAIT))
            if count > 0 { return WorkerMessage(buffer[..<count]).map { .message($0) } ?? .nothing }
            if count == 0 { return .ended }
            if errno == EINTR { continue }
            return errno == EAGAIN ? .nothing : .ended
        }
    }
}

/// Why a worker could not start, in the words for the person at the terminal.
package struct WorkerRefusal: Error, Equatable, Sendable {
    package let status: Int32
    package let message: String
    package let remedy: String

    package init(status: Int32, message: String, remedy: String) {
        self.status = status
        self.message = message
        self.remedy = remedy
    }
}
