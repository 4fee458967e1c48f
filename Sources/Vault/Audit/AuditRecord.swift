// audit/<n>: what was done with the copies, by whom and when (docs/formats/vault.md section 10). Each record has the hash of
// the one before, and nothing removes one, so that nobody can take an event out or change it later without being found.

import ObjectStore

package struct AuditRecord: ChainDocument, Equatable {
    package private(set) var format = FormatLimits.formatVersion
    package let vault: VaultID
    package var number: UInt64 = 0
    package var previous: Hash256?
    package var timeMicros: UInt64 = 0
    /// Who did it: free text.
    package let actor: String
    package let event: String
    /// Canonical JSON of an object, by the event.
    package let document: String

    package func decode<Document: Decodable>(_ type: Document.Type) throws(VaultError) -> Document {
        try CanonicalJSON.decodePart(type, Array(document.utf8), object: ObjectPlace.audit(number).key)
    }
}

/// What a walk over all records found.
package struct AuditCheck: Equatable, Sendable {
    package let records: UInt64
    /// What does not open, is not there, or is not what the record behind it names; empty: nothing was changed.
    package let damage: [VaultError]

    package init(records: UInt64, damage: [VaultError]) {
        self.records = records
        self.damage = damage
    }
}

extension Vault {
    var auditChain: Chain<AuditRecord> { Chain(vault: self, name: "audit") { .audit($0) } }

    /// Of a chain that this host never saw, whether it has begun is asked for without a LIST: its first record is never removed.
    func newestAudit() throws(VaultError) -> Published<AuditRecord>? {
        if try memory.newest(auditChain.memoryName) == nil, try fromStore(nil, { () throws(StoreError) in try store.head(ObjectPlace.audit(1).key) }) == nil { return nil }
        return try auditChain.newest()
    }

    /// Adds a record and returns it as it stands in the vault. Others may add theirs at the same time.
    @discardableResult
    package func audit(event: String, actor: String, document: some Encodable) throws(VaultError) -> AuditRecord {
        try refuseCopy()
        guard Catalog.isValidName(event) else { throw .refused("\"\(event)\" is no name for an audit event") }
        let text = String(decoding: try CanonicalJSON.encode(document), as: UTF8.self)
        guard text.utf8.count <= FormatLimits.auditDocumentBytesMax else {
            throw .refused("an audit record of \(text.utf8.count) bytes; at most \(FormatLimits.auditDocumentBytesMax) are kept")
        }
        var by = actor
        while by.utf8.count > FormatLimits.auditActorBytesMax { by.removeLast() }
        let record = AuditRecord(vault: id, actor: by, event: event, document: text)
        for _ in 0..<32 {
            do throws(VaultError) {
                return try auditChain.publish(record, after: try auditChain.newest()).document
            } catch .conflict {
                continue
            }
        }
        throw .conflict(chain: "audit")
    }

    /// The newest `limit` records that fit, oldest first.
    package func auditRecords(limit: Int = .max, where fits: (AuditRecord) -> Bool = { _ in true }) throws(VaultError) -> [AuditRecord] {
        var found: [AuditRecord] = []
        var next = try auditChain.newest()
        while let record = next, found.count < limit {
            if fits(record.document) { found.append(record.document) }
            next = try before(record)
        }
        return found.reversed()
    }

    private func before(_ record: Published<AuditRecord>) throws(VaultError) -> Published<AuditRecord>? {
        guard let hash = record.document.previous else { return nil }
        let number = record.document.number - 1
        let found = try auditChain.read(number)
        guard found.hash == hash else { throw .damaged(object: ObjectPlace.audit(number).key, reason: Self.exchanged(number)) }
        return found
    }

    /// Reads every record, and compares each with the hash that the one behind it has of it.
    package func checkAudit() throws(VaultError) -> AuditCheck {
        guard let newest = try auditChain.newest() else { return AuditCheck(records: 0, damage: []) }
        var damage: [VaultError] = []
        var expected = newest.document.previous
        for number in stride(from: newest.document.number - 1, to: 0, by: -1) {
            do throws(VaultError) {
                let record = try auditChain.read(number)
                if let expected, record.hash != expected { damage.append(.damaged(object: ObjectPlace.audit(number).key, reason: Self.exchanged(number))) }
                expected = record.document.previous
            } catch {
                guard error.isIntegrityDamage else { throw error }
                damage.append(error)
                expected = nil
            }
        }
        return AuditCheck(records: newest.document.number, damage: damage.reversed())
    }

    private static func exchanged(_ number: UInt64) -> String { "it is not the record that number \(number + 1) follows: one of them was exchanged" }
}
