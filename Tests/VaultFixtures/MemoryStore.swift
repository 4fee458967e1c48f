// Objects in memory, counted: for long histories.

import Glibc
package import ObjectStore
import Synchronization

package final class MemoryStore: ObjectStore {
    package struct Requests: Equatable, Sendable {
        package var puts = 0
        package var gets = 0
        package var heads = 0
        package var lists = 0
        package var deletes = 0
        package var putBytes = 0

        package init() {}

        package var all: Int { puts + gets + heads + lists + deletes }
    }

    private struct State {
        var objects: [String: [UInt8]] = [:]
        var requests = Requests()
        var latencyMicroseconds: UInt32 = 0
    }

    private let state = Mutex(State())

    package init() {}

    /// A copy of what `other` holds now.
    package init(copyOf other: MemoryStore) {
        let objects = other.state.withLock { $0.objects }
        state.withLock { $0.objects = objects }
    }

    package var requests: Requests { state.withLock { $0.requests } }
    /// Each request takes so long from now on, any number at a time.
    package func setLatency(microseconds: UInt32) { state.withLock { $0.latencyMicroseconds = microseconds } }

    private func travel() {
        let latency = state.withLock { $0.latencyMicroseconds }
        if latency > 0 { usleep(latency) }
    }

    package func resetRequests() { state.withLock { $0.requests = Requests() } }
    package var keys: [String] { state.withLock { $0.objects.keys.sorted() } }
    package var objectCount: Int { state.withLock { $0.objects.count } }
    /// How many objects there are of each kind: the first word of their keys, for those of disks the last one.
    package var objectCounts: [String: Int] {
        state.withLock { state in
            Dictionary(grouping: state.objects.keys) { key in
                let words = key.split(separator: "/")
                return String(words[0] == "disks" ? words[words.count - 2] : words[0])
            }.mapValues(\.count)
        }
    }
    package var byteCount: Int { state.withLock { $0.objects.values.reduce(0) { $0 + $1.count } } }

    package var location: String { "memory://" }
    package var features: StoreFeatures { StoreFeatures(conditionalPut: true, checksumTrusted: false) }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        travel()
        let isTaken = state.withLock { state in
            state.requests.puts += 1
            if ifAbsent, state.objects[key] != nil { return true }
            state.requests.putBytes += bytes.count
            state.objects[key] = bytes
            return false
        }
        if isTaken { throw StoreError(.alreadyExists, "\(key) is there", try: "") }
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        travel()
        let found = state.withLock { state in
            state.requests.gets += 1
            return state.objects[key]
        }
        guard let found else { throw StoreError(.notFound, "no \(key)", try: "") }
        guard let range else { return found }
        guard range.upperBound <= UInt64(found.count) else { throw StoreError(.outOfRange, "\(key) ends before", try: "") }
        return Array(found[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        travel()
        return state.withLock { state in
            state.requests.heads += 1
            return state.objects[key].map { ObjectInfo(sizeBytes: UInt64($0.count), md5: nil) }
        }
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        travel()
        return state.withLock { state in
            state.requests.lists += 1
            let found = state.objects.keys.filter { $0.hasPrefix(prefix) && $0 > startAfter ?? "" }.sorted()
            let page = found.prefix(ObjectLimits.listPageKeys).map { ListedObject(key: $0, sizeBytes: UInt64(state.objects[$0]!.count)) }
            return ListPage(objects: page, isTruncated: found.count > page.count)
        }
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        state.withLock { state in
            state.requests.deletes += 1
            for key in keys { state.objects[key] = nil }
        }
    }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {}
}
