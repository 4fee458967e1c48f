// Which keys of a vault must be there, so that all its points can be opened, collected and added to: what `vault lock` locks and
// `vault undo` brings back. Keys of `copy.json` are not among them: adopting a copy removes it for good.

import ObjectStore

struct NeededObjects {
    /// Every folder that holds some. In the order in which they are brought back: what leads to others comes after them.
    static let prefixes = ["chunks/", "maps/", "disks/", "collect/", "audit/", "heads/", "catalog/", "keys/", ObjectPlace.markerKey]

    let live: LiveObjects
    private let lists: Set<String>
    /// The chains of heads and catalogs, as `heads/<group>/`, with their newest number.
    private let newest: [String: UInt64]

    init(_ found: LiveVault, newestAudit: UInt64) {
        live = found.live
        lists = Set(found.catalog.document.condemned ?? [])
        var newest = ["catalog/": found.catalog.document.number, "audit/": newestAudit]
        for (group, head) in found.heads { newest["heads/\(group)/"] = head.document.number }
        self.newest = newest
    }

    func contains(_ key: String) -> Bool {
        if key == ObjectPlace.markerKey || key == ObjectPlace.chunksMarkerKey || lists.contains(key) { return true }
        if let name = ObjectName(key: key) { return live.contains(name) }
        if ChainKey.keyObjectNumber(key) != nil { return true }
        guard let place = ChainKey(key), let newest = newest[place.chain], place.number <= newest else { return false }
        // Of heads and catalogs, what a collection leaves; records are never removed.
        let interval = FormatLimits.anchorInterval
        return place.chain == "audit/" || place.number % interval == 0 || place.number + interval > newest / interval * interval
    }
}

/// The key of a numbered object: `catalog/<n>`, `heads/<group>/<n>`, `audit/<n>`.
struct ChainKey {
    /// With the slash at its end.
    let chain: String
    let number: UInt64

    init?(_ key: String) {
        let digits = key.suffix(20)
        guard digits.utf8.count == 20, let number = UInt64(digits), number <= FormatLimits.integerMax, ObjectPlace.padded(number) == digits else { return nil }
        let chain = String(key.dropLast(20))
        let parts = chain.split(separator: "/", omittingEmptySubsequences: false)
        let isHead = parts.count == 3 && parts[0] == "heads" && VaultID(String(parts[1])) != nil && parts[2].isEmpty
        guard chain == "catalog/" || chain == "audit/" || isHead else { return nil }
        (self.chain, self.number) = (chain, number)
    }

    var place: ObjectPlace {
        switch chain {
        case "catalog/": .catalog(number)
        case "audit/": .audit(number)
        default: ObjectPlace(.head, chain + ObjectPlace.padded(number))
        }
    }

    static func keyObjectNumber(_ key: String) -> Int? {
        guard key.hasPrefix("keys/"), let number = Int(key.dropFirst(5)), 1...FormatLimits.keyObjectsMax ~= number, ObjectPlace.keyObject(number) == key else { return nil }
        return number
    }
}
