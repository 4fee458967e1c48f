// `vault collect`: removes what no head leads to, in two phases (docs/formats/vault.md section 10). Every step may be
// interrupted and repeated, and any number may run at once: a key that was condemned and is not live when all writers
// have acknowledged a later epoch is never named again, so deleting it is right at any time, by anybody, any number of times.

import ObjectStore

package struct CollectReport: Sendable {
    /// Found to be garbage and condemned by this run.
    package internal(set) var condemnedObjects: UInt64 = 0
    package internal(set) var condemnedBytes: UInt64 = 0
    /// Deleted by this run: condemned earlier, or by it.
    package internal(set) var deletedObjects: UInt64 = 0
    /// Old numbers of heads and catalogs.
    package internal(set) var deletedChainObjects: UInt64 = 0
    /// Condemned and named again before it was seen: it stays.
    package internal(set) var sparedObjects: UInt64 = 0
    /// The vault's collection epoch now.
    package internal(set) var epoch: UInt32 = 0
    /// Groups whose uploader has not seen that epoch: until then what was condemned stays.
    package internal(set) var waiting: [Waiting] = []

    package struct Waiting: Sendable, Equatable {
        package let group: VaultID
        package let name: String
        /// One of its disks: what `retire` takes.
        package let disk: String
        /// The host that writes it, and the last time it wrote.
        package let host: String
        package let sinceMicros: UInt64
    }
}

