// The contract between Farshore and a target that keeps objects: a directory, S3-compatible storage or Azure Blob. Every target
// passes the one suite in Tests/ObjectStoreTests/Contract; Vault is the caller.
//
// All calls block the caller's thread until the answer is there or a deadline passed; any number of threads may call
// at once. A `put` that returned is durable as far as the target promises it; "verified" is Vault's business.
// Keys are checked by `ObjectKey` before anything is sent, and compare by their UTF-8 bytes.

package protocol ObjectStore: Sendable {
    /// The target's URL for messages; never holds a secret.
    var location: String { get }

    /// What is known of the target; false until `probe` or an answer showed it.
    var features: StoreFeatures { get }

    /// The target's clock minus this host's by the newest answer, in seconds; nil when the target has no clock of its own
    /// or has not answered yet.
    var clockOffsetSeconds: Int? { get }

    /// What the target can do with versions of objects; nil where it keeps none, or this program cannot use them there.
    var versions: (any ObjectVersions)? { get }

    /// Keys under `chunks/` are kept at another target than all others.
    var keepsChunksApart: Bool { get }

    /// Stores `bytes` under `key`. With `ifAbsent` an existing object is left alone and `.alreadyExists` thrown, or
    /// `.unsupported` by a target that cannot do this; without it an existing object is replaced as a whole.
    /// `ifAbsent` takes at most `ObjectLimits.conditionalBytesMax` bytes. `md5` is the MD5 of `bytes` if the caller has worked it out: a target
    /// that is told one refuses bytes that have another.
    func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError)

    /// The object, or exactly the bytes of `range`: an object that ends before the range does is `.outOfRange`.
    /// An empty range is empty without a request. Objects above `ObjectLimits.objectBytesMax` need a range.
    func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8]

    /// The first `count` bytes of the object, or all of it where it has no more; `count` is above 0. One request of the targets that are real.
    func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8]

    /// What the target says of the object; nil when it has none under this key.
    func head(_ key: String) throws(StoreError) -> ObjectInfo?

    /// Up to 1,000 keys that start with `prefix`, in the order of their UTF-8 bytes, all after `startAfter`. The next
    /// page starts after the last key of this one. May be stale: nothing but a starting guess may rest on it.
    func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage

    /// Removes the objects; a key without an object is no error. After an error any of them may be gone.
    func delete(_ keys: [String]) throws(StoreError)

    /// Learns `features` by storing again an object that is already there, with the very same bytes. Needs the right
    /// to write; call it once before relying on `features`.
    func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError)
}

package struct StoreFeatures: Equatable, Sendable {
    /// `put(ifAbsent: true)` really refuses to replace an object, also against other clients.
    package var conditionalPut: Bool
    /// `head` states the MD5 of what the target holds, so a PUT can be verified without reading the object back.
    package var checksumTrusted: Bool

    package init(conditionalPut: Bool, checksumTrusted: Bool) {
        self.conditionalPut = conditionalPut
        self.checksumTrusted = checksumTrusted
    }
}

package struct ObjectInfo: Equatable, Sendable {
    package let sizeBytes: UInt64
    /// MD5 of the content (16 bytes), only where the target states one that is this.
    package let md5: [UInt8]?

    package init(sizeBytes: UInt64, md5: [UInt8]?) {
        self.sizeBytes = sizeBytes
        self.md5 = md5
    }
}

package struct ListedObject: Equatable, Sendable {
    package let key: String
    package let sizeBytes: UInt64

    package init(key: String, sizeBytes: UInt64) {
        self.key = key
        self.sizeBytes = sizeBytes
    }
}

package struct ListPage: Equatable, Sendable {
    package let objects: [ListedObject]
    /// More keys follow the last one.
    package let isTruncated: Bool

    package init(objects: [ListedObject], isTruncated: Bool) {
        self.objects = objects
        self.isTruncated = isTruncated
    }
}

package enum ObjectLimits {
    /// The largest object stored, and the largest answer read into memory.
    package static let objectBytesMax = 512 << 20
    /// Beyond this no target is asked to keep a condition: S3 objects go up in parts then.
    package static let conditionalBytesMax = 64 << 20
    package static let keyBytesMax = 1024
    package static let keyPartBytesMax = 200
    package static let listPageKeys = 1000
}

extension ObjectStore {
    package var clockOffsetSeconds: Int? { nil }
    package var keepsChunksApart: Bool { false }
    package var versions: (any ObjectVersions)? { nil }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool) throws(StoreError) { try put(key, bytes, ifAbsent: ifAbsent, md5: nil) }

    package func get(_ key: String) throws(StoreError) -> [UInt8] { try get(key, range: nil) }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        do throws(StoreError) { return try get(key, range: 0..<UInt64(count)) } catch where error.code == .outOfRange { return try get(key, range: nil) }
    }

    /// Every listed key with the prefix, page by page.
    package func listAll(prefix: String) throws(StoreError) -> [ListedObject] {
        var all: [ListedObject] = []
        while true {
            let page = try list(prefix: prefix, startAfter: all.last?.key)
            all += page.objects
            guard page.isTruncated else { return all }
            guard !page.objects.isEmpty else {
                throw StoreError(.corruptResponse, "\(location): a list page promises more keys but holds none", try: "retry; if it stays, ask the operator of the target")
            }
        }
    }
}
