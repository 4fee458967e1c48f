// disks/<disk>/<lineage>/manifests/<sequence>: what one step of replication added (docs/formats/vault.md section 9).

package import Foundation

package struct SegmentEntry: Codable, Equatable, Sendable {
    /// Where it is not the manifest's own.
    package let lineage: VaultID?
    package let first: UInt64
    package let last: UInt64
    /// Size of the object, and the SHA-256 of its bytes.
    package let bytes: UInt64
    package let hash: Hash256
    package let records: UInt64
    package let payloadOffset: UInt64
    package let payloadBytes: UInt64
    /// What it changes (`SegmentChanges`), where the manifest carries it.
    package let index: Data?

    package init(
        lineage: VaultID?, first: UInt64, last: UInt64, bytes: UInt64, hash: Hash256, records: UInt64, payloadOffset: UInt64, payloadBytes: UInt64, index: Data?
    ) {
        self.lineage = lineage
        self.first = first
        self.last = last
        self.bytes = bytes
        self.hash = hash
        self.records = records
        self.payloadOffset = payloadOffset
        self.payloadBytes = payloadBytes
        self.index = index
    }

    /// What can be added up and allocated without a second thought.
    var isWithinLimits: Bool {
        payloadOffset <= UInt64(FormatLimits.segmentPlaintextBytesMax) && payloadBytes <= UInt64(FormatLimits.segmentPayloadBytesMax)
            && records <= UInt64(FormatLimits.segmentRecordsMax) && bytes <= 2 * UInt64(FormatLimits.segmentPlaintextBytesMax)
    }

    /// The same entry as a manifest of another lineage names it.
    package func named(from lineage: VaultID) -> SegmentEntry { with(lineage: self.lineage ?? lineage, index: index) }

    package var withoutIndex: SegmentEntry { carrying(nil) }
    package func carrying(_ index: Data?) -> SegmentEntry { with(lineage: lineage, index: index) }

    private func with(lineage: VaultID?, index: Data?) -> SegmentEntry {
        SegmentEntry(
            lineage: lineage, first: first, last: last, bytes: bytes, hash: hash, records: records, payloadOffset: payloadOffset, payloadBytes: payloadBytes,
            index: index)
    }
}

package struct RecoveryPoint: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable { case crash, app }

    package let sequence: UInt64
    package let timeMicros: UInt64
    package let kind: Kind
    package let tag: String?

    package init(sequence: UInt64, timeMicros: UInt64, kind: Kind, tag: String?) {
        self.sequence = sequence
        self.timeMicros = timeMicros
        self.kind = kind
        self.tag = tag
    }
}

package struct MapRoot: Codable, Equatable, Hashable, Sendable {
    package let level: Int
    /// All zeros: the whole disk reads as zeros.
    package let id: Hash256

    package init(level: Int, id: Hash256) {
        self.level = level
        self.id = id
    }
}

