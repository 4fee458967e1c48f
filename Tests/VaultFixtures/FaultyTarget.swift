// A target with faults, as the contract shows them to who uses it: each request may be struck by one of those that are on.
// What it holds in truth is the store below.

import Glibc
package import ObjectStore
import Synchronization

package enum TargetFault: String, CaseIterable, Sendable {
    // The request fails.
    case serverError, slowDown, connectionReset, answerLost, hang, cutAnswer, tlsCut, accessDenied, credentialsExpired, credentialsRefused
    case redirected, clockSkew, untrusted, bucketMissing, noSpace, requestConflict
    // A PUT is acknowledged, and something else is there.
    case notStored, storedTruncated, storedChanged
    // An answer is another one than what is there.
    case wrongBytes, emptyBody, errorAsBody, lateVisibility, headMissing, headWrongMD5, headWrongSize
    case listStale, listPartial, listGarbage, listRefused
    // Conditions of a PUT.
    case conditionIgnored, conditionRefused, conditionHitsOwn
    case latency

    /// The administrator has to mend it; the uploader waits for `resume`.
    package var isForGood: Bool {
        switch self {
        case .accessDenied, .credentialsExpired, .credentialsRefused, .redirected, .clockSkew, .untrusted: true
        default: false
        }
    }

    /// What each request fails with before it arrives, if that is what the fault does.
    var refusal: StoreError? {
        func error(_ code: StoreError.Code, retryAfterSeconds: Int? = nil) -> StoreError {
            StoreError(code, "\(rawValue) was asked for", try: "end the fault", retryAfterSeconds: retryAfterSeconds)
        }
        switch self {
        case .serverError, .requestConflict: return error(.serverFault)
        // Longer than a request may wait.
        case .slowDown: return error(.throttled, retryAfterSeconds: 60)
        case .connectionReset, .tlsCut: return error(.unreachable)
        case .hang: return error(.timedOut)
        case .cutAnswer: return error(.corruptResponse)
        case .accessDenied: return error(.accessDenied)
        case .credentialsExpired: return error(.credentialsExpired)
        case .credentialsRefused: return error(.credentialsRefused)
        case .redirected: return error(.redirected)
        case .clockSkew: return error(.clockSkew)
        case .untrusted: return error(.untrusted)
        case .bucketMissing: return error(.bucketMissing)
        default: return nil
        }
    }
}

package final class FaultyTarget: ObjectStore {
    private enum Operation { case put, get, head, list, delete }

    private struct State {
        var faults: [TargetFault] = []
        var numbers: SeededNumbers
        var features: StoreFeatures
        var strikes: [TargetFault: Int] = [:]
        /// How many more times an object says that it is not there.
        var hidden: [String: Int] = [:]
    }

    private let inner: any ObjectStore
    private let state: Mutex<State>

    package init(_ inner: any ObjectStore, seed: UInt64, features: StoreFeatures) {
        self.inner = inner
        state = Mutex(State(numbers: SeededNumbers(seed: seed), features: features))
    }

    /// These are on from now; none ends them all.
    package func set(_ faults: [TargetFault]) {
        state.withLock {
            $0.faults = faults
            if faults.isEmpty { $0.hidden = [:] }
        }
    }

    package func strikes(of fault: TargetFault) -> Int { state.withLock { $0.strikes[fault] ?? 0 } }

    /// Two requests of five are struck.
    private func strikes(_ fault: TargetFault) -> Bool {
        state.withLock { state in
            guard state.faults.contains(fault), Int.random(in: 0..<5, using: &state.numbers) < 2 else { return false }
            state.strikes[fault, default: 0] += 1
            return true
        }
    }

    private func begin(_ operation: Operation) throws(StoreError) {
        if strikes(.latency) { usleep(300) }
        for fault in state.withLock({ $0.faults }) {
            guard let refusal = fault.refusal else { continue }
            // These are of one kind of request.
            if fault == .requestConflict, operation != .put { continue }
            if fault == .cutAnswer, operation == .put || operation == .delete { continue }
            if strikes(fault) { throw refusal }
        }
        if operation == .put, strikes(.noSpace) { throw StoreError(.notEnoughSpace, "no space was asked for", try: "make room") }
    }

    /// The request was carried out, and who asked does not hear of it.
    private func end() throws(StoreError) {
        if strikes(.answerLost) { throw StoreError(.unreachable, "the answer was lost", try: "wait") }
    }

    private func isHidden(_ key: String) -> Bool {
        state.withLock { state in
            guard let left = state.hidden[key] else { return false }
            state.hidden[key] = left > 1 ? left - 1 : nil
            return true
        }
    }

    // MARK: Requests

    package var location: String { inner.location }
    package var features: StoreFeatures { state.withLock { $0.features } }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try begin(.put)
        var condition = ifAbsent
        if ifAbsent {
            if strikes(.conditionRefused) { state.withLock { $0.features.conditionalPut = false } }
            if !features.conditionalPut { throw StoreError(.unsupported, "no condition here", try: "") }
            if strikes(.conditionIgnored) { condition = false }
        }
        if strikes(.notStored) { return }
        var kept = bytes
        if strikes(.storedTruncated) { kept.removeLast(kept.count / 2) }
        if strikes(.storedChanged) { kept[kept.count / 2] ^= 1 }
        try inner.put(key, kept, ifAbsent: condition)
        if strikes(.lateVisibility) { state.withLock { $0.hidden[key] = Int.random(in: 1...6, using: &$0.numbers) } }
        if ifAbsent, strikes(.conditionHitsOwn) { throw StoreError(.alreadyExists, "\(key) is there", try: "") }
        try end()
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        try begin(.get)
        if isHidden(key) { throw StoreError(.notFound, "\(key) is not to be seen yet", try: "") }
        var bytes = try inner.get(key, range: range)
        if strikes(.wrongBytes), !bytes.isEmpty { bytes[bytes.count / 3] ^= 0x10 }
        // A part of an object has the length asked for, or the target's room says so.
        if range == nil {
            if strikes(.emptyBody) { bytes = [] }
            if strikes(.errorAsBody) { bytes = Array("<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>".utf8) }
        }
        try end()
        return bytes
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try begin(.head)
        if isHidden(key) || strikes(.headMissing) { return nil }
        guard let info = try inner.head(key) else { return nil }
        var md5 = features.checksumTrusted ? Digests.md5(try inner.get(key, range: nil)) : nil
        if strikes(.headWrongMD5) { md5 = md5?.reversed() }
        let size = strikes(.headWrongSize) ? info.sizeBytes / 2 : info.sizeBytes
        try end()
        return ObjectInfo(sizeBytes: size, md5: md5)
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try begin(.list)
        if strikes(.listRefused) { throw StoreError(.accessDenied, "no list for these credentials", try: "") }
        if strikes(.listGarbage) { throw StoreError(.corruptResponse, "the list cannot be read", try: "wait") }
        let page = try inner.list(prefix: prefix, startAfter: startAfter)
        if strikes(.listStale) { return ListPage(objects: [], isTruncated: false) }
        if strikes(.listPartial) { return ListPage(objects: page.objects.enumerated().filter { $0.offset % 3 != 1 }.map(\.element), isTruncated: false) }
        return ListPage(objects: page.objects.filter { !isHidden($0.key) }, isTruncated: page.isTruncated)
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        try begin(.delete)
        try inner.delete(keys)
        try end()
    }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) { try begin(.put) }
}
