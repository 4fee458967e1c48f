// hosts/<host>/<n>: that a host is there, its newest number being its last contact (docs/formats/vault.md section 10). Nothing else
// depends on these objects.

import ObjectStore

package struct HostContact: ChainDocument, Equatable {
    package enum Role: String, Codable, Sendable {
        /// Guests write there, and it is replicated.
        case source
        /// Guests write there after a failover.
        case recovery
        case target
    }

    package private(set) var format = FormatLimits.formatVersion
    package let vault: VaultID
    package let host: VaultID
    package var number: UInt64 = 0
    package var previous: Hash256?
    package var timeMicros: UInt64 = 0
    package let name: String
    package let role: Role
    package let version: String
    /// When the next one is to be expected.
    package let everySeconds: UInt64
    /// Of the disk that is furthest behind; nil where it protects none.
    package let lagSeconds: UInt64?

    package init(vault: VaultID, host: VaultID, name: String, role: Role, version: String, everySeconds: UInt64, lagSeconds: UInt64?) {
        (self.vault, self.host, self.role, self.version) = (vault, host, role, version)
        self.name = Catalog.Host.shortened(name)
        (self.everySeconds, self.lagSeconds) = (everySeconds, lagSeconds)
    }

    fileprivate func flaw(of host: VaultID) -> String? {
        if self.host != host { return "it is of another host" }
        if name.utf8.count > FormatLimits.hostNameBytesMax || version.utf8.count > FormatLimits.hostNameBytesMax { return "its name or version is too long" }
        return (1...86_400).contains(everySeconds) ? nil : "it says that the next contact comes in \(everySeconds) s"
    }
}

/// The contacts of one host, as this program has seen or put them last.
package final class HostContactChain {
    private let vault: Vault
    private let host: VaultID
    private var chain: Chain<HostContact>
    private var last: Published<HostContact>?

    package init(_ vault: Vault, of host: VaultID) {
        // What is remembered of chains over restarts guards points against a target that was rolled back. Here it would only keep a host from an
        // adopted copy, which has no contacts yet.
        let vault = vault.remembering(by: HeadMemory(folder: nil))
        (self.vault, self.host) = (vault, host)
        chain = Self.chain(vault, host)
    }

    private static func chain(_ vault: Vault, _ host: VaultID) -> Chain<HostContact> { Chain(vault: vault, name: "hosts/\(host)") { .host(host, $0) } }

    /// The newest contact; nil where there was none. One request while no newer one came.
    package func newest() throws(VaultError) -> HostContact? {
        if let last, try fromStore(nil, { () throws(StoreError) in try vault.store.head(ObjectPlace.host(host, last.document.number + 1).key) }) == nil { return last.document }
        return try read()
    }

    /// Puts the next one, also in the place of a damaged one: no host is silent for that. Another process of the host may have put its own
    /// meanwhile: one of the two is enough.
    package func put(_ contact: HostContact) throws(VaultError) {
        if last == nil {
            try vault.refuseCopy()
            // It may have seen the one that is damaged now.
            chain = Self.chain(vault.remembering(by: HeadMemory(folder: nil)), host)
            last = try chain.newest(passingDamage: true)
        }
        do throws(VaultError) { last = try chain.publish(contact, after: last) } catch {
            last = nil
            if case .conflict = error { return }
            throw error
        }
    }

    private func read() throws(VaultError) -> HostContact? {
        guard let found = try chain.newest() else { return nil }
        if let flaw = found.document.flaw(of: host) { throw .damaged(object: ObjectPlace.host(host, found.document.number).key, reason: flaw) }
        last = found
        return found.document
    }
}

extension Catalog.Host {
    /// As much of a host's name as is kept.
    static func shortened(_ name: String) -> String {
        var name = name
        while name.utf8.count > FormatLimits.hostNameBytesMax { name.removeLast() }
        return name
    }
}

extension Vault {
    /// Puts the host into the catalog, or gives it another name there; the catalog as it is then.
    @discardableResult
    package func list(host: VaultID, name: String, role: HostContact.Role) throws(VaultError) -> Catalog {
        let name = Catalog.Host.shortened(name)
        return try updateCatalog { catalog in
            var hosts = catalog.hosts ?? []
            if let known = hosts.firstIndex(where: { $0.id == host }) {
                guard hosts[known].name != name else { return }
                hosts[known] = Catalog.Host(id: host, name: name, role: hosts[known].role)
            } else {
                hosts.append(Catalog.Host(id: host, name: name, role: role.rawValue))
            }
            catalog.hosts = hosts.sorted { $0.id.description < $1.id.description }
        }.document
    }

    /// Takes the host out of the catalog: nobody waits for its contact any more. One that is still there comes back by itself.
    package func unlist(host: VaultID) throws(VaultError) {
        try updateCatalog { catalog in
            let left = (catalog.hosts ?? []).filter { $0.id != host }
            catalog.hosts = left.isEmpty ? nil : left
        }
    }
}
