// A target in memory, copied for each input.

import ObjectStore
import Synchronization

final class MemoryStore: ObjectStore {
    private let objects: Mutex<[String: [UInt8]]>

    init(_ objects: [String: [UInt8]] = [:]) { self.objects = Mutex(objects) }

    var contents: [String: [UInt8]] { objects.withLock { $0 } }
    var location: String { "memory" }
    var features: StoreFeatures { StoreFeatures(conditionalPut: true, checksumTrusted: false) }

    func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        let isThere = objects.withLock { objects in
            if ifAbsent, objects[key] != nil { return true }
            objects[key] = bytes
            return false
        }
        if isThere { throw StoreError(.alreadyExists, "\(key) is there", try: "") }
    }

    func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        guard let bytes = objects.withLock({ $0[key] }) else { throw StoreError(.notFound, "\(key) is not there", try: "") }
        guard let range else { return bytes }
        guard range.upperBound <= UInt64(bytes.count) else { throw StoreError(.outOfRange, "\(key) ends before", try: "") }
        return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        objects.withLock { $0[key] }.map { ObjectInfo(sizeBytes: UInt64($0.count), md5: nil) }
    }

    func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        let keys = contents.keys.filter { $0.hasPrefix(prefix) && $0 > startAfter ?? "" }.sorted().prefix(ObjectLimits.listPageKeys)
        return ListPage(objects: keys.map { ListedObject(key: $0, sizeBytes: UInt64(contents[$0]?.count ?? 0)) }, isTruncated: keys.count == ObjectLimits.listPageKeys)
    }

    func delete(_ keys: [String]) throws(StoreError) { objects.withLock { objects in keys.forEach { objects[$0] = nil } } }
    func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {}
}
