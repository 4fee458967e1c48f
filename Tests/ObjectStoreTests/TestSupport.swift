// What the suites of this room share: scratch directories, bytes that can be recognised, threads, expected errors.

import Foundation
import ObjectStore
import Synchronization
import Testing

/// A fresh directory, removed with all it holds when the body ends.
func withScratchDirectory<Result>(_ body: (String) throws -> Result) throws -> Result {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("farshore-store-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    return try body(path)
}

/// The same bytes for the same seed.
func patternBytes(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        for index in 0..<count {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            buffer[index] = UInt8(truncatingIfNeeded: state >> 24)
        }
        initialized = count
    }
}

func hex(_ text: String) -> [UInt8] {
    stride(from: 0, to: text.count, by: 2).map { UInt8(text.dropFirst($0).prefix(2), radix: 16)! }
}

/// String's `==` holds for different bytes that are canonically equivalent.
func sameBytes(_ left: String, _ right: String) -> Bool { left.utf8.elementsEqual(right.utf8) }

@discardableResult
func expectCode(_ code: StoreError.Code, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void) -> StoreError? {
    do {
        try body()
        Issue.record("no error, expected \(code)", sourceLocation: sourceLocation)
    } catch let error as StoreError {
        #expect(error.code == code, "\(error.message)", sourceLocation: sourceLocation)
        #expect(!error.message.isEmpty && !error.remedy.isEmpty, sourceLocation: sourceLocation)
        return error
    } catch {
        Issue.record("\(error)", sourceLocation: sourceLocation)
    }
    return nil
}

/// Runs `body` on `count` threads at once and returns what each returned, in order.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Int) -> [Int] {
    let results = ThreadResults(count)
    let group = DispatchGroup()
    for index in 0..<count {
        group.enter()
        Thread.detachNewThread {
            let result = body(index)
            results.values.withLock { $0[index] = result }
            group.leave()
        }
    }
    group.wait()
    return results.values.withLock { $0 }
}

private final class ThreadResults: Sendable {
    let values: Mutex<[Int]>
    init(_ count: Int) { values = Mutex([Int](repeating: 0, count: count)) }
}

/// Every kind of request meets the same refusal, HEAD too, whose answers say nothing.
func expectRefusal(_ code: StoreError.Code, _ store: any ObjectStore, secret: String, remedy: String, sourceLocation: SourceLocation = #_sourceLocation) {
    let requests: [() throws -> Void] = [
        { _ = try store.get("k") }, { _ = try store.get("k", range: 0..<1) }, { _ = try store.head("k") }, { try store.put("k", [1], ifAbsent: false) },
        { try store.put("k", [1], ifAbsent: true) }, { try store.delete(["k"]) }, { _ = try store.list(prefix: "", startAfter: nil) },
    ]
    for request in requests {
        guard let error = expectCode(code, sourceLocation: sourceLocation, { try answered(request) }) else { continue }
        #expect(error.remedy.contains(remedy), "\(error.remedy)", sourceLocation: sourceLocation)
        #expect(!error.isRecoverable, sourceLocation: sourceLocation)
        #expect(!error.message.contains(secret) && !error.remedy.contains(secret), sourceLocation: sourceLocation)
    }
}

/// A server that refuses may close the connection before it has read the body: that attempt tells nothing, and is repeated.
private func answered(_ request: () throws -> Void) throws {
    for _ in 0..<3 {
        do { return try request() } catch let error as StoreError where error.code == .unreachable { continue }
    }
    try request()
}

func sha256(_ bytes: [UInt8]) -> String { Digests.sha256(bytes).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