package struct Collector {
    private static let keysPerDelete = 1_000
    let vault: Vault
    /// A list holds so many keys at most; smaller in tests.
    let keysPerList: Int

    package init(vault: Vault, keysPerList: Int = 100_000) {
        self.vault = vault
        self.keysPerList = keysPerList
    }

    package func run() throws(VaultError) -> CollectReport {
        try vault.refuseCopy()
        var report = CollectReport()
        guard try deleteCondemned(&report) else { return report }
        try removeOldNumbers(&report)
        if try condemn(&report) { _ = try deleteCondemned(&report) }
        try removeStrayLists()
        return report
    }

    // MARK: Condemn

    /// True when something was condemned.
    private func condemn(_ report: inout CollectReport) throws(VaultError) -> Bool {
        let found = try LiveVault.survey(vault)
        let epoch = found.catalog.document.collectionEpoch
        report.epoch = epoch
        guard (found.catalog.document.condemned ?? []).isEmpty else { return false }
        let condemned: [String]
        do throws(VaultError) {
            condemned = try putLists(found, &report)
        } catch .notKept(let object, let reason) {
            // Another collector was faster, and took our list for one that was left behind.
            guard try vault.catalog().document.collectionEpoch > epoch else { throw .notKept(object: object, reason: reason) }
            (report.condemnedObjects, report.condemnedBytes) = (0, 0)
            return true
        }
        guard !condemned.isEmpty else { return false }
        let published = try vault.updateCatalog { catalog throws(VaultError) in
            // Another collector was faster: its lists count, ours are nothing.
            guard catalog.collectionEpoch == epoch, (catalog.condemned ?? []).isEmpty else { return }
            catalog.condemned = condemned
            catalog.collectionEpoch = epoch + 1
        }
        report.epoch = published.document.collectionEpoch
        if published.document.condemned != condemned { (report.condemnedObjects, report.condemnedBytes) = (0, 0) }
        return true
    }

    private func putLists(_ found: LiveVault, _ report: inout CollectReport) throws(VaultError) -> [String] {
        let epoch = found.catalog.document.collectionEpoch
        var lists: [String] = []
        var keys: [String] = []
        for prefix in ["chunks/", "maps/", "disks/"] {
            try forEachListed(prefix) { object throws(VaultError) in
                guard let name = ObjectName(key: object.key), found.live.isGarbage(name) else { return }
                keys.append(object.key)
                report.condemnedObjects += 1
                report.condemnedBytes += object.sizeBytes
                guard keys.count >= keysPerList else { return }
                lists.append(try vault.putCollectionList(keys, epoch: epoch))
                keys = []
            }
        }
        if !keys.isEmpty { lists.append(try vault.putCollectionList(keys, epoch: epoch)) }
        return lists
    }

    // MARK: Delete

    /// True when nothing condemned is left; false while writers are waited for.
    private func deleteCondemned(_ report: inout CollectReport) throws(VaultError) -> Bool {
        let before = try vault.catalog().document
        report.epoch = before.collectionEpoch
        let lists = before.condemned ?? []
        guard !lists.isEmpty else { return true }
        let found = try LiveVault.survey(vault)
        // Of the lists there are, not of the catalog: a disk that was forgotten raises that too.
        let epochs = lists.compactMap { key -> UInt32? in
            guard case .collectionList(let epoch, _)? = ObjectName(key: key) else { return nil }
            return epoch
        }
        let waiting = found.waiting(for: (epochs.max() ?? before.collectionEpoch) + 1)
        guard waiting.isEmpty else {
            report.waiting = waiting.map { group, head in
                CollectReport.Waiting(group: group, name: name(of: group, found.catalog.document), disk: disk(of: group, found.catalog.document), host: head.writer.host, sinceMicros: head.timeMicros)
            }
            return false
        }
        for list in lists { try delete(list, found.live, &report) }
        try vault.updateCatalog { catalog throws(VaultError) in
            let left = (catalog.condemned ?? []).filter { !lists.contains($0) }
            catalog.condemned = left.isEmpty ? nil : left
        }
        try delete(lists)
        return true
    }

    private func delete(_ list: String, _ live: LiveObjects, _ report: inout CollectReport) throws(VaultError) {
        let condemned: [String]
        do throws(VaultError) {
            condemned = try vault.collectionList(list)
        } catch {
            // Another collector has ended this one meanwhile.
            guard case .missing = error, try !(vault.catalog().document.condemned ?? []).contains(list) else { throw error }
            return
        }
        let doomed = condemned.filter { key in ObjectName(key: key).map(live.isGarbage) ?? false }
        report.sparedObjects += UInt64(condemned.count - doomed.count)
        try delete(doomed)
        report.deletedObjects += UInt64(doomed.count)
    }

    private func delete(_ keys: [String]) throws(VaultError) {
        for start in stride(from: 0, to: keys.count, by: Self.keysPerDelete) {
            let some = Array(keys[start..<min(keys.count, start + Self.keysPerDelete)])
            try fromStore { () throws(StoreError) in try vault.store.delete(some) }
        }
    }

    // MARK: What nothing reads

    /// Numbers of the chains that finding the newest does not need.
    private func removeOldNumbers(_ report: inout CollectReport) throws(VaultError) {
        let catalog = try vault.catalog().document
        report.deletedChainObjects += try removeOldNumbers("catalog/", newest: catalog.number)
        for group in Set(catalog.disks.map(\.group)) {
            guard let head = try vault.heads(group: group).newest() else { continue }
            report.deletedChainObjects += try removeOldNumbers("heads/\(group)/", newest: head.document.number)
        }
        try removeOldContacts(of: catalog.hosts ?? [], &report)
    }

    /// Old contacts of hosts, all of hosts that the catalog does not list, and registration keys that are of no use any more.
    private func removeOldContacts(of hosts: [Catalog.Host], _ report: inout CollectReport) throws(VaultError) {
        let listed = Set(hosts.map(\.id))
        var newest: [VaultID: UInt64] = [:]
        var (keys, removed): ([String], [String]) = ([], [])
        try forEachListed("hosts/") { object throws(VaultError) in
            let parts = object.key.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 3 else { return }
            if parts[1] == "keys" { return keys.append(String(parts[2])) }
            guard let host = VaultID(String(parts[1])), let number = UInt64(parts[2]), number <= FormatLimits.integerMax else { return }
            // One that was taken off the list.
            guard listed.contains(host) else { return removed.append(object.key) }
            newest[host] = max(newest[host] ?? 0, number)
        }
        try delete(removed)
        report.deletedChainObjects += UInt64(removed.count)
        // What LIST leaves out only keeps more.
        for (host, number) in newest { report.deletedChainObjects += try removeOldNumbers("hosts/\(host)/", newest: number) }
        let used = keys.filter { $0.hasSuffix(".used") }.compactMap { VaultID(String($0.dropLast(5))) }
        for id in keys.compactMap({ VaultID($0) }) {
            let isUseless = if used.contains(id) { true } else { try isExpired(registration: id) }
            if isUseless { try delete([ObjectPlace.registration(id)]) }
        }
        // The mark last, and by no LIST: a key without it would be good again.
        for id in used where try fromStore(nil, { () throws(StoreError) in try vault.store.head(ObjectPlace.registration(id)) }) == nil {
            try delete([ObjectPlace.registrationUse(id)])
        }
    }

    /// One that is damaged opens nothing.
    private func isExpired(registration id: VaultID) throws(VaultError) -> Bool {
        let key = ObjectPlace.registration(id)
        do throws(VaultError) {
            let bytes = try fromStore(key) { () throws(StoreError) in try vault.store.get(key, range: nil) }
            return try RegistrationObject.decode(bytes, vault: vault.id, id: id).expiresMicros <= Vault.micros(at: vault.store)
        } catch {
            switch error {
            case .missing, .damaged: return true
            default: throw error
            }
        }
    }

    private func removeOldNumbers(_ prefix: String, newest: UInt64) throws(VaultError) -> UInt64 {
        let interval = FormatLimits.anchorInterval
        let anchor = newest / interval * interval
        guard anchor > interval else { return 0 }
        var old: [String] = []
        try forEachListed(prefix, before: prefix + ObjectPlace.padded(anchor - interval + 1)) { object throws(VaultError) in
            let digits = object.key.dropFirst(prefix.count)
            guard digits.count == 20, let number = UInt64(digits), number <= anchor - interval, number % interval != 0 else { return }
            old.append(object.key)
        }
        try delete(old)
        return UInt64(old.count)
    }

    /// Lists of collections that were interrupted before the catalog named them, or after it no longer did.
    private func removeStrayLists() throws(VaultError) {
        let catalog = try vault.catalog().document
        var stray: [String] = []
        try forEachListed("collect/") { object throws(VaultError) in
            guard case .collectionList(let epoch, _)? = ObjectName(key: object.key), epoch < catalog.collectionEpoch,
                !(catalog.condemned ?? []).contains(object.key)
            else { return }
            stray.append(object.key)
        }
        try delete(stray)
    }

    private func forEachListed(_ prefix: String, before end: String? = nil, _ body: (ListedObject) throws(VaultError) -> Void) throws(VaultError) {
        var after: String?
        while true {
            let page = try fromStore { () throws(StoreError) in try vault.store.list(prefix: prefix, startAfter: after) }
            for object in page.objects {
                if let end, object.key >= end { return }
                try body(object)
            }
            guard page.isTruncated, let last = page.objects.last?.key else { return }
            after = last
        }
    }

    private func name(of group: VaultID, _ catalog: Catalog) -> String {
        catalog.group(group)?.name ?? catalog.disks(inGroup: group).map(\.name).sorted().joined(separator: ", ")
    }

    private func disk(of group: VaultID, _ catalog: Catalog) -> String { catalog.disks(inGroup: group).map(\.name).min() ?? group.description }
}

extension Vault {
    /// No collection waits any more for the uploader of the disk's group, which will not come back: it is fenced, and when it does come
    /// back it stops, and takes the disk back only when it is started again. In this order: what it has in hand must not be named afterwards.
    package func release(writerOf nameOrID: String, host: String) throws(VaultError) {
        let catalog = try catalog().document
        let named = catalog.groups?.first { $0.name == nameOrID }?.id
        let group = if let named { named } else { try disk(nameOrID).group }
        let heads = heads(group: group)
        guard try heads.newest() != nil else { return }
        let claimed = try heads.claim(host: host).document
        try heads.update(epoch: claimed.writer.epoch) { $0.writer.isReleased = 1 }
    }
}
