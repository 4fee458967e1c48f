// What the heads of a vault lead to, and which of the other objects are settled, so that nobody will ever name them
// (docs/formats/vault.md section 10). Made from heads, manifests and pages, never from a LIST. Used by Collector and VaultCheck.

import ObjectStore

struct LiveObjects {
    private var names: Set<ObjectName> = []
    private var pages: Set<Hash256> = []
    private var chunks: Set<ChunkRef> = []
    /// Of the catalog: up to which sequence keys of a lineage are settled. Those of unknown lineages are not.
    private var settled: [VaultID: [VaultID: UInt64]] = [:]

    init(disks: [Catalog.Disk]) {
        for disk in disks { settled[disk.id] = [:] }
    }

    func contains(_ name: ObjectName) -> Bool {
        switch name {
        case .chunk(let ref): chunks.contains(ref)
        case .mapPage(let id): pages.contains(id)
        default: names.contains(name)
        }
    }

    /// Nothing leads to it, and nothing will.
    func isGarbage(_ name: ObjectName) -> Bool {
        guard !contains(name) else { return false }
        switch name {
        case .chunk, .mapPage, .kept: return true
        case .manifest(let disk, let lineage, let sequence): return isSettled(disk, lineage, sequence)
        case .segment(let disk, let id): return isSettled(disk, id.lineage, id.last)
        case .collectionList: return false
        }
    }

    private func isSettled(_ disk: VaultID, _ lineage: VaultID, _ sequence: UInt64) -> Bool {
        guard let lineages = settled[disk] else { return true }
        return lineages[lineage].map { sequence <= $0 } ?? false
    }

    var count: Int { names.count + pages.count + chunks.count }

    /// True when the page was not known.
    mutating func insert(page: Hash256) -> Bool { pages.insert(page).inserted }

    mutating func insert(_ sources: [MapSource], of disk: VaultID) {
        for source in sources {
            switch source {
            case .chunk(let ref): chunks.insert(ref)
            case .segment(let id): names.insert(.segment(disk: disk, id))
            }
        }
    }

    /// All that a disk's state names, but for what its maps name.
    mutating func insert(_ survey: HistorySurvey) {
        let state = survey.state
        if let kept = state.kept { names.insert(.kept(disk: state.disk, kept)) }
        for manifest in survey.manifests.values {
            names.insert(.manifest(disk: state.disk, lineage: manifest.lineage, sequence: manifest.sequence))
            // A history that goes on from between two full ones reads the one before.
            if let before = manifest.fulls?.max(by: { $0.fullNumber < $1.fullNumber }) {
                names.insert(.manifest(disk: state.disk, lineage: before.lineage ?? manifest.lineage, sequence: before.sequence))
            }
            for part in manifest.parts ?? [] {
                names.insert(.manifest(disk: state.disk, lineage: part.lineage ?? manifest.lineage, sequence: part.sequence))
            }
            for entry in manifest.segments {
                names.insert(.segment(disk: state.disk, SegmentID(lineage: entry.lineage ?? manifest.lineage, first: entry.first, last: entry.last)))
            }
        }
        for lineage in state.lineages { settle(state.disk, lineage.id, lineage.sequence) }
        for lineage in state.ended ?? [] { settle(state.disk, lineage, .max) }
    }

    private mutating func settle(_ disk: VaultID, _ lineage: VaultID, _ sequence: UInt64) {
        let known = settled[disk]?[lineage] ?? 0
        settled[disk]?[lineage] = max(known, sequence)
    }
}

/// Live objects of the whole vault with the heads they were found from.
struct LiveVault {
    let catalog: Published<Catalog>
    let heads: [VaultID: Published<Head>]
    let live: LiveObjects
    /// What could not be read, and what is behind it was not found; empty unless the survey was to go on at damage.
    let damage: [VaultError]

    /// Throws at the first damage, for what cannot be read might lead anywhere; `goingOn` it finds what it can.
    static func survey(_ vault: Vault, goingOn: Bool = false) throws(VaultError) -> LiveVault {
        while true {
            let catalog = try vault.catalog()
            var heads: [VaultID: Published<Head>] = [:]
            var damage: [VaultError] = []
            for group in Set(catalog.document.disks.map(\.group)) {
                do throws(VaultError) {
                    let chain = vault.heads(group: group)
                    heads[group] = try chain.newest()
                    // A first one may have been put between the two looks.
                    if heads[group] == nil, try hasObjects(group, catalog.document, vault) {
                        heads[group] = try chain.newest()
                        if heads[group] == nil { throw .missing(object: ObjectPlace.head(group: group, 1).key) }
                    }
                } catch {
                    guard goingOn, error.damage != nil else { throw error }
                    damage.append(error)
                }
            }
            // A disk that moved between the two would be in none of the heads that were read.
            guard try vault.catalog().hash == catalog.hash else { continue }
            var live = LiveObjects(disks: catalog.document.disks)
            for head in heads.values {
                for state in head.document.disks where !state.lineages.isEmpty && (damage.isEmpty || goingOn) { damage += try add(state, vault, &live) }
            }
            // What a head led to may be collected by somebody else once a newer head leads elsewhere.
            if !damage.isEmpty, try isOutdated(heads, vault) { continue }
            if let first = damage.first, !goingOn { throw first }
            return LiveVault(catalog: catalog, heads: heads, live: live, damage: damage)
        }
    }

    /// A head is put before anything of the group's disks: where they have something and none is seen, it was lost or the target hides it, and
    /// what it led to would pass for garbage. Whoever has seen heads of the group is told by its memory; this is for who has not.
    private static func hasObjects(_ group: VaultID, _ catalog: Catalog, _ vault: Vault) throws(VaultError) -> Bool {
        for disk in catalog.disks(inGroup: group) {
            let found = try fromStore { () throws(StoreError) in try vault.store.list(prefix: "disks/\(disk.id)/", startAfter: nil) }
            if !found.objects.isEmpty { return true }
        }
        return false
    }

    private static func isOutdated(_ heads: [VaultID: Published<Head>], _ vault: Vault) throws(VaultError) -> Bool {
        for (group, head) in heads where try vault.heads(group: group).newest()?.hash != head.hash { return true }
        return false
    }

    /// Returns what could not be read.
    private static func add(_ state: DiskState, _ vault: Vault, _ live: inout LiveObjects) throws(VaultError) -> [VaultError] {
        var survey = HistorySurvey(vault: vault, state: state, followPrevious: false)
        try survey.run()
        var damage = survey.findings.values.map { VaultError.damaged(object: $0.object, reason: $0.reason) }
        live.insert(survey)
        for (root, _, _) in survey.roots {
            var found = live
            live = LiveObjects(disks: [])
            let walk = MapWalk(
                vault: vault, enters: { found.insert(page: $0) }, onLeaf: { found.insert($0.sources, of: state.disk) },
                onDamage: { id, _, reason in damage.append(.damaged(object: ObjectPlace.mapPage(id).key, reason: reason)) })
            try walk.visit(root)
            live = found
        }
        return damage
    }

    /// The groups whose writer has not acknowledged the epoch, with the heads that say so.
    func waiting(for epoch: UInt32) -> [(group: VaultID, head: Head)] {
        heads.filter { $0.value.document.collectionEpoch < epoch && $0.value.document.writer.isReleased == nil }.map { ($0.key, $0.value.document) }.sorted { $0.0.description < $1.0.description }
    }
}