package struct Manifest: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable { case full, rollup, delta }

    package struct MergedInterval: Codable, Equatable, Sendable {
        package let after: UInt64
        package let through: UInt64

        package init(after: UInt64, through: UInt64) {
            self.after = after
            self.through = through
        }
    }

    package struct FullRef: Codable, Equatable, Sendable {
        package let fullNumber: UInt64
        package let lineage: VaultID?
        package let sequence: UInt64
        package let hash: Hash256
    }

    package private(set) var format = FormatLimits.formatVersion
    package let vault: VaultID
    package let disk: VaultID
    package let lineage: VaultID
    package var timeMicros: UInt64
    package let kind: Kind
    package let after: UInt64
    package let sequence: UInt64
    package let number: UInt64
    package let previous: ManifestRef?
    package let sizeBytes: UInt64
    package fileprivate(set) var segments: [SegmentEntry]
    package fileprivate(set) var points: [RecoveryPoint]
    package let merged: [MergedInterval]?
    /// Of a full one: what carries the `index` of the segments that have none here.
    package fileprivate(set) var parts: [ManifestRef]?
    package let root: MapRoot?
    package let baseRoot: MapRoot?
    package let fullNumber: UInt64?
    package let fulls: [FullRef]?

    package init(
        vault: VaultID, disk: VaultID, lineage: VaultID, kind: Kind, after: UInt64, sequence: UInt64, number: UInt64, previous: ManifestRef?, sizeBytes: UInt64,
        segments: [SegmentEntry], points: [RecoveryPoint], merged: [MergedInterval]? = nil, parts: [ManifestRef]? = nil, root: MapRoot? = nil, baseRoot: MapRoot? = nil,
        fullNumber: UInt64? = nil, fulls: [FullRef]? = nil
    ) {
        self.vault = vault
        self.disk = disk
        self.lineage = lineage
        timeMicros = Vault.nowMicros()
        self.kind = kind
        self.after = after
        self.sequence = sequence
        self.number = number
        self.previous = previous
        self.sizeBytes = sizeBytes
        self.segments = segments
        self.points = points
        self.merged = merged
        self.parts = parts
        self.root = root
        self.baseRoot = baseRoot
        self.fullNumber = fullNumber
        self.fulls = fulls
    }

    /// Nil when the fields fit each other as the format says, else what is wrong.
    var flaw: String? {
        if sizeBytes == 0 || sizeBytes % 512 != 0 || sizeBytes > FormatLimits.diskBytesMax { return "a disk of \(sizeBytes) bytes" }
        if number == 0 || number > FormatLimits.integerMax { return "its number is \(number)" }
        if after > sequence || sequence == 0 || sequence > FormatLimits.integerMax { return "it covers sequences after \(after) to \(sequence)" }
        if (number == 1) != (previous == nil) { return "its number and its previous manifest do not fit" }
        if zip(segments, segments.dropFirst()).contains(where: { $0.last >= $1.first }) { return "its segments do not rise" }
        if segments.contains(where: { !$0.isWithinLimits }) { return "a segment beyond the limits of the format" }
        if segments.contains(where: { $0.first > $0.last || $0.last <= after || $0.first > sequence }) { return "a segment lies outside of what it covers" }
        if zip(points, points.dropFirst()).contains(where: { $0.sequence >= $1.sequence }) { return "its points do not rise" }
        if points.contains(where: { $0.sequence > sequence || ($0.sequence <= after && after != sequence) }) { return "a point lies outside of what it covers" }
        let merged = merged ?? []
        if merged.contains(where: { $0.after >= $0.through || $0.after < after || $0.through > sequence }) || zip(merged, merged.dropFirst()).contains(where: { $0.through > $1.after }) {
            return "its merged intervals lie outside of what it covers, or in each other"
        }
        if merged.contains(where: { gap in points.contains { $0.sequence > gap.after && $0.sequence < gap.through } }) { return "a point in a merged interval" }
        guard kind == .full else {
            return root == nil && baseRoot == nil && parts == nil && fullNumber == nil && fulls == nil && after < sequence ? nil : "a \(kind.rawValue) manifest with fields of a full one"
        }
        guard let root, let fullNumber, fullNumber >= 1, fullNumber <= number else { return "a full manifest without a map" }
        if let flaw = root.flaw(sizeBytes: sizeBytes) { return flaw }
        if !segments.isEmpty && baseRoot == nil { return "segments without the map they are laid over" }
        if let baseRoot, baseRoot.level < 0 || baseRoot.level > FormatLimits.mapLevelMax { return "its base map has level \(baseRoot.level)" }
        if (parts ?? []).contains(where: { $0.sequence > sequence }) { return "a full manifest with parts behind it" }
        return (fulls ?? []).contains { $0.fullNumber >= fullNumber || $0.sequence > sequence } ? "a full manifest that names a later one" : nil
    }
}

extension Manifest {
    /// What it says without what repeats other objects: of two tries the first may be an older version's.
    fileprivate var withoutIndex: Manifest {
        var rest = self
        rest.segments = segments.map(\.withoutIndex)
        rest.parts = nil
        return rest
    }
}

extension MapRoot {
    func flaw(sizeBytes: UInt64) -> String? { level == MapGeometry.rootLevel(sizeBytes: sizeBytes) ? nil : "its map has level \(level)" }
}

extension Vault {
    /// Stores a manifest, verified, and returns what names it. An earlier try of the same step is adopted.
    package func putManifest(_ manifest: Manifest) throws(VaultError) -> ManifestRef {
        if let flaw = manifest.flaw { throw .refused("the manifest at \(manifest.sequence) is not valid: \(flaw)") }
        let place = ObjectPlace.manifest(disk: manifest.disk, lineage: manifest.lineage, sequence: manifest.sequence)
        let bytes = try seal(try CanonicalJSON.encode(manifest), place: place)
        let stored = try putVerified(place, bytes) { stored throws(VaultError) in
            var found = try CanonicalJSON.decode(Manifest.self, try SealedObject.open(stored, place: place, keys: keys), object: place.key)
            // Times are labels: the point of an initial state is dated anew by each try.
            found.timeMicros = manifest.timeMicros
            if found.points.elementsEqual(manifest.points, by: { $0.sequence == $1.sequence && $0.kind == $1.kind && $0.tag == $1.tag }) {
                found.points = manifest.points
            }
            return found.withoutIndex == manifest.withoutIndex
        }
        return ManifestRef(lineage: nil, sequence: manifest.sequence, hash: Hash256(bytes: Digest.sha256(stored))!)
    }

    /// The manifest that `ref` names; `lineage` is that of the object the reference stands in.
    package func manifest(_ ref: ManifestRef, disk: VaultID, lineage: VaultID) throws(VaultError) -> Manifest {
        let own = ref.lineage ?? lineage
        let place = ObjectPlace.manifest(disk: disk, lineage: own, sequence: ref.sequence)
        let bytes = try fetch(place)
        let plaintext = try SealedObject.open(bytes, place: place, keys: keys)
        guard Digest.sha256(bytes) == ref.hash.bytes else { throw .damaged(object: place.key, reason: "it is not the object that was named: its hash differs") }
        let manifest = try CanonicalJSON.decode(Manifest.self, plaintext, object: place.key)
        guard manifest.vault == id, manifest.disk == disk, manifest.lineage == own, manifest.sequence == ref.sequence else {
            throw .damaged(object: place.key, reason: "it belongs to another place")
        }
        if let flaw = manifest.flaw { throw .damaged(object: place.key, reason: flaw) }
        return manifest
    }
}
