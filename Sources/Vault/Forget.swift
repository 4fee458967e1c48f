// `vault forget`: a disk's data leaves the vault (docs/formats/vault.md section 10). The catalog first, so that what
// follows can be repeated after a crash: whoever finds objects of a disk that no catalog names may delete them.

import ObjectStore

package struct ForgottenDisk: Sendable {
    package let disk: Catalog.Disk
    package let deletedObjects: UInt64
    /// Chunks and map pages went too, because no other disk is left that could share them.
    package let isContentDeleted: Bool
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
            catalog.disks.removeAll { $0.id == found.id }
            catalog.collectionEpoch += 1
        }
        let isLast = catalog.document.disks.isEmpty
        // Heads come last of the disk's own: while one is left, repeating finds the rest.
        var prefixes = ["disks/\(found.id)/", "heads/\(found.group)/"]
        if isLast { prefixes = ["chunks/", "maps/"] + prefixes }
        var deleted: UInt64 = 0
        for prefix in prefixes { deleted += try deleteAll(prefix) }
        try memory.forget("\(id)/heads/\(found.group)")
        return ForgottenDisk(disk: found, deletedObjects: deleted, isContentDeleted: isLast)
    }

    private func hasObjects(of disk: VaultID) throws(VaultError) -> Bool {
        for prefix in ["disks/\(disk)/", "heads/\(disk)/"] {
            let page = try fromStore { () throws(StoreError) in try store.list(prefix: prefix, startAfter: nil) }
            if !page.objects.isEmpty { return true }
        }
        return false
    }

    /// By LIST, which may miss objects: what is left behind costs space, and nothing else reads it.
    private func deleteAll(_ prefix: String) throws(VaultError) -> UInt64 {
        var deleted: UInt64 = 0
        while true {
            let page = try fromStore { () throws(StoreError) in try store.list(prefix: prefix, startAfter: nil) }
            guard !page.objects.isEmpty else { return deleted }
            try fromStore { () throws(StoreError) in try store.delete(page.objects.map(\.key)) }
            deleted += UInt64(page.objects.count)
        }
    }
}
