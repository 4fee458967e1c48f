// What a disk's state leads to, brought to the copy: manifests, segments, maps, chunks, kept points. Objects are opened on the way: what
// is damaged in the source stops the copy by name. What the copy's head before led to is known to be there and not looked at again.

import ObjectStore

/// What a copied head leads to of one disk.
struct CopiedDisk {
    fileprivate var manifests: Set<Hash256> = []
    fileprivate var roots: Set<MapRoot> = []
    fileprivate var kept: Hash256?
    /// The map that others are compared with, page by page.
    fileprivate var newest: MapRoot?

    /// `state` is that of a head that was copied; nil, or damage in the copy: nothing is known to be there.
    init(of state: DiskState?, in copy: Vault) throws(VaultError) {
        guard let state else { return }
        var survey = HistorySurvey(vault: copy, state: state, followPrevious: false)
        try survey.run()
        guard survey.findings.isEmpty else { return }
        manifests = Set(survey.manifests.keys)
        roots = Set(survey.roots.map(\.root))
        kept = state.kept
        newest = survey.manifests.values.filter { $0.kind == .full }.max { $0.sequence < $1.sequence }?.root
    }
}

final class DataCopy {
    private static let threads = 8
    private static let batchObjects = 256
    /// So many keys are remembered, so that an object named twice is looked for once.
    private static let seenMax = 200_000

    private struct Wanted: Sendable {
        let place: ObjectPlace
        /// Of the stored bytes, where something names it.
        var hash: Hash256?
        /// Of the content, for chunks.
        var content: Hash256?
    }

    private let source: Vault
    private let copy: Vault
    private let disk: VaultID
    private var wanted: [Wanted] = []
    private var seen: Set<ObjectPlace> = []
    private var pages: Set<Hash256> = []
    private(set) var report = CopyReport()

    init(source: Vault, copy: Vault, disk: VaultID) {
        self.source = source
        self.copy = copy
        self.disk = disk
    }

    /// Everything of `state` is in the copy when this returns, and `copied` says so.
    func copy(_ state: DiskState, beyond copied: inout CopiedDisk) throws(VaultError) {
        var next = copied
        var roots: [MapRoot] = []
        if let kept = state.kept, kept != copied.kept {
            roots += try source.keptPoints(kept, disk: disk).map(\.root)
            try want(Wanted(place: .keptPoints(disk: disk, kept)))
        }
        let fulls = try copyManifests(state, &next).sorted { $0.sequence < $1.sequence }
        roots += fulls.flatMap { [$0.baseRoot, $0.root].compactMap(\.self) }
        for root in roots where next.roots.insert(root).inserted {
            let old = next.newest.flatMap { $0.level == root.level ? $0.id : nil }
            try visit(root.id, old: old, level: root.level, firstBlock: 0)
            next.newest = root
        }
        try send()
        next.kept = state.kept
        if let newest = fulls.last?.root { next.newest = newest }
        copied = next
    }

    /// Returns the full ones that are new.
    private func copyManifests(_ state: DiskState, _ next: inout CopiedDisk) throws(VaultError) -> [Manifest] {
        var fulls: [Manifest] = []
        var open: [(ref: ManifestRef, lineage: VaultID)] = []
        for lineage in state.lineages where lineage.sequence >= state.oldestSequence {
            open += ([lineage.full] + lineage.tail).map { ($0, lineage.id) }
        }
        while let (ref, lineage) = open.popLast() {
            guard next.manifests.insert(ref.hash).inserted else { continue }
            let manifest = try source.manifest(ref, disk: disk, lineage: lineage)
            try want(Wanted(place: .manifest(disk: disk, lineage: manifest.lineage, sequence: manifest.sequence), hash: ref.hash))
            for entry in manifest.segments {
                try want(Wanted(place: .segment(disk: disk, lineage: entry.lineage ?? manifest.lineage, first: entry.first, last: entry.last), hash: entry.hash))
            }
            if manifest.kind == .full { fulls.append(manifest) }
            for part in manifest.parts ?? [] where next.manifests.insert(part.hash).inserted {
                try want(Wanted(place: .manifest(disk: disk, lineage: part.lineage ?? manifest.lineage, sequence: part.sequence), hash: part.hash))
            }
            let named = manifest.fulls ?? []
            for full in named where full.sequence >= state.oldestSequence {
                open.append((ManifestRef(lineage: full.lineage, sequence: full.sequence, hash: full.hash), manifest.lineage))
            }
            // A history that goes on from between two full ones reads the one before, even below the window.
            if let before = named.max(by: { $0.fullNumber < $1.fullNumber }), before.sequence < state.oldestSequence {
                try want(Wanted(place: .manifest(disk: disk, lineage: before.lineage ?? manifest.lineage, sequence: before.sequence), hash: before.hash))
            }
        }
        return fulls
    }

