// What a target that keeps the versions of its objects can do beside the contract of `ObjectStore`: tell of them, read one, bring one
// back, and lock them for a time. S3 buckets with versioning can; `vault lock` and `vault undo` are the callers, nobody on the data path.

package protocol ObjectVersions: Sendable {
    /// What the bucket does with a new object; nil where it cannot lock objects.
    func lockRule() throws(StoreError) -> LockRule?

    /// Versions and delete markers of keys that start with `prefix`, about 1,000 of them, by key; of one key the objects first, newest first.
    func listVersions(prefix: String, after: VersionMark?) throws(StoreError) -> VersionPage

    func get(_ version: ObjectVersion) throws(StoreError) -> [UInt8]

    /// Nil for a version that is not locked.
    func lock(of version: ObjectVersion) throws(StoreError) -> ObjectLock?

    /// Locks the version. A lock that ends later or is stricter cannot be shortened with the rights that Farshore asks for: `.accessDenied`.
    func setLock(_ lock: ObjectLock, of version: ObjectVersion) throws(StoreError)

    /// Puts the content of an earlier version over all others of its key, at the target itself.
    func bringBack(_ version: ObjectVersion) throws(StoreError)

    /// Removes these versions for good. After an error any of them may be gone.
    func remove(_ versions: [ObjectVersion]) throws(StoreError)
}

package struct ObjectVersion: Hashable, Sendable {
    package let key: String
    package let id: String
    /// This is what a request without a version gets.
    package let isNewest: Bool
    /// No object, but the note that it was deleted.
    package let isMarker: Bool
    package let sizeBytes: UInt64
    /// Versions of a key with the same content have the same: the target's ETag, or where it states none the id.
    package let content: String

    package init(key: String, id: String, isNewest: Bool, isMarker: Bool, sizeBytes: UInt64 = 0, tag: String = "") {
        (self.key, self.id, self.isNewest, self.isMarker, self.sizeBytes) = (key, id, isNewest, isMarker, sizeBytes)
        content = tag.isEmpty ? id : tag
    }
}

/// Where the next page of a list begins.
package struct VersionMark: Equatable, Sendable {
    package let key: String
    package let version: String?

    package init(key: String, version: String?) { (self.key, self.version) = (key, version) }
}

package struct VersionPage: Sendable {
    package let versions: [ObjectVersion]
    package let next: VersionMark?

    package init(versions: [ObjectVersion], next: VersionMark?) { (self.versions, self.next) = (versions, next) }
}

package enum LockMode: String, Sendable {
    /// Who has the right to bypass it may remove the object.
    case governance = "GOVERNANCE"
    /// Nobody may.
    case compliance = "COMPLIANCE"
}

package struct ObjectLock: Equatable, Sendable {
    package let mode: LockMode
    /// Seconds since 1970 by the target's clock.
    package let untilSeconds: Int

    package init(mode: LockMode, untilSeconds: Int) { (self.mode, self.untilSeconds) = (mode, untilSeconds) }
}

/// The default retention of a bucket; without a mode new objects are not locked.
package struct LockRule: Equatable, Sendable {
    package let mode: LockMode?
    package let days: Int

    package init(mode: LockMode?, days: Int) { (self.mode, self.days) = (mode, days) }
}
