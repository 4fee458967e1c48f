// Versions behind the decorators that a command opens a target with: quick retries, and two places as one.

/// Every request may be repeated: bringing a version back twice puts the same content over itself.
struct RetryingVersions: ObjectVersions {
    private let base: any ObjectVersions
    private let store: RetryingStore

    init(_ base: any ObjectVersions, _ store: RetryingStore) { (self.base, self.store) = (base, store) }

    func lockRule() throws(StoreError) -> LockRule? { try store.attempt { () throws(StoreError) in try base.lockRule() } }
    func listVersions(prefix: String, after: VersionMark?) throws(StoreError) -> VersionPage {
        try store.attempt { () throws(StoreError) in try base.listVersions(prefix: prefix, after: after) }
    }
    func get(_ version: ObjectVersion) throws(StoreError) -> [UInt8] { try store.attempt { () throws(StoreError) in try base.get(version) } }
    func lock(of version: ObjectVersion) throws(StoreError) -> ObjectLock? { try store.attempt { () throws(StoreError) in try base.lock(of: version) } }
    func setLock(_ lock: ObjectLock, of version: ObjectVersion) throws(StoreError) {
        try store.attempt { () throws(StoreError) in try base.setLock(lock, of: version) }
    }
    func bringBack(_ version: ObjectVersion) throws(StoreError) { try store.attempt { () throws(StoreError) in try base.bringBack(version) } }
    func remove(_ versions: [ObjectVersion]) throws(StoreError) { try store.attempt { () throws(StoreError) in try base.remove(versions) } }
}

struct SplitVersions: ObjectVersions {
    private let main: any ObjectVersions
    private let chunks: any ObjectVersions

    init(main: any ObjectVersions, chunks: any ObjectVersions) { (self.main, self.chunks) = (main, chunks) }

    private func place(of key: String) -> any ObjectVersions { key.utf8.starts(with: SplitStore.apartPrefix.utf8) ? chunks : main }

    /// Nothing is safe that only one of them locks. Where the rules differ, a lock that must be made follows that of the main place.
    func lockRule() throws(StoreError) -> LockRule? {
        guard let one = try main.lockRule(), let other = try chunks.lockRule() else { return nil }
        return LockRule(mode: one.mode, days: min(one.days, other.days))
    }

    /// Lists are asked for by folder, and no folder is in both.
    func listVersions(prefix: String, after: VersionMark?) throws(StoreError) -> VersionPage { try place(of: prefix).listVersions(prefix: prefix, after: after) }
    func get(_ version: ObjectVersion) throws(StoreError) -> [UInt8] { try place(of: version.key).get(version) }
    func lock(of version: ObjectVersion) throws(StoreError) -> ObjectLock? { try place(of: version.key).lock(of: version) }
    func setLock(_ lock: ObjectLock, of version: ObjectVersion) throws(StoreError) { try place(of: version.key).setLock(lock, of: version) }
    func bringBack(_ version: ObjectVersion) throws(StoreError) { try place(of: version.key).bringBack(version) }

    func remove(_ versions: [ObjectVersion]) throws(StoreError) {
        let apart = versions.filter { $0.key.utf8.starts(with: SplitStore.apartPrefix.utf8) }
        if !apart.isEmpty { try chunks.remove(apart) }
        if apart.count < versions.count { try main.remove(versions.filter { !$0.key.utf8.starts(with: SplitStore.apartPrefix.utf8) }) }
    }
}
