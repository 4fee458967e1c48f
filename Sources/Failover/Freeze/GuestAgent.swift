// The QEMU guest agent over the Unix socket of its channel: guest-sync-delimited, guest-fsfreeze-freeze, -status and -thaw. Every call
// has a deadline. What a call left unread is skipped by the next guest-sync-delimited; one that was not answered may still
// be carried out, so whoever asked for a freeze and got no answer asks for the thaw, which the agent takes after it.

import BlockIO
import Foundation
import Glibc
import Site

/// Used by one thread.
package final class GuestAgent {
    package enum Failure: Error, Equatable, CustomStringConvertible {
        case away(String)
        case timedOut(String)
        case garbled(String)
        /// The agent's own words.
        case refused(String)

        package var description: String {
            switch self {
            case .away(let text): "the guest agent cannot be reached: \(text)"
            case .timedOut(let call): "the guest agent did not answer \(call) in time"
            case .garbled(let text): "the guest agent's answer makes no sense: \(text)"
            case .refused(let text): "the guest agent refused: \(text)"
            }
        }
    }

    package enum Status: String, Sendable { case thawed, frozen }

    private static let answerBytesMax = 1 << 20
    private let socket: Descriptor
    private var pending: [UInt8] = []

    /// Connects and finds the place in the stream where answers to this connection begin.
    package init(socketPath: String, deadline: UInt64) throws(Failure) {
        do throws(SystemError) {
            socket = try UnixConnection.open(socketPath, deadline: deadline)
        } catch {
            throw error.errno == ETIMEDOUT ? .timedOut("on \(socketPath)") : .away(error.description)
        }
        try synchronise(deadline: deadline)
    }

    private func synchronise(deadline: UInt64) throws(Failure) {
        let id = Int.random(in: 1...Int(Int32.max))
        // 0xFF ends whatever half of a request an earlier connection left in the agent's parser.
        try send([0xFF] + Array(#"{"execute":"guest-sync-delimited","arguments":{"id":\#(id)}}"#.utf8) + [0x0A], deadline, "guest-sync-delimited")
        while true {
            while let at = pending.firstIndex(of: 0xFF) {
                pending.removeSubrange(...at)
                // Of several such marks the last before the answer counts.
                guard let line = try line(deadline, "guest-sync-delimited") else { continue }
                guard let answer = try? JSONDecoder().decode(Answer<Int>.self, from: Data(line)) else { continue }
                if answer.value == id { return }
            }
            guard pending.count <= Self.answerBytesMax else { throw .garbled("\(pending.count) bytes without an answer to guest-sync-delimited") }
            pending += try receive(deadline, "guest-sync-delimited")
        }
    }

    /// Filesystems that are at rest now.
    package func freeze(deadline: UInt64) throws(Failure) -> Int { try call("guest-fsfreeze-freeze", Int.self, deadline) }

    /// Filesystems that run on.
    package func thaw(deadline: UInt64) throws(Failure) -> Int { try call("guest-fsfreeze-thaw", Int.self, deadline) }

    package func status(deadline: UInt64) throws(Failure) -> Status {
        let text = try call("guest-fsfreeze-status", String.self, deadline)
        guard let status = Status(rawValue: text) else { throw .garbled("status \(text.debugDescription)") }
        return status
    }

    private func call<Value: Decodable>(_ name: String, _ type: Value.Type, _ deadline: UInt64) throws(Failure) -> Value {
        try send(Array(#"{"execute":"\#(name)"}"#.utf8) + [0x0A], deadline, name)
        while true {
            guard let line = try line(deadline, name) else { continue }
            guard let answer = try? JSONDecoder().decode(Answer<Value>.self, from: Data(line)) else {
                throw .garbled("\(String(decoding: line.prefix(80), as: UTF8.self)) to \(name)")
            }
            if let refusal = answer.error { throw .refused(refusal.desc) }
            guard let value = answer.value else { throw .garbled("no value of \(name)") }
            return value
        }
    }

    private struct Answer<Value: Decodable>: Decodable {
        struct Refusal: Decodable {
            let desc: String
        }

        let value: Value?
        let error: Refusal?

        enum CodingKeys: String, CodingKey {
            case value = "return"
            case error
        }
    }

    /// An agent talks to one connection at a time: one that is given up must not keep the next from being heard.
    package func disconnect() { shutdown(socket.raw, Int32(SHUT_RDWR)) }

    // MARK: The stream

    /// Without its newline; nil for an empty one, and where a mark of a later answer begins before it ends.
    private func line(_ deadline: UInt64, _ call: String) throws(Failure) -> [UInt8]? {
        while true {
            if let end = pending.firstIndex(where: { $0 == 0x0A || $0 == 0xFF }) {
                guard pending[end] == 0x0A else { return nil }
                let line = Array(pending[..<end])
                pending.removeSubrange(...end)
                return line.isEmpty ? nil : line
            }
            guard pending.count <= Self.answerBytesMax else { throw .garbled("a line of \(pending.count) bytes") }
            pending += try receive(deadline, call)
        }
    }

    private func wait(_ events: Int32, _ deadline: UInt64, _ call: String) throws(Failure) {
        while true {
            let now = Clock.monotonicNanoseconds()
            guard now < deadline else { throw .timedOut(call) }
            var waiting = pollfd(fd: socket.raw, events: Int16(events), revents: 0)
            let count = poll(&waiting, 1, Int32(clamping: (deadline - now) / 1_000_000 + 1))
            if count > 0 { return }
            if count < 0, errno != EINTR { throw .away(String(cString: strerror(errno))) }
        }
    }

    private func receive(_ deadline: UInt64, _ call: String) throws(Failure) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: 4096)
        while true {
            try wait(POLLIN, deadline, call)
            let count = recv(socket.raw, &block, block.count, Int32(MSG_DONTWAIT))
            if count > 0 { return Array(block[..<count]) }
            if count == 0 { throw .away("it ended the connection") }
            if errno != EINTR, errno != EAGAIN { throw .away(String(cString: strerror(errno))) }
        }
    }

    private func send(_ bytes: [UInt8], _ deadline: UInt64, _ call: String) throws(Failure) {
        var done = 0
        while done < bytes.count {
            try wait(POLLOUT, deadline, call)
            let flags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
            let count = bytes.withUnsafeBytes { Glibc.send(socket.raw, $0.baseAddress! + done, bytes.count - done, flags) }
            if count > 0 { done += count } else if errno != EINTR, errno != EAGAIN { throw .away(String(cString: strerror(errno))) }
        }
    }
}
