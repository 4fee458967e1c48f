// A guest agent as bad as it has to be: answers over a Unix socket, keeps what a guest would be (at rest or not), and can hang, talk
// nonsense, or go away at a chosen call.

import BlockIO
import Foundation
import Glibc
import Synchronization

final class AgentDouble: Sendable {
    enum Fault: Equatable { case none, hangsInFreeze(milliseconds: Int), diesAfterFreeze, garbage, refuses, frozenBefore, deafToThaw(times: Int) }

    private struct State {
        var isAtRest = false
        var began: UInt64 = 0
        var longest: UInt64 = 0
        var freezes = 0
        var deaf = 0
        var isOver = false
    }

    let path: String
    private let fault: Fault
    private let listener: Int32
    private let state = Mutex(State())

    init(_ path: String, _ fault: Fault = .none) throws {
        self.path = path
        self.fault = fault
        unlink(path)
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        let bound = withUnsafePointer(to: &address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) } }
        guard bound == 0, listen(listener, 4) == 0 else { throw SystemError(errno: errno, operation: "listen", path: path) }
        if fault == .frozenBefore { state.withLock { $0.isAtRest = true } }
        if case .deafToThaw(let times) = fault { state.withLock { $0.deaf = times } }
        _ = try OwnThread(name: "agent") { [self] in serve() }
    }

    func end() {
        state.withLock { $0.isOver = true }
        shutdown(listener, Int32(SHUT_RDWR))
    }

    var isAtRest: Bool { state.withLock { $0.isAtRest } }
    var freezes: Int { state.withLock { $0.freezes } }
    /// How long the guest stood still, at most.
    var longestSeconds: Double { state.withLock { Double($0.longest) / 1e9 } }

    private func serve() {
        while !state.withLock({ $0.isOver }) {
            let client = accept(listener, nil, nil)
            guard client >= 0 else { return }
            talk(client)
            close(client)
        }
    }

    private func talk(_ client: Int32) {
        var pending: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 4096)
        while true {
            while let end = pending.firstIndex(of: 0x0A) {
                let line = pending[..<end].filter { $0 != 0xFF }
                pending.removeSubrange(...end)
                guard let answer = answer(String(decoding: line, as: UTF8.self)) else { return }
                _ = answer.withUnsafeBytes { send(client, $0.baseAddress!, $0.count, Int32(MSG_NOSIGNAL)) }
            }
            let count = recv(client, &block, block.count, 0)
            guard count > 0 else { return }
            pending += block[..<count]
        }
    }

    /// Nil ends the connection.
    private func answer(_ request: String) -> [UInt8]? {
        if request.contains("guest-sync-delimited") {
            if fault == .garbage { return Array("no json at all\n{\"return\": \u{1}".utf8) }
            let id = request.split(separator: ":").last.map { $0.filter(\.isNumber) } ?? "0"
            return Array("left over\n".utf8) + [0xFF] + Array("{\"return\": \(id)}\n".utf8)
        }
        if request.contains("guest-fsfreeze-status") { return Array("{\"return\": \"\(isAtRest ? "frozen" : "thawed")\"}\n".utf8) }
        if request.contains("guest-fsfreeze-freeze") {
            if fault == .refuses { return Array("{\"error\": {\"class\": \"GenericError\", \"desc\": \"fsfreeze hook has failed\"}}\n".utf8) }
            if case .hangsInFreeze(let milliseconds) = fault, freezes == 0 {
                state.withLock { $0.freezes += 1 }
                usleep(UInt32(milliseconds) * 1_000)
            }
            rest()
            return fault == .diesAfterFreeze ? nil : Array("{\"return\": 2}\n".utf8)
        }
        let isDeaf = state.withLock { state in
            defer { state.deaf = max(0, state.deaf - 1) }
            return state.deaf > 0
        }
        if !isDeaf { runOn() }
        return Array("{\"return\": 2}\n".utf8)
    }

    private func rest() {
        state.withLock { state in
            state.freezes += 1
            if !state.isAtRest { (state.isAtRest, state.began) = (true, Clock.monotonicNanoseconds()) }
        }
    }

    private func runOn() {
        state.withLock { state in
            if state.isAtRest { state.longest = max(state.longest, Clock.monotonicNanoseconds() - state.began) }
            state.isAtRest = false
        }
    }
}
