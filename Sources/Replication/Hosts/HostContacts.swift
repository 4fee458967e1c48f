// Keeps this host in contact with its vaults and watches the other hosts there: a thread of the uploader, or of the mount where no uploader runs
// and guests write on recovery disks. docs/formats/vault.md section 10 says what is put, docs/operating/hosts.md what is told.

import BlockIO
import ChangeLog
package import Logging
package import Site
import ObjectStore
import Synchronization
package import Vault

package struct ContactSettings: Sendable {
    package static let everySecondsDefault = 300
    package static let silentSecondsDefault = 900

    /// Between contacts.
    package var everySeconds = everySecondsDefault
    /// Without one for so long another host is silent; 0: never.
    package var silentSeconds = silentSecondsDefault

    package init() {}
}

package final class HostContacts: Sendable {
    package typealias Open = @Sendable (VaultPlace) throws -> Vault

    /// The catalog is read again, for hosts that joined since, after so many contacts, or an hour.
    private static let contactsPerCatalog = 12

    /// One vault, used by the thread of `run` only.
    private final class Place {
        let vault: Vault
        let own: HostContactChain
        var hosts: [VaultID: (chain: HostContactChain, silence: HostSilence?, name: String)] = [:]
        var catalogDue: UInt64 = 0
        var contactDue: UInt64 = 0
        /// What the catalog calls this host; nil where it does not list it.
        var name: String?

        init(_ vault: Vault, own: VaultID) {
            self.vault = vault
            self.own = HostContactChain(vault, of: own)
        }
    }

    private let catalogue: Catalogue
    private let name: String
    private let version: String
    private let settings: ContactSettings
    private let openVault: Open
    private let clock: UploadClock
    private let log: Logger

    /// `name`: of this host, for people.
    package init(catalogue: Catalogue, name: String, version: String, settings: ContactSettings, clock: UploadClock = .system, log: Logger, open: @escaping Open) {
        (self.catalogue, self.name, self.version, self.settings) = (catalogue, name, version, settings)
        (self.clock, self.log) = (clock, log)
        openVault = open
    }

    /// Until `stop`; only while `isNeeded`.
    package func run(_ stop: StopFlag, isNeeded: () -> Bool = { true }) {
        var round = Round(self)
        while !stop.isStopping {
            if isNeeded() { round.take() } else { round = Round(self) }
            clock.sleep(1000, stop)
        }
    }

    /// What is kept between rounds, by one thread.
    package struct Round {
        private let contacts: HostContacts
        private var places: [VaultPlace: Place] = [:]
        /// What failed last, by vault: told once.
        private var failures: [String: String] = [:]

        package init(_ contacts: HostContacts) { self.contacts = contacts }

        /// Contacts that are due, and a look at the others.
        package mutating func take() {
            let known: [VaultPlace]
            do throws(SiteError) { known = try contacts.catalogue.vaultPlaces() } catch { return note(error, of: "") }
            places = places.filter { known.contains($0.key) }
            for place in known {
                do {
                    let opened = try places[place] ?? contacts.open(place)
                    places[place] = opened
                    guard try contacts.look(opened) else { continue }
                    if failures.removeValue(forKey: place.id) != nil { contacts.log.info("in contact with the vault \(place.url) again") }
                } catch { note(error, of: place.id, at: place.url) }
            }
        }

        private mutating func note(_ error: any Error, of vault: String, at url: String = "the catalogue") {
            guard failures.updateValue("\(error)", forKey: vault) != "\(error)" else { return }
            contacts.log.warning("no contact with the hosts of \(url): \(error)")
        }
    }

    private func open(_ place: VaultPlace) throws -> Place {
        let vault = try openVault(place)
        guard vault.id.description == place.id else { throw VaultError.refused("\(place.url) holds the vault \(vault.id) now, not \(place.id)") }
        return Place(vault, own: try ownID())
    }

    private func ownID() throws -> VaultID {
        guard let id = VaultID(try catalogue.site.hostID()) else { throw VaultError.refused("\(catalogue.site.path)/host-id holds no host id") }
        return id
    }

    /// False when nothing was due.
    private func look(_ place: Place) throws -> Bool {
        let now = clock.now()
        guard now >= place.contactDue else { return false }
        // Also after a failure: a vault that does not answer is not asked more often.
        place.contactDue = now + UInt64(max(settings.everySeconds, 1)) * 1_000_000_000
        var failure: (any Error)?
        do {
            try refresh(place, now)
            // Who may only read watches all the same.
            do { try say(place) } catch { failure = error }
            if let damage = try watch(place) { failure = failure ?? damage }
        } catch {
            let now = clock.now()
            for host in place.hosts.keys { place.hosts[host]?.silence?.couldNotLook(now: now) }
            throw error
        }
        if let failure { throw failure }
        return true
    }

    private func say(_ place: Place) throws {
        let (own, role) = (try ownID(), try role(place))
        if place.name == nil { place.name = try place.vault.list(host: own, name: name, role: role).hosts?.first { $0.id == own }?.name }
        try place.own.put(HostContact(
            vault: place.vault.id, host: own, name: place.name ?? name, role: role, version: version, everySeconds: UInt64(settings.everySeconds), lagSeconds: try lag(place)))
    }

    private func disks(_ place: Place) throws(SiteError) -> [ProtectedDisk] { try catalogue.disksAtTargets().filter { $0.vaultID == place.vault.id.description } }

    private func role(_ place: Place) throws(SiteError) -> HostContact.Role {
        let disks = try disks(place)
        if disks.contains(where: { $0.role == .source && $0.held == nil }) { return .source }
        return disks.contains { $0.role == .recovery } ? .recovery : .target
    }

    /// Of the disk that is furthest behind; one that cannot tell counts with what the others say, for `status` names it.
    private func lag(_ place: Place) throws(SiteError) -> UInt64? {
        var worst: UInt64?
        for disk in try disks(place) where disk.isReplicated {
            let state = try catalogue.replication(ofDisk: disk.name, at: disk.vaultID)
            let folder = LogFolder(disk.logFolder)
            if folder.isReleased(target: disk.vaultID), let time = state.provenAtNanoseconds {
                // What the log has let go of it cannot count.
                let now = Clock.wallNanoseconds()
                worst = max(worst ?? 0, (now - min(now, time)) / 1_000_000_000)
                continue
            }
            guard let proven = state.provenSequence, let reader = try? LogReader(folder), let lag = try? ReplicationLag.measure(reader, provenSequence: proven) else { continue }
            worst = max(worst ?? 0, UInt64(lag.seconds))
        }
        return worst
    }

    /// Which hosts there are.
    private func refresh(_ place: Place, _ now: UInt64) throws {
        guard now >= place.catalogDue else { return }
        let own = try ownID()
        let catalog = try place.vault.catalog().document
        place.name = catalog.hosts?.first { $0.id == own }?.name
        place.catalogDue = now + UInt64(min(3_600, settings.everySeconds * Self.contactsPerCatalog)) * 1_000_000_000
        let others = (catalog.hosts ?? []).filter { $0.id != own }
        for host in others where place.hosts[host.id] == nil { place.hosts[host.id] = (HostContactChain(place.vault, of: host.id), nil, host.name) }
        place.hosts = place.hosts.filter { id, _ in others.contains { $0.id == id } }
        let vault = place.vault.id.description
        for silent in try catalogue.silentHosts() where silent.vault == vault && !others.contains(where: { $0.id.description == silent.host }) {
            try catalogue.takeAway(silentHost: silent.host, vault: vault)
        }
    }

    /// The damage of contacts that are none, which keeps nobody from looking at the others.
    private func watch(_ place: Place) throws -> VaultError? {
        let vault = place.vault.id.description
        var damage: VaultError?
        for (id, host) in place.hosts {
            var found: HostContact?
            do throws(VaultError) { found = try host.chain.newest() } catch {
                guard error.isIntegrityDamage else { throw error }
                damage = error
            }
            guard let contact = found else { continue }
            let now = clock.now()
            let known = try catalogue.silentHosts().first { $0.vault == vault && $0.host == id.description }
            var silence = host.silence ?? HostSilence(number: contact.number, silentNumber: known?.number, now: now)
            // One that comes rarely is not expected sooner.
            let allowed = settings.silentSeconds == 0 ? 0 : max(UInt64(settings.silentSeconds), 3 * contact.everySeconds)
            let change = silence.look(number: contact.number, allowedSeconds: allowed, now: now)
            switch change {
            case .silent(let seconds):
                let wall = Clock.wallNanoseconds()
                try catalogue.note(
                    silent: SilentHost(vault: vault, host: id.description, name: contact.name, number: contact.number, sinceNanoseconds: wall - min(wall, seconds * 1_000_000_000)),
                    "the host \(contact.name) is silent for \(seconds) s: it is down, its uploader does not run, or it cannot reach the vault \(place.vault.store.location); nothing new of its disks comes there")
            case .back:
                try catalogue.takeAway(silentHost: id.description, vault: vault)
                try catalogue.record(.information, disk: nil, "the host \(contact.name) is in contact again")
            case nil: break
            }
            place.hosts[id] = (host.chain, silence, contact.name)
        }
        return damage
    }
}
