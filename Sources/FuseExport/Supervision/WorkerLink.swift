// What supervisor and worker say to each other: datagrams on a socket pair that lives as long as both. An end of file
// tells either side that the other is gone.

import BlockIO
import CFuse
import Glibc

enum WorkerMessage: Equatable {
    /// Worker: the disks are open and requests are served.
    case ready
    /// Worker: it cannot start; the status, the reason and the remedy are for the person who asked.
    case refused(WorkerRefusal)
    /// Worker: hold these locks (descriptors come with the message) under this name, for my successor.
    case hold(String)
    /// Worker: give the locks of that name up.
    case release(String)
    /// Supervisor: that is done.
    case done
    /// Supervisor: finish what is in hand, close the disks, exit 0.
    case stop
    /// Supervisor: finish what is in hand and exit at once; a successor takes over, so nothing is flushed or closed.
    case handOver

    private var words: [String] {
        switch self {
        case .ready: ["ready"]
        case .refused(let refusal): ["refused", String(refusal.status), refusal.message, refusal.remedy]
        case .hold(let name): ["hold", name]
        case .release(let name): ["release", name]
        case .done: ["done"]
        case .stop: ["stop"]
        case .handOver: ["hand-over"]
        }
    }

    /// Words are separated by byte 0, which no message and no name holds.
    init?(_ bytes: some Sequence<UInt8>) {
        let words = Array(bytes).split(separator: 0, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
        switch (words[0], words.count) {
        case ("ready", 1): self = .ready
        case ("done", 1): self = .done
        case ("stop", 1): self = .stop
        case ("hand-over", 1): self = .handOver
        case ("hold", 2): self = .hold(words[1])
        case ("release", 2): self = .release(words[1])
        case ("refused", 4):
            guard let status = Int32(words[1]) else { return nil }
            self = .refused(WorkerRefusal(status: status, message: words[2], remedy: words[3]))
        default: return nil
        }
    }

    var encoded: [UInt8] { Array(words.joined(separator: "\0").utf8) }
}

/// Why a worker could not start, in the words for the person at the terminal.
package struct WorkerRefusal: Error, Equatable, Sendable {
    package let status: Int32
    package let message: String
    package let remedy: String

    package init(status: Int32, message: String, remedy: String) {
        self.status = status
        self.message = String(message.prefix(WorkerLink.textMax))
        self.remedy = String(remedy.prefix(WorkerLink.textMax))
    }
}

/// One end of the socket pair.
enum WorkerLink {
    static let textMax = 2_000
    private static let bytesMax = 32 << 10

    struct Received {
        enum Content: Equatable { case message(WorkerMessage), nothing, ended }
        var content: Content
        /// Owned by the receiver from here on.
        var descriptors: [Int32] = []
    }

    static func send(_ message: WorkerMessage, descriptors: [Int32] = [], to socket: Int32) -> Bool {
        let bytes = message.encoded
        return farshore_send_with_descriptors(socket, bytes, bytes.count, descriptors, Int32(descriptors.count)) == bytes.count
    }

    static func receive(from socket: Int32, waiting: Bool) -> Received {
        var buffer = [UInt8](repeating: 0, count: bytesMax)
        var descriptors = [Int32](repeating: -1, count: Int(FARSHORE_DESCRIPTORS_MAX))
        var received: Int32 = 0
        while true {
            let count = farshore_receive_with_descriptors(socket, &buffer, buffer.count, &descriptors, &received, waiting ? 0 : Int32(MSG_DONTWAIT))
            let taken = Array(descriptors.prefix(Int(received)))
            if count > 0 { return Received(content: WorkerMessage(buffer[..<count]).map { .message($0) } ?? .nothing, descriptors: taken) }
            if count == 0 { return Received(content: .ended, descriptors: taken) }
            if errno == EINTR { continue }
            return Received(content: errno == EAGAIN ? .nothing : .ended)
        }
    }
}
