// copy.json: says that a vault is a copy which `vault copy` keeps, so that nothing else writes to it (docs/formats/vault.md section 11).

import ObjectStore

struct CopyMark: Codable, Equatable {
    static let key = "copy.json"

    var format = FormatLimits.formatVersion
    let vault: VaultID
    /// Of this copy: a host remembers by it what it has copied here.
    let copy: VaultID
    /// For people.
    let from: String
    var sha256: String?

    private static let emptyPlaceRemedy = "leave what is there as it is: farshore vault copy URL --to URL --create with an empty place"

    /// Finds the mark of the copy that is begun at this place, or, with `begins`, puts one there. Without, a place that is empty is none that was
    /// forgotten: it may be a filesystem that is not mounted.
    static func find(_ source: Vault, at store: any ObjectStore, begins: Bool) throws(VaultError) -> CopyMark {
        let marker = try get(ObjectPlace.markerKey, store)
        if let marker, try marker != VaultMarker.placed(source.marker, at: store) {
            let other = try VaultMarker.decode(marker).marker.vault
            guard other != source.id else { throw .damaged(object: ObjectPlace.markerKey, reason: "it is not that of the source") }
            throw .refused("\(store.location) holds the vault \(other); a copy of the vault \(source.id) needs an empty place", try: emptyPlaceRemedy)
        }
        let mark: CopyMark
        if let known = try read(at: store) {
            guard known.vault == source.id else { throw .refused("\(store.location) holds a copy of the vault \(known.vault); one of \(source.id) needs an empty place", try: emptyPlaceRemedy) }
            mark = known
        } else {
            guard marker == nil else { throw adopted(store) }
            guard begins else { throw .notFound("there is no copy of a vault at \(store.location)") }
            let present = try fromStore { () throws(StoreError) in try store.list(prefix: "", startAfter: nil) }
            if let other = present.objects.first { throw .refused("\(store.location) is not empty (\(other.key)); a copy needs an empty directory or prefix", try: emptyPlaceRemedy) }
            mark = CopyMark(vault: source.id, copy: .random(), from: source.store.location)
            let bytes = try SelfHashed.encode(mark, object: key) { $0.sha256 = $1 }
            try fromStore { () throws(StoreError) in try store.put(key, bytes, ifAbsent: false) }
        }
        return mark
    }

    static func read(at store: any ObjectStore) throws(VaultError) -> CopyMark? {
        guard let bytes = try get(key, store) else { return nil }
        let mark = try CanonicalJSON.decode(CopyMark.self, bytes, object: key)
        try SelfHashed.verify(mark, mark.sha256, bytes, object: key) { $0.sha256 = $1 }
        return mark
    }

    static func require(at store: any ObjectStore) throws(VaultError) {
        guard try fromStore(nil, { () throws(StoreError) in try store.head(key) }) != nil else { throw adopted(store) }
    }

    private static func adopted(_ store: any ObjectStore) -> VaultError {
        .fenced("\(store.location) is a vault of its own and no copy: it was adopted, or made in another way")
    }

    private static func get(_ key: String, _ store: any ObjectStore) throws(VaultError) -> [UInt8]? {
        do {
            return try store.get(key, range: nil)
        } catch where error.code == .notFound {
            return nil
        } catch {
            throw .store(error)
        }
    }
}

extension Vault {
    /// Before anything of the vault is changed by somebody else than `vault copy`.
    package func refuseCopy() throws(VaultError) {
        guard try fromStore(nil, { () throws(StoreError) in try store.head(CopyMark.key) }) != nil else { return }
        throw .refused(
            "\(store.location) is a copy that only `farshore vault copy` writes to",
            try: "the vault that it is a copy of; only where that one is lost or given up: farshore vault adopt \(store.location), after which nothing is copied into it any more")
    }

    /// The copy becomes a vault of its own; who copies into it is fenced. Each object that a point needs is asked for. Refused while a newest state
    /// lacks something; returns what only older points lack, which no refusal would bring back.
    @discardableResult
    package func adopt(progress: @escaping VaultCheck.Progress = { _, _, _ in }) throws(VaultError) -> [CheckFinding] {
        guard try CopyMark.read(at: store) != nil else { throw .refused("\(store.location) is a vault of its own already", try: "nothing more is to be done: it can be used") }
        guard let catalog = try catalogChain.newest() else {
            throw .refused("\(store.location) is not complete: it has no catalog yet", try: "farshore vault copy URL --to \(store.location), to its end; farshore vault adopt \(store.location) then")
        }
        let findings = try VaultCheck(vault: self, readData: false, disks: Set(catalog.document.disks.map(\.id)), progress: progress).run().findings
        var newest: [String: UInt64] = [:]
        for disk in findings.isEmpty ? [] : catalog.document.disks { newest[disk.name] = try DiskHistory.newest(self, disk)?.newestSequence ?? 0 }
        let fatal = findings.spoiling(newest: newest)
        guard fatal.isEmpty else { throw .incomplete("\(store.location) stays a copy: \(fatal.summary)") }
        try fromStore { () throws(StoreError) in try store.delete([CopyMark.key]) }
        return findings
    }
}
