// disks/<disk>/kept/<id>: the points of a disk below its window, each with a map of its own (docs/formats/vault.md
// section 9). Named by its content and never changed; a head names the newest.

package struct KeptPoint: Codable, Equatable, Sendable {
    package let sequence: UInt64
    package let timeMicros: UInt64
    package let kind: RecoveryPoint.Kind
    package let tag: String?
    /// Time as retention counts it (`RetentionTime`).
    package let elapsedMicros: UInt64
    package let sizeBytes: UInt64
    package let root: MapRoot

    package var point: RecoveryPoint { RecoveryPoint(sequence: sequence, timeMicros: timeMicros, kind: kind, tag: tag) }
}

struct KeptPoints: Codable {
    private(set) var format = FormatLimits.formatVersion
    let vault: VaultID
    let disk: VaultID
    /// So that an object a collection condemned is never written again.
    let collectionEpoch: UInt32
    let points: [KeptPoint]

    var flaw: String? {
        if points.count > FormatLimits.keptPointsMax { return "it holds \(points.count) points" }
        if zip(points, points.dropFirst()).contains(where: { $0.sequence >= $1.sequence }) { return "its points do not rise" }
        for point in points {
            guard point.sizeBytes > 0, point.sizeBytes % 512 == 0, point.sizeBytes <= FormatLimits.diskBytesMax else { return "a disk of \(point.sizeBytes) bytes" }
            if let flaw = point.root.flaw(sizeBytes: point.sizeBytes) { return flaw }
        }
        return nil
    }
}

extension Vault {
    func putKeptPoints(_ points: [KeptPoint], disk: VaultID, epoch: UInt32) throws(VaultError) -> Hash256 {
        let document = KeptPoints(vault: id, disk: disk, collectionEpoch: epoch, points: points)
        if let flaw = document.flaw { throw .refused("the kept points of the disk \(disk) are not valid: \(flaw)") }
        let plaintext = try CanonicalJSON.encode(document)
        let name = plaintext.withUnsafeBytes { keys.contentID($0) }
        let place = ObjectPlace.keptPoints(disk: disk, name)
        _ = try putVerified(place, try seal(plaintext, place: place)) { stored throws(VaultError) in
            try SealedObject.open(stored, place: place, keys: keys) == plaintext
        }
        return name
    }

    package func keptPoints(_ name: Hash256, disk: VaultID) throws(VaultError) -> [KeptPoint] {
        let place = ObjectPlace.keptPoints(disk: disk, name)
        let plaintext = try read(place)
        guard plaintext.withUnsafeBytes({ keys.contentID($0) }) == name else { throw .damaged(object: place.key, reason: "its content does not have its id") }
        let document = try CanonicalJSON.decode(KeptPoints.self, plaintext, object: place.key)
        guard document.vault == id, document.disk == disk else { throw .damaged(object: place.key, reason: "it belongs to another place") }
        if let flaw = document.flaw { throw .damaged(object: place.key, reason: flaw) }
        return document.points
    }
}
