// Versions and locks against real services: what is asked of them is what they do.

import Foundation
import ObjectStore
import Testing

@Suite struct S3VersionsTests {
    static let servers: [String] = [("moto_server", "moto"), ("radosgw", "ceph-rgw")].filter { LiveServer.isInstalled($0.0) }.map(\.1)

    private func server(_ name: String) throws -> LiveServer { try (name == "moto" ? LiveServer.moto : LiveServer.rgw).get() }

    /// A store in a bucket of its own that locks new objects for a day.
    private func lockedStore(_ server: LiveServer) throws -> any ObjectStore {
        let bucket = "locked-\(UUID().uuidString.lowercased())"
        _ = try LiveServer.run("s3-admin", ["make-locked-bucket", server["ENDPOINT"], bucket, "1", server["ACCESS_KEY"], server["SECRET_KEY"]])
        return try openStore(url: server.url(prefix: "a%20b%2Bc/%C3%BC", bucket: bucket), environment: server.environment)
    }

    private func all(_ versions: any ObjectVersions, _ prefix: String) throws -> [ObjectVersion] {
        var (found, mark): ([ObjectVersion], VersionMark?) = ([], nil)
        repeat {
            let page = try versions.listVersions(prefix: prefix, after: mark)
            found += page.versions
            mark = page.next
        } while mark != nil
        return found
    }

    @Test(arguments: servers) func versionsAreListedReadAndBroughtBack(name: String) throws {
        let store = try lockedStore(try server(name))
        let versions = try #require(store.versions)
        #expect(try all(versions, "") == [])
        for (key, content) in [("x/a", 1), ("x/a", 2), ("x/b+ü", 3), ("y", 4)] as [(String, UInt8)] { try store.put(key, [content], ifAbsent: false) }
        try store.delete(["x/a", "y"])
        let found = try all(versions, "x/")
        #expect(found.map(\.key) == ["x/a", "x/a", "x/a", "x/b+ü"])
        #expect(found.map(\.isMarker) == [false, false, true, false] && found.map(\.isNewest) == [false, false, true, true])
        #expect(try found.filter { !$0.isMarker }.map { try versions.get($0) } == [[2], [1], [3]])
        #expect(found[0].sizeBytes == 1 && found[0].content != found[1].content)
        // Without its marker the newest version is there again; an earlier one over it is the newest then.
        #expect(try store.head("x/a") == nil)
        try versions.remove([found[2]])
        #expect(try store.get("x/a") == [2])
        try versions.bringBack(found[1])
        #expect(try store.get("x/a") == [1])
        #expect(try all(versions, "x/a").map(\.content) == [found[1].content, found[0].content, found[1].content])
        // What is locked stays, whoever asks.
        expectCode(.accessDenied) { try versions.remove([found[0]]) }
        #expect(try versions.get(found[0]) == [2])
    }

    @Test(arguments: servers) func locksAreReadAndExtended(name: String) throws {
        let store = try lockedStore(try server(name))
        let versions = try #require(store.versions)
        #expect(try versions.lockRule() == LockRule(mode: .governance, days: 1))
        try store.put("a", [1], ifAbsent: false)
        try store.put("a", [2], ifAbsent: false)
        let found = try all(versions, "a")
        let now = Int(Date().timeIntervalSince1970)
        let before = try #require(try versions.lock(of: found[1]))
        #expect(before.mode == .governance && abs(before.untilSeconds - now - 86_400) < 60)
        try versions.setLock(ObjectLock(mode: .governance, untilSeconds: now + 5 * 86_400), of: found[1])
        #expect(try versions.lock(of: found[1]) == ObjectLock(mode: .governance, untilSeconds: now + 5 * 86_400))
        #expect(try #require(try versions.lock(of: found[0])).untilSeconds < now + 86_460)
        try store.put("b", [1], ifAbsent: false)
        try versions.setLock(ObjectLock(mode: .compliance, untilSeconds: now + 2 * 86_400), of: try #require(try all(versions, "b").first), orRefused: name == "ceph-rgw")
    }

    @Test(arguments: servers) func versionsOverSeveralPagesAreListedOnce(name: String) throws {
        let store = try lockedStore(try server(name))
        let versions = try #require(store.versions)
        let done = onThreads(8) { thread in
            for number in 0..<130 {
                do { try store.put("k\(thread)", [UInt8(number)], ifAbsent: false) } catch { return 0 }
            }
            return 130
        }
        try store.put("l", [1], ifAbsent: false)
        #expect(done.reduce(0, +) == 1_040)
        let found = try all(versions, "")
        #expect(found.count == 1_041 && Set(found.map(\.id)).count == 1_041 && found.last?.key == "l" && found.filter(\.isNewest).count == 9)
    }

    @Test(arguments: servers) func aBucketWithoutLocksSaysSo(name: String) throws {
        let store = try server(name).freshStore()
        let versions = try #require(store.versions)
        #expect(try versions.lockRule() == nil)
        try store.put("a", [1], ifAbsent: false)
        #expect(try all(versions, "").map(\.id) == ["null"])
    }

    @Test func datesWithFractionsAreRead() {
        #expect(HTTPDate(rfc3339: "2026-11-23T04:32:25.624910772Z")?.stamp == "20261123T043225Z")
        #expect(HTTPDate(rfc3339: "2026-11-23T04:32:25Z")?.stamp == "20261123T043225Z")
        for text in ["", "2026-11-23T04:32:25", "2026-13-23T04:32:25Z", "2026-11-23 04:32:25Z", "2026-11-23T04:32:25+01:00Z", "2026-11-23T04:32:2xZ"] {
            #expect(HTTPDate(rfc3339: text) == nil, "\(text)")
        }
    }
}

extension ObjectVersions {
    /// Ceph 16 wants the right to bypass governance for a stricter mode.
    fileprivate func setLock(_ lock: ObjectLock, of version: ObjectVersion, orRefused: Bool) throws {
        if orRefused { expectCode(.accessDenied) { try setLock(lock, of: version) } } else { try setLock(lock, of: version) }
    }
}
