// A vault kept at a second target, byte for byte: `vault copy` (docs/formats/vault.md section 11). The copy has the objects, ids and keys
// of its source, so who reads it needs nothing else. It reads one vault and is the one writer of the other: `copy.json` holds all others off.
//
// Invariant: a head of the copy is put when everything it leads to was verified there, the catalog after all heads it leads to. Every step
// may be interrupted and repeated, and several copiers put the same bytes. Finding what is new needs no LIST.

package import ObjectStore

package struct CopyReport: Equatable, Sendable {
    package internal(set) var sentObjects: UInt64 = 0
    package internal(set) var sentBytes: UInt64 = 0
    /// Looked for and found in the copy: what an interrupted run left.
    package internal(set) var presentObjects: UInt64 = 0
    /// Groups and catalog that went on in the copy.
    package internal(set) var publishedChains: UInt64 = 0
    package internal(set) var removedObjects: UInt64 = 0

    package init() {}
}

package final class VaultCopy {
    private static let attemptsMax = 8
    let source: Vault
    let copy: Vault
    var report = CopyReport()
    private var disks: [VaultID: CopiedDisk] = [:]

    /// Goes on with a copy, or, with `begins`, begins one in an empty place. `memory` is that of the copy with this id: what it remembers is not looked for again.
    package init(of source: Vault, at store: any ObjectStore, begins: Bool, memory: (VaultID) throws(VaultError) -> HeadMemory) throws(VaultError) {
        let mark = try CopyMark.find(source, at: store, begins: begins)
        self.source = source
        copy = try source.kept(at: store, memory: try memory(mark.copy))
        // After the keys: what can be opened is a vault, which has no catalog yet.
        if try fromStore(nil, { () throws(StoreError) in try store.head(ObjectPlace.markerKey) }) != nil {
            // A place for the chunks that is another one now would get them while the heads that need them go to the first.
            try Vault.checkChunks(store, try VaultMarker.decode(copy.marker).marker, copy.marker)
            return
        }
        try copyKeys()
        try copy.putMarker()
    }

    /// Brings the copy up to what the source is now.
    package func run() throws(VaultError) -> CopyReport {
        report = CopyReport()
        _ = try bringUp()
        return report
    }

    /// Returns the state of the source that the copy has now.
    func bringUp() throws(VaultError) -> SourceState {
        var attempts = 0
        while true {
            try CopyMark.require(at: copy.store)
            let state = try SourceState(of: source)
            do throws(VaultError) {
                try follow(state)
                return state
            } catch {
                attempts += 1
                // Retention and collection of the source go on beside this: what an older head led to may be gone.
                guard error.isIntegrityDamage, attempts < Self.attemptsMax, try state.isOutdated(source) else { throw error }
            }
        }
    }

    private func follow(_ state: SourceState) throws(VaultError) {
        let catalog = ChainCopy(from: source.catalogChain, to: copy.catalogChain)
        let catalogDone = try catalog.position(before: state.catalog)
        // What is sealed from now on may need a key that was made since.
        if catalogDone < state.catalog.document.number { try copyKeys() }
        for head in state.heads {
            let chain = ChainCopy(from: source.heads(group: head.document.group).chain, to: copy.heads(group: head.document.group).chain)
            let done = try chain.position(before: head)
            guard done < head.document.number else { continue }
            let before = done > 0 ? try chain.to.read(done).document : nil
            for disk in head.document.disks where !disk.lineages.isEmpty {
                var copied: CopiedDisk
                if let known = disks[disk.disk] { copied = known } else { copied = try CopiedDisk(of: before?.state(of: disk.disk), in: copy) }
                let objects = DataCopy(source: source, copy: copy, disk: disk.disk)
                defer { report.add(objects.report) }
                try objects.copy(disk, beyond: &copied)
                disks[disk.disk] = copied
            }
            try chain.publish(head, after: done)
            report.publishedChains += 1
        }
        if catalogDone < state.catalog.document.number {
            try catalog.publish(state.catalog, after: catalogDone)
            report.publishedChains += 1
        }
        try followAudit(state)
    }

    /// Last: what is damaged there keeps no point from the copy.
    private func followAudit(_ state: SourceState) throws(VaultError) {
        guard let newest = try state.audit.get() else { return }
        let chain = ChainCopy(from: source.auditChain, to: copy.auditChain)
        let done = try chain.position(before: newest)
        guard done < newest.document.number else { return }
        try chain.publishAll(newest, after: done)
        report.publishedChains += 1
    }

    private func copyKeys() throws(VaultError) {
        guard source.keys.cipher == .aes256GCM else { return }
        for number in try KeyObjects(store: source.store, vault: source.id).numbers() {
            let key = ObjectPlace.keyObject(number)
            let bytes = try fromStore(key) { () throws(StoreError) in try source.store.get(key, range: nil) }
            _ = try KeyObject.decode(bytes, vault: source.id, number: number)
            try copy.putOpening(key, bytes)
        }
    }
}

extension CopyReport {
    mutating func add(_ other: CopyReport) {
        sentObjects += other.sentObjects
        sentBytes += other.sentBytes
        presentObjects += other.presentObjects
    }
}

/// Catalog and heads that fit each other.
struct SourceState {
    let catalog: Published<Catalog>
    let heads: [Published<Head>]
    /// Read before the catalog was found unchanged: what seals it is among the keys. Where it cannot be read, the points come first.
    let audit: Result<Published<AuditRecord>?, VaultError>

    init(of source: Vault) throws(VaultError) {
        while true {
            let catalog = try source.catalog()
            var heads: [Published<Head>] = []
            for group in Set(catalog.document.disks.map(\.group)).sorted(by: { $0.description < $1.description }) {
                if let head = try source.heads(group: group).newest() { heads.append(head) }
            }
            let audit = Result { () throws(VaultError) in try source.newestAudit() }
            // A disk that moved between the two would be in none of the heads that were read.
            guard try source.catalog().hash == catalog.hash else { continue }
            self.catalog = catalog
            self.heads = heads
            self.audit = audit
            return
        }
    }

    func isOutdated(_ source: Vault) throws(VaultError) -> Bool { try SourceState(of: source).hashes != hashes }

    private var hashes: [Hash256] { [catalog.hash] + heads.map(\.hash) }
}
