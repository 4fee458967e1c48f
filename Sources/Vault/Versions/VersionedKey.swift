// All that a target has of one key, from its list of versions.

import ObjectStore

struct VersionedKey: Sendable {
    let key: String
    /// Newest first.
    private(set) var objects: [ObjectVersion] = []
    private(set) var markers: [ObjectVersion] = []

    /// Written once and still there, as all of a vault is where nobody meddled with it.
    var isPlain: Bool { objects.count == 1 && objects[0].isNewest }

    /// Somebody who asks for the key gets an object.
    var isVisible: Bool { objects.first?.isNewest ?? false }

    /// The newest version with the same content as `version`.
    func newest(like version: ObjectVersion) -> ObjectVersion {
        objects.first { $0.content == version.content && $0.sizeBytes == version.sizeBytes } ?? version
    }

    mutating func add(_ version: ObjectVersion) {
        if version.isMarker { markers.append(version) } else { objects.append(version) }
    }

    init(key: String) { self.key = key }
}

extension ObjectVersions {
    /// Calls `body` with the keys below `prefix` that have a version, some hundreds at a time.
    func forEachKey(_ prefix: String, _ body: ([VersionedKey]) throws(VaultError) -> Void) throws(VaultError) {
        var mark: VersionMark?
        var open: VersionedKey?
        repeat {
            let page = try fromStore { () throws(StoreError) in try listVersions(prefix: prefix, after: mark) }
            var keys: [VersionedKey] = []
            for version in page.versions {
                if let known = open, known.key != version.key {
                    keys.append(known)
                    open = nil
                }
                var current = open ?? VersionedKey(key: version.key)
                current.add(version)
                open = current
            }
            mark = page.next
            // The last key may go on in the next page.
            if mark == nil, let last = open { keys.append(last) }
            if !keys.isEmpty { try body(keys) }
        } while mark != nil
    }
}
