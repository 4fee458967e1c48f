// The contract of ObjectStore as checks that hold for every target. Each target's suite runs `StoreContract.all`
// against a fresh, empty store.

import ObjectStore
import Testing

struct StoreContract: Sendable, CustomTestStringConvertible {
    let name: String
    let check: @Sendable (any ObjectStore) throws -> Void

    var testDescription: String { name }

    static let all: [StoreContract] = [
        StoreContract(name: "put, get, head", check: putGetHead),
        StoreContract(name: "replace", check: replace),
        StoreContract(name: "empty object", check: emptyObject),
        StoreContract(name: "ranges", check: ranges),
        StoreContract(name: "starts", check: starts),
        StoreContract(name: "missing object", check: missingObject),
        StoreContract(name: "put if absent", check: putIfAbsent),
        StoreContract(name: "racing puts if absent", check: racingPuts),
        StoreContract(name: "probe", check: probe),
        StoreContract(name: "odd keys", check: oddKeys),
        StoreContract(name: "refused keys", check: refusedKeys),
        StoreContract(name: "list order and prefix", check: listOrder),
        StoreContract(name: "list pages", check: listPages),
        StoreContract(name: "delete", check: delete),
        StoreContract(name: "large object", check: largeObject),
        StoreContract(name: "many threads", check: manyThreads),
    ]

