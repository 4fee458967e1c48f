// collect/<epoch>/<n>: keys that a collection condemned (docs/formats/vault.md section 10).

extension ObjectPlace {
    static func collectionList(epoch: UInt32, _ number: UInt64) -> ObjectPlace { ObjectPlace(.collectionList, "collect/\(epoch)/\(padded(number))") }
}

extension Vault {
    /// Stores a list under a key that nobody else uses, verified.
    func putCollectionList(_ keys: [String], epoch: UInt32) throws(VaultError) -> String {
        let place = ObjectPlace.collectionList(epoch: epoch, UInt64.random(in: 1...FormatLimits.integerMax))
        let plaintext = Array((keys.joined(separator: "\n") + "\n").utf8)
        _ = try putVerified(place, try seal(plaintext, place: place)) { stored throws(VaultError) in
            try SealedObject.open(stored, place: place, keys: self.keys) == plaintext
        }
        return place.key
    }

    func collectionList(_ key: String) throws(VaultError) -> [String] {
        guard case .collectionList(let epoch, let number)? = ObjectName(key: key) else {
            throw .damaged(object: key, reason: "the catalog names it as a list of condemned objects, which it cannot be")
        }
        let text = try read(.collectionList(epoch: epoch, number))
        return String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}
