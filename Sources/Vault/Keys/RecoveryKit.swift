// The recovery kit that `vault create` prints: the keys themselves, as text for a safe place. It opens the vault
// without any key object, so it also helps when those are lost or the passphrase is forgotten.

package struct RecoveryKit: Sendable {
    package let location: String
    let keys: VaultKeys

    init(location: String, keys: VaultKeys) {
        self.location = location
        self.keys = keys
    }

    package var vault: VaultID { keys.vault }
    package var isEncrypted: Bool { keys.cipher != .none }

    package var text: String {
        guard isEncrypted else {
            return "farshore recovery kit\nvault: \(keys.vault)\nlocation: \(location)\nThis vault is not encrypted: its location is all that is needed.\n"
        }
        return """
            farshore recovery kit
            vault: \(keys.vault)
            location: \(location)
            Who has these lines can read everything in the vault. Keep them where the vault is not.
            Use: farshore ... --key-file THIS-FILE
            \(Self.keyLines(keys))check: \(Self.check(Self.keyLines(keys)))

            """
    }

    private static func keyLines(_ keys: VaultKeys) -> String {
        let data = keys.dataKeys.sorted { $0.key < $1.key }.map { "data-key-\($0.key): \(Hex.encode($0.value))\n" }
        return "id-key: \(Hex.encode(keys.idKey))\n" + data.joined()
    }

    private static func check(_ lines: String) -> String { String(Hex.encode(Digest.sha256(Array(lines.utf8))).prefix(16)) }

    /// Nil when `text` is no kit at all; an error when it is one with a slip in it.
    init?(text: String, path: String) throws(VaultError) {
        var fields: [String: String] = [:]
        for line in text.split(whereSeparator: \.isNewline) {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { continue }
            fields[String(parts[0])] = parts[1].drop { $0 == " " }.trimmingSuffix { $0 == " " }
        }
        guard let vaultText = fields["vault"], let idText = fields["id-key"] else { return nil }
        var dataKeys: [UInt32: [UInt8]] = [:]
        for (name, value) in fields where name.hasPrefix("data-key-") {
            guard let generation = UInt32(name.dropFirst(9)), generation > 0, let key = Hex.decode(value), key.count == 32 else {
                throw .wrongKey("\(path): the line \(name) is no key")
            }
            dataKeys[generation] = key
        }
        guard let vault = VaultID(vaultText), let idKey = Hex.decode(idText), idKey.count == 32, !dataKeys.isEmpty else {
            throw .wrongKey("\(path) looks like a recovery kit, but its lines are not complete")
        }
        keys = VaultKeys(vault: vault, cipher: .aes256GCM, idKey: idKey, dataKeys: dataKeys)
        location = fields["location"] ?? ""
        guard fields["check"] == Self.check(Self.keyLines(keys)) else {
            throw .wrongKey("\(path) is a recovery kit whose check line does not fit: a digit was lost or changed")
        }
    }
}

extension Substring {
    func trimmingSuffix(while matches: (Character) -> Bool) -> String {
        var end = endIndex
        while end > startIndex, matches(self[index(before: end)]) { end = index(before: end) }
        return String(self[startIndex..<end])
    }
}
