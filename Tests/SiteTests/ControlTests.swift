import BlockIO
import Foundation
import Glibc
import Site
import Testing

@Suite struct ControlTests {
    private static let point = CutPoint(disk: "a", sequence: UInt64.max, timeNanoseconds: 1, tag: "t", isAppConsistent: true)

    private func answer(_ request: ControlRequest) -> ControlReply {
        switch request {
        case .cut(_, let tag, let isApp): .points([CutPoint(disk: "a", sequence: UInt64.max, timeNanoseconds: 1, tag: tag, isAppConsistent: isApp)], left: ["b"])
        case .makeDurable: .durable(sequence: 9)
        case .status:
            .status(
                (0..<2000).map { Self.status("disk-\($0)") }, refused: [RefusedDisk(disk: "bad", reason: "it was changed", remedy: "put it back")],
                mount: Self.mount)
        default: .refused(ControlRefusal(.noSuchDisk, "no such disk", remedy: "look"))
        }
    }

    private static let mount = MountStatus(
        requests: 1, readBytes: 2, writtenBytes: 3, mappedWrites: 4, failedRequests: 5, requestsAtOnce: 6, requestBytesMax: 7,
        hasParallelWrites: true, hasAsynchronousDirectIO: false, allowsSharedMappings: true, hasSupervisor: true)

    private static func status(_ name: String) -> ServedDiskStatus {
        ServedDiskStatus(
            disk: name, sizeBytes: 1, lastSequence: 2, flushedSequence: 3, destagedSequence: 4, frozenSequence: nil, logBytes: 5,
            logBudgetBytes: 6, undestagedBytes: 7, unreplicatedBytes: 8, health: .warning, reason: "r", remedy: "m")
    }

    @Test func requestsAreAnsweredAlsoUnderALongPath() throws {
        let site = try TemporarySite()
        let deep = site.directory.path + "/" + String(repeating: "d", count: 150)
        try Directory.create(deep)
        let path = deep + "/control.sock"
        let server = try ControlServer(path: path) { answer($0) }
        defer { server.stop() }
        let client = ControlClient(socketPath: path)
        #expect(try client.ask(.cut(disks: [], tag: "t", isApp: true)) == .points([Self.point], left: ["b"]))
        #expect(try client.ask(.makeDurable(disk: "a")) == .durable(sequence: 9))
        guard case .status(let all, let refused, let mount) = try client.ask(.status) else { Issue.record("not a status"); return }
        #expect(all.count == 2000 && refused.map(\.disk) == ["bad"] && mount == Self.mount)
        #expect { try client.demand(.freeze(disk: "x")) } throws: { ($0 as? SiteError)?.code == .diskNotFound }
    }

    @Test func noMountIsSaidSo() throws {
        let site = try TemporarySite()
        let client = ControlClient(site: site.directory)
        #expect { try client.ask(.status) } throws: { ($0 as? SiteError)?.code == .mountAway }
        let server = try ControlServer(path: site.directory.controlSocketPath) { answer($0) }
        server.stop()
        #expect { try client.ask(.status) } throws: { ($0 as? SiteError)?.code == .mountAway }
    }

    @Test func aSocketLeftByADeadWorkerIsReplaced() throws {
        let site = try TemporarySite()
        #expect(FileManager.default.createFile(atPath: site.directory.controlSocketPath, contents: nil))
        let server = try ControlServer(path: site.directory.controlSocketPath) { answer($0) }
        defer { server.stop() }
        #expect(try ControlClient(site: site.directory).ask(.makeDurable(disk: "a")) == .durable(sequence: 9))
    }

    private static let hostileMessages = [
        "not json\n", "{}\n", "[]\n", "{\"explode\":{}}\n", "{\"cut\":{\"disks\":3}}\n", "\n", "{\"makeDurable\":{}}\n", "\u{0}\u{0}\n",
        String(repeating: "[", count: 60_000) + "\n", String(repeating: "x", count: 200_000),
    ]

    @Test(arguments: hostileMessages.indices)
    func hostileMessagesAreRefused(_ number: Int) throws {
        let message = Self.hostileMessages[number]
        let site = try TemporarySite()
        let path = site.directory.controlSocketPath
        let server = try ControlServer(path: path) { answer($0) }
        defer { server.stop() }
        let reply = try raw(path, send: Array(message.utf8))
        #expect(reply.contains("garbled"))
        // It goes on serving others.
        #expect(try ControlClient(socketPath: path).ask(.makeDurable(disk: "a")) == .durable(sequence: 9))
    }

    @Test func silentPeersDoNotKeepOthersOut() throws {
        let site = try TemporarySite()
        let path = site.directory.controlSocketPath
        let server = try ControlServer(path: path) { answer($0) }
        defer { server.stop() }
        let silent = try (0..<8).map { _ in try connect(path) }
        defer { silent.forEach { close($0) } }
        #expect(try ControlClient(socketPath: path).ask(.makeDurable(disk: "a")) == .durable(sequence: 9))
    }

    @Test func aGarbledReplyIsAnError() throws {
        let site = try TemporarySite()
        let path = site.directory.controlSocketPath
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listener) }
        try #require(withAddress(path) { bind(listener, $0, $1) } == 0)
        listen(listener, 1)
        Thread.detachNewThread {
            let peer = accept(listener, nil, nil)
            var block = [UInt8](repeating: 0, count: 1024)
            _ = recv(peer, &block, block.count, 0)
            _ = send(peer, "nonsense\n", 9, 0)
            close(peer)
        }
        #expect { try ControlClient(socketPath: path).ask(.status, timeoutSeconds: 5) } throws: { ($0 as? SiteError)?.code == .controlGarbled }
    }

    private func raw(_ path: String, send bytes: [UInt8]) throws -> String {
        let peer = try connect(path)
        defer { close(peer) }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { send(peer, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { break }
            done += count
        }
        var reply: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 4096)
        while !reply.contains(0x0A) {
            let count = recv(peer, &block, block.count, 0)
            guard count > 0 else { break }
            reply += block[..<count]
        }
        return String(decoding: reply, as: UTF8.self)
    }

    private func connect(_ path: String) throws -> Int32 {
        let peer = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        try #require(withAddress(path) { Glibc.connect(peer, $0, $1) } == 0)
        return peer
    }

    private func withAddress(_ path: String, _ call: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }
}