    /// `old` is the page that the copy has for the same blocks.
    private func visit(_ id: Hash256, old: Hash256?, level: Int, firstBlock: UInt64) throws(VaultError) {
        guard id != .zero, id != old, pages.insert(id).inserted else { return }
        let page = try source.mapPage(id, level: level, firstBlock: firstBlock)
        let before = try oldPage(old, level: level, firstBlock: firstBlock)
        switch page {
        case .leaf(let leaf):
            let known: Set<MapSource> = if case .leaf(let old)? = before { Set(old.sources) } else { [] }
            for case let piece in leaf.sources where !known.contains(piece) {
                switch piece {
                case .chunk(let ref): try want(Wanted(place: .chunk(ref), content: ref.id))
                case .segment(let id): try want(Wanted(place: .segment(disk: disk, lineage: id.lineage, first: id.first, last: id.last)))
                }
            }
        case .inner(let inner):
            for (index, child) in inner.children.enumerated() {
                guard let child else { continue }
                let old: Hash256? = if case .inner(let old)? = before { old.children[index] } else { nil }
                try visit(child, old: old, level: level - 1, firstBlock: firstBlock + UInt64(index) * MapGeometry.blocks(level: level - 1))
            }
        }
        try want(Wanted(place: .mapPage(id)))
    }

    /// A page of the copy that cannot be read says nothing of what is there.
    private func oldPage(_ id: Hash256?, level: Int, firstBlock: UInt64) throws(VaultError) -> MapPage? {
        guard let id, id != .zero else { return nil }
        do {
            return try copy.mapPage(id, level: level, firstBlock: firstBlock)
        } catch where error.isIntegrityDamage {
            return nil
        }
    }

    // MARK: Objects

    private func want(_ object: Wanted) throws(VaultError) {
        guard seen.insert(object.place).inserted else { return }
        if seen.count > Self.seenMax { seen = [] }
        wanted.append(object)
        if wanted.count >= Self.batchObjects { try send() }
    }

    private func send() throws(VaultError) {
        let batch = wanted
        wanted = []
        let sent = try mapInParallel(batch, threads: Self.threads) { [source, copy] object throws(VaultError) in try Self.send(object, source, copy) }
        for bytes in sent {
            guard let bytes else { report.presentObjects += 1; continue }
            report.sentObjects += 1
            report.sentBytes += bytes
        }
    }

    /// The bytes sent; nil for an object that was there.
    private static func send(_ object: Wanted, _ source: Vault, _ copy: Vault) throws(VaultError) -> UInt64? {
        let place = object.place
        let there = try fromStore { () throws(StoreError) in try copy.store.head(place.key) }
        let md5 = copy.store.features.checksumTrusted && !copy.settings.verifyByReading ? there?.md5 : nil
        if let there, let md5, let own = try fromStore(nil, { () throws(StoreError) in try source.store.head(place.key) }), own.md5 == md5, own.sizeBytes == there.sizeBytes {
            return nil
        }
        let bytes = try source.fetch(place)
        if let hash = object.hash, Digest.sha256(bytes) != hash.bytes { throw .damaged(object: place.key, reason: "it is not the object that was named: its hash differs") }
        let plaintext = try source.withKeys { keys throws(VaultError) in try SealedObject.open(bytes, place: place, keys: keys) }
        if let content = object.content, plaintext.withUnsafeBytes({ source.keys.contentID($0) }) != content {
            throw .damaged(object: place.key, reason: "its content does not have its id")
        }
        if let there, there.sizeBytes == UInt64(bytes.count) {
            if let md5 { if Digest.md5(bytes) == md5 { return nil } } else if try copy.fetch(place).hasSameBytes(as: bytes) { return nil }
        }
        _ = try copy.putVerified(place, bytes) { stored throws(VaultError) in
            _ = try copy.withKeys { keys throws(VaultError) in try SealedObject.open(stored, place: place, keys: keys) }
            return false
        }
        return UInt64(bytes.count)
    }
}