    @Sendable static func putGetHead(_ store: any ObjectStore) throws {
        try store.put("a/b/c", Array("hello".utf8), ifAbsent: false)
        #expect(try store.get("a/b/c") == Array("hello".utf8))
        let info = try #require(try store.head("a/b/c"))
        #expect(info.sizeBytes == 5)
        if let md5 = info.md5 { #expect(md5 == hex("5d41402abc4b2a76b9719d911017c592")) }
    }

    @Sendable static func replace(_ store: any ObjectStore) throws {
        try store.put("k", patternBytes(5000, seed: 1), ifAbsent: false)
        try store.put("k", patternBytes(3, seed: 2), ifAbsent: false)
        #expect(try store.get("k") == patternBytes(3, seed: 2))
        #expect(try store.list(prefix: "", startAfter: nil).objects == [ListedObject(key: "k", sizeBytes: 3)])
    }

    @Sendable static func emptyObject(_ store: any ObjectStore) throws {
        try store.put("empty", [], ifAbsent: true)
        #expect(try store.get("empty") == [])
        #expect(try store.head("empty")?.sizeBytes == 0)
        #expect(try store.list(prefix: "", startAfter: nil).objects == [ListedObject(key: "empty", sizeBytes: 0)])
        expectCode(.outOfRange) { _ = try store.get("empty", range: 0..<1) }
    }

    @Sendable static func ranges(_ store: any ObjectStore) throws {
        let bytes = patternBytes(100_000, seed: 3)
        try store.put("r", bytes, ifAbsent: false)
        for range in [0..<1, 0..<100_000, 1..<4097, 65_536..<65_537, 99_999..<100_000] {
            #expect(try store.get("r", range: UInt64(range.lowerBound)..<UInt64(range.upperBound)) == Array(bytes[range]))
        }
        #expect(try store.get("r", range: 7..<7) == [])
        expectCode(.outOfRange) { _ = try store.get("r", range: 99_999..<100_001) }
        expectCode(.outOfRange) { _ = try store.get("r", range: 100_000..<100_001) }
        expectCode(.outOfRange) { _ = try store.get("r", range: 1 << 50..<1 << 50 + 4096) }
    }

    @Sendable static func starts(_ store: any ObjectStore) throws {
        let bytes = patternBytes(100_000, seed: 4)
        try store.put("s", bytes, ifAbsent: false)
        for count in [1, 4096, 99_999, 100_000, 100_001, 1 << 20] { #expect(try store.get("s", first: count) == Array(bytes.prefix(count))) }
        try store.put("empty", [], ifAbsent: false)
        #expect(try store.get("empty", first: 100) == [])
        expectCode(.notFound) { _ = try store.get("nothing", first: 100) }
    }

    @Sendable static func missingObject(_ store: any ObjectStore) throws {
        expectCode(.notFound) { _ = try store.get("nothing") }
        expectCode(.notFound) { _ = try store.get("no/thing", range: 0..<10) }
        #expect(try store.head("nothing") == nil)
        #expect(try store.head("no/thing/here") == nil)
        // An object is no folder, a folder no object.
        try store.put("folder/object", [1], ifAbsent: false)
        #expect(try store.head("folder") == nil)
        expectCode(.notFound) { _ = try store.get("folder") }
        expectCode(.notFound) { _ = try store.get("folder/object/below") }
    }

    @Sendable static func putIfAbsent(_ store: any ObjectStore) throws {
        try store.put("heads/g/1", [1], ifAbsent: true)
        expectCode(.alreadyExists) { try store.put("heads/g/1", [2], ifAbsent: true) }
        expectCode(.alreadyExists) { try store.put("heads/g/1", [1], ifAbsent: true) }
        #expect(try store.get("heads/g/1") == [1])
        try store.delete(["heads/g/1"])
        try store.put("heads/g/1", [3], ifAbsent: true)
        #expect(try store.get("heads/g/1") == [3])
    }

    @Sendable static func racingPuts(_ store: any ObjectStore) throws {
        for round in 0..<5 {
            let winners = onThreads(8) { index in
                do throws(StoreError) {
                    try store.put("race/\(round)", patternBytes(1000, seed: UInt64(index)), ifAbsent: true)
                    return index
                } catch {
                    return error.code == .alreadyExists ? -1 : -2
                }
            }
            let winner = winners.filter { $0 >= 0 }
            #expect(winner.count == 1 && !winners.contains(-2), "round \(round): \(winners)")
            if let first = winner.first { #expect(try store.get("race/\(round)") == patternBytes(1000, seed: UInt64(first))) }
        }
    }

    @Sendable static func probe(_ store: any ObjectStore) throws {
        let bytes = patternBytes(300, seed: 9)
        try store.put("farshore.json", bytes, ifAbsent: true)
        try store.probe(existing: "farshore.json", bytes)
        #expect(store.features.conditionalPut)
        #expect(try store.get("farshore.json") == bytes)
    }

    static let oddNames = [
        "a b/c d", "plus+plus", "amp&amp", "equals=1=2", "tilde~x", "(parens)", "percent%20%41%", "quote'quote\"", "comma,semi;colon:at@",
        "hash#q?mark", "star*dollar$bang!", "[brackets]{braces}", "back\\slash", "pipe|caret^tick`", "<less>&lt;", "é-composed", "e\u{301}-decomposed",
        "日本語/ключ", "😀", " leading", "trailing ", "dots...", "..a", ".hidden/.x", "UPPER/lower", "%2F", "a+b c%2Bd",
    ]

    @Sendable static func oddKeys(_ store: any ObjectStore) throws {
        for (index, key) in oddNames.enumerated() { try store.put("odd/\(key)", patternBytes(10 + index, seed: UInt64(index)), ifAbsent: true) }
        for (index, key) in oddNames.enumerated() {
            #expect(try store.get("odd/\(key)") == patternBytes(10 + index, seed: UInt64(index)), "\(key)")
            #expect(try store.get("odd/\(key)", range: 2..<7) == Array(patternBytes(10 + index, seed: UInt64(index))[2..<7]), "\(key)")
            #expect(try store.head("odd/\(key)")?.sizeBytes == UInt64(10 + index), "\(key)")
            #expect(try store.list(prefix: "odd/\(key)", startAfter: nil).objects.contains { sameBytes($0.key, "odd/\(key)") }, "\(key)")
        }
        let listed = try store.listAll(prefix: "odd/").map { Array($0.key.utf8) }
        #expect(listed == oddNames.map { Array("odd/\($0)".utf8) }.sorted { $0.lexicographicallyPrecedes($1) })
        try store.delete(oddNames.map { "odd/\($0)" })
        #expect(try store.listAll(prefix: "odd/").isEmpty)
    }

    @Sendable static func refusedKeys(_ store: any ObjectStore) throws {
        let long = String(repeating: "x", count: 201)
        for key in ["", "/a", "a/", "a//b", "..", "../x", "a/../b", "./a", "a/.", "nul\0x", "line\nfeed", long, String(repeating: "abc/", count: 300) + "d"] {
            expectCode(.badLocation) { try store.put(key, [1], ifAbsent: false) }
            expectCode(.badLocation) { _ = try store.get(key) }
            expectCode(.badLocation) { _ = try store.head(key) }
            expectCode(.badLocation) { try store.delete([key]) }
        }
        expectCode(.badLocation) { _ = try store.list(prefix: "../", startAfter: nil) }
        #expect(try store.list(prefix: "", startAfter: nil).objects.isEmpty)
    }

    @Sendable static func listOrder(_ store: any ObjectStore) throws {
        // `-` and `.` sort before `/`, `0` after it: folder order and byte order differ.
        let keys = ["a-b", "a.b", "a/1", "a/b/2", "a/b-c", "a/b.d", "a/b0", "a0", "b/x", "ab/y"]
        for key in keys { try store.put(key, Array(key.utf8), ifAbsent: false) }
        let sorted = keys.sorted(by: ObjectKey.isBefore)
        let page = try store.list(prefix: "", startAfter: nil)
        #expect(page == ListPage(objects: sorted.map { ListedObject(key: $0, sizeBytes: UInt64($0.utf8.count)) }, isTruncated: false))
        for prefix in ["a", "a/", "a/b", "a/b/", "b", "b/x", "zz", "a/b/2/"] {
            for after in [nil, "a", "a-b", "a/1", "a/b/2", "a/b/", "zzz"] {
                let expected = sorted.filter { $0.hasPrefix(prefix) && ObjectKey.isBefore(after ?? "", $0) }
                #expect(try store.list(prefix: prefix, startAfter: after).objects.map(\.key) == expected, "prefix \(prefix) after \(after ?? "-")")
            }
        }
    }

    @Sendable static func listPages(_ store: any ObjectStore) throws {
        let keys = (0..<1100).map { "l/\($0 % 7)/\($0)" }
        _ = onThreads(8) { thread in
            for index in stride(from: thread, to: keys.count, by: 8) {
                do throws(StoreError) { try store.put(keys[index], [UInt8(index & 255)], ifAbsent: false) } catch { return 1 }
            }
            return 0
        }
        let first = try store.list(prefix: "l/", startAfter: nil)
        #expect(first.isTruncated && first.objects.count == 1000)
        let all = try store.listAll(prefix: "l/")
        #expect(all.map(\.key) == keys.sorted(by: ObjectKey.isBefore))
        try store.delete(keys)
        #expect(try store.list(prefix: "", startAfter: nil) == ListPage(objects: [], isTruncated: false))
    }

    @Sendable static func delete(_ store: any ObjectStore) throws {
        for key in ["d/1", "d/2", "d/e/3"] { try store.put(key, [1], ifAbsent: false) }
        try store.delete([])
        try store.delete(["d/1", "d/nothing", "no/thing", "d/e/3"])
        #expect(try store.listAll(prefix: "").map(\.key) == ["d/2"])
        try store.delete(["d/1"])
        try store.put("d/1", [2], ifAbsent: true)
        #expect(try store.get("d/1") == [2])
    }

    @Sendable static func largeObject(_ store: any ObjectStore) throws {
        let bytes = patternBytes(70 << 20, seed: 11)
        try store.put("large", bytes, ifAbsent: false)
        #expect(try store.head("large")?.sizeBytes == UInt64(bytes.count))
        #expect(try store.get("large") == bytes)
        let middle = 16 << 20
        #expect(try store.get("large", range: UInt64(middle - 3)..<UInt64(middle + 5)) == Array(bytes[middle - 3..<middle + 5]))
    }

    @Sendable static func manyThreads(_ store: any ObjectStore) throws {
        let failures = onThreads(16) { thread in
            var failures = 0
            for round in 0..<10 {
                let key = "t/\(thread)/\(round)"
                let bytes = patternBytes(thread * 1000 + round, seed: UInt64(thread))
                do throws(StoreError) {
                    try store.put(key, bytes, ifAbsent: round % 2 == 0)
                    if try store.get(key) != bytes { failures += 1 }
                    try store.delete([key])
                } catch { failures += 1 }
            }
            return failures
        }
        #expect(failures.allSatisfy { $0 == 0 })
        #expect(try store.listAll(prefix: "t/").isEmpty)
    }
}
