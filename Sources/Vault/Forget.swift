// `vault forget`: a disk's data leaves the vault (docs/formats/vault.md section 10). The catalog first, so that what
// follows can be repeated after a crash: whoever finds objects of a disk that no catalog names may delete them.

import ObjectStore

package struct ForgottenDisk: Sendable {
    package let disk: Catalog.Disk
    package let deletedObjects: UInt64
    /// Chunks and map pages went too, because no other disk is left that could share them.
    package let isContentDeleted: Bool
    /// Disks it shared points with: they keep theirs, without it.
    package let others: [Catalog.Disk]
}

extension Vault {
    /// Removes the disk with this name or id. Repeating it after a failure goes on where it stopped: then give the id.
    package func forget(_ nameOrID: String) throws(VaultError) -> ForgottenDisk {
        let found: Catalog.Disk
        do {
            found = try disk(nameOrID)
        } catch {
            guard let id = VaultID(nameOrID), try hasObjects(of: id) else { throw error }
            found = Catalog.Disk(id: id, name: nameOrID, sizeBytes: 0, createdMicros: 0, group: id)
        }
        // Chunks uploaded from now on carry a new epoch, so no local index takes a deleted chunk for one that is there.
        let catalog = try updateCatalog { catalog throws(VaultError) in
            guard catalog.disks.contains(where: { $0.id == found.id }) else { return }
            catalog.remove(found.id)
            catalog.collectionEpoch += 1
        }
        // The others of its group keep their heads, without it: their points do not wait for it any more.
        let others = catalog.document.disks(inGroup: found.group)
        if !others.isEmpty { try heads(group: found.group).edit { $0.remove(found.id) } }
        let isLast = catalog.document.disks.isEmpty
        var deleted: UInt64 = 0
        if isLast { deleted += try deleteContent(before: catalog.document.collectionEpoch) }
        // Heads come last of the disk's own: while one is left, repeating finds the rest.
        deleted += try deleteAll("disks/\(found.id)/") { $0 }
        // Its own heads too, from the time before it was in a group.
        for group in Set([found.id] + (others.isEmpty ? [found.group] : [])) {
            deleted += try deleteAll("heads/\(group)/") { $0 }
            try memory.forget("\(id)/heads/\(group)")
        }
        return ForgottenDisk(disk: found, deletedObjects: deleted, isContentDeleted: isLast, others: others)
    }

    private func hasObjects(of disk: VaultID) throws(VaultError) -> Bool {
        for prefix in ["disks/\(disk)/", "heads/\(disk)/"] {
            let page = try fromStore { () throws(StoreError) in try store.list(prefix: prefix, startAfter: nil) }
            if !page.objects.isEmpty { return true }
        }
        return false
    }

    /// Chunks and map pages. A disk registered meanwhile uses none from before `epoch`, and what it has sent stays: of
    /// chunks the key tells; the deletion of map pages ends, which leaves some to collection.
    private func deleteContent(before epoch: UInt32) throws(VaultError) -> UInt64 {
        let chunks = try deleteAll("chunks/") { keys in
            keys.filter { key in key.split(separator: ".").last.flatMap { UInt32($0) }.map { $0 < epoch } ?? false }
        }
        return try chunks + deleteAll("maps/") { keys throws(VaultError) in try catalog().document.disks.isEmpty ? keys : [] }
    }

    /// By LIST, which may miss objects: what is left behind costs space, and nothing else reads it. `doomed` tells which
    /// of a page's keys go.
    private func deleteAll(_ prefix: String, doomed: ([String]) throws(VaultError) -> [String]) throws(VaultError) -> UInt64 {
        var deleted: UInt64 = 0
        var after: String?
        while true {
            let page = try fromStore { () throws(StoreError) in try store.list(prefix: prefix, startAfter: after) }
            guard let last = page.objects.last?.key else { return deleted }
            let keys = try doomed(page.objects.map(\.key))
            if !keys.isEmpty { try fromStore { () throws(StoreError) in try store.delete(keys) } }
            deleted += UInt64(keys.count)
            after = last
        }
    }
}
