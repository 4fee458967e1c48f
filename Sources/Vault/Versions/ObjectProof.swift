// Whether bytes are an object that was written at a key by somebody with the vault's keys: what tells a sound version from one that was
// put over it. Nobody who lacks the keys can make one; in a vault without encryption everybody can.

struct ObjectProof: Sendable {
    /// Nil while the vault is being opened: then only what opening needs can be told.
    let vault: Vault?

    /// An object sealed with a key that is not known is no unsound one: that is thrown.
    func fits(_ key: String, _ bytes: [UInt8]) throws(VaultError) -> Bool {
        do throws(VaultError) {
            return try opens(key, bytes)
        } catch .damaged, .unsupportedVersion, .noVault {
            return false
        }
    }

    private func opens(_ key: String, _ bytes: [UInt8]) throws(VaultError) -> Bool {
        if key == ObjectPlace.markerKey || key == ObjectPlace.chunksMarkerKey {
            let marker = try VaultMarker.decode(bytes).marker
            return vault.map { $0.id == marker.vault } ?? true
        }
        if let number = ChainKey.keyObjectNumber(key) {
            // Without a vault id yet: that of the object itself.
            let stated = try CanonicalJSON.decode(KeyObject.self, bytes, object: key).vault
            _ = try KeyObject.decode(bytes, vault: vault?.id ?? stated, number: number)
            return true
        }
        guard let vault else { return false }
        if let place = ChainKey(key)?.place {
            _ = try vault.open(bytes, place)
            return true
        }
        guard let name = ObjectName(key: key) else { return false }
        let plaintext = try vault.open(bytes, name.place)
        switch name {
        case .chunk(let ref): return vault.isContent(plaintext, ref.id)
        case .mapPage(let id), .kept(_, let id): return vault.isContent(plaintext, id)
        case .manifest, .segment, .collectionList: return true
        }
    }
}

extension Vault {
    fileprivate func open(_ bytes: [UInt8], _ place: ObjectPlace) throws(VaultError) -> [UInt8] {
        try withKeys { keys throws(VaultError) in try SealedObject.open(bytes, place: place, keys: keys) }
    }

    fileprivate func isContent(_ plaintext: [UInt8], _ id: Hash256) -> Bool { plaintext.withUnsafeBytes { keys.contentID($0) } == id }
}
