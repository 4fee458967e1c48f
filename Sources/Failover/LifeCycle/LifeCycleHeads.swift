// Where a unit stands, read from its newest head, and the next state, published by compare-and-publish: the table is asked again on the
// very head that is changed, so of two hosts that run one command at once the second one is refused.

import BlockIO
import Glibc
import Site
package import Vault

/// A host as heads name it.
package struct FailoverHost: Equatable, Sendable {
    package let id: VaultID
    /// Free text, for people.
    package let name: String

    package init(id: VaultID, name: String) {
        self.id = id
        self.name = name
    }
}

package struct LifeCycleStanding: Sendable {
    package let unit: FailoverUnit
    package let head: Head
    package let catalog: Catalog
    package let place: LifeCyclePlace
    /// That asks.
    let host: FailoverHost

    package var lifeCycle: LifeCycle? { head.lifeCycle }
    package var state: LifeCycle.State { head.lifeCycle?.state ?? .replicating }

    /// A failover was claimed and is not settled.
    var isUnderWay: Bool { state == .failingOver || state == .failedOver }

    /// The states that a failover began with, for people.
    var pointsText: String {
        (lifeCycle?.points ?? []).map { point in "\(unit.disks.first { $0.id == point.disk }?.name ?? point.disk.description) #\(point.sequence)" }.joined(separator: ", ")
    }

    package func decision(_ command: LifeCycleCommand) -> LifeCycleDecision { LifeCycleDecision(command, in: state, on: place) }

    /// Throws where the table refuses.
    package func check(_ command: LifeCycleCommand) throws(FailoverError) {
        if case .refused(let refusal) = decision(command) {
            throw FailoverError(.notNow, "\(unit.name): farshore \(command.rawValue) is refused: \(refusal.reason)", remedy: refusal.remedy(unit.name))
        }
    }

    /// For people: what the vault calls the host, else its id.
    package func name(of host: VaultID) -> String {
        if host == LifeCycle.unknownHost { return "a host of an older version" }
        if host == self.host.id { return self.host.name }
        return catalog.hosts?.first { $0.id == host }?.name ?? (head.writer.id == host ? head.writer.host : host.description)
    }
}

package struct LifeCycleHeads: Sendable {
    package let vault: Vault
    package let host: FailoverHost
    /// Whether this host has the disk, by its id, as its source.
    package let protects: @Sendable (VaultID) -> Bool

    package init(vault: Vault, host: FailoverHost, protects: @escaping @Sendable (VaultID) -> Bool) {
        self.vault = vault
        self.host = host
        self.protects = protects
    }

    /// `notFound` where the vault has nothing of the unit yet.
    package func standing(of name: String) throws -> LifeCycleStanding {
        let catalog = try vault.catalog().document
        let unit = try FailoverUnit(name, in: catalog)
        guard let head = try vault.heads(group: unit.group).newest()?.document else {
            throw FailoverError(.notFound, "nothing of \(name) is in the vault yet", remedy: "farshore upload on the host that protects it")
        }
        return LifeCycleStanding(unit: unit, head: head, catalog: catalog, place: place(of: unit, head), host: self.host)
    }

    /// Where the unit stands, and what keeps every other command of this site from changing that until it is let go: none serves a disk
    /// that another has just taken out of the mount. A preparation may take hours; a run whose plan was killed ends soon, and `waitSeconds` is for it.
    func alone(_ unitName: String, on site: SiteDirectory, waitSeconds: Double = 0) throws -> (standing: LifeCycleStanding, lock: SiteLock) {
        let path = site.failoverLockPath(group: try FailoverUnit(unitName, in: try vault.catalog().document).group.description)
        let deadline = Clock.monotonicNanoseconds() + UInt64(waitSeconds * 1e9)
        var taken = try SiteLock.tryTake(path)
        while taken == nil, Clock.monotonicNanoseconds() < deadline {
            usleep(200_000)
            taken = try SiteLock.tryTake(path)
        }
        guard let lock = taken else {
            throw FailoverError(
                .inUse, "another command prepares, fails over, brings back or takes back \(unitName) on this host",
                remedy: "wait until it ends (farshore job list), or stop it, then the same command again")
        }
        return (try standing(of: unitName), lock)
    }

    private func place(of unit: FailoverUnit, _ head: Head) -> LifeCyclePlace {
        LifeCyclePlace(of: host.id, in: head.lifeCycle, protectsHere: unit.disks.contains { protects($0.id) })
    }

    /// Publishes a head in which `change` brought the life cycle to what `command` leads to. `claiming` raises the writer epoch, which
    /// fences whoever wrote before; nothing is made under it, so collections do not wait for the group until an uploader claims it, which may
    /// take days. Without it the writer stays. `change` gets the life cycle
    /// that is there (made up from the writer where there is none), may run more than once, and may take the life cycle out of the head.
    @discardableResult
    package func publish(
        _ command: LifeCycleCommand, _ unit: FailoverUnit, claiming: Bool, _ change: (inout Head, inout LifeCycle?) throws(VaultError) -> Void
    ) throws(VaultError) -> Head {
        let heads = vault.heads(group: unit.group)
        if claiming {
            return try heads.claim(host: host.name, id: host.id, isReleased: true, keepsEpoch: { _ in false }) { head throws(VaultError) in try apply(command, unit, to: &head, change) }.document
        }
        var published: Head?
        try heads.edit { head throws(VaultError) in
            try apply(command, unit, to: &head, change)
            published = head
        }
        guard let published else { throw .notFound("nothing of \(unit.name) is in the vault yet") }
        return published
    }

    private func apply(
        _ command: LifeCycleCommand, _ unit: FailoverUnit, to head: inout Head, _ change: (inout Head, inout LifeCycle?) throws(VaultError) -> Void
    ) throws(VaultError) {
        let place = place(of: unit, head)
        if case .refused(let refusal) = LifeCycleDecision(command, in: head.lifeCycle?.state ?? .replicating, on: place) {
            throw .refused("\(unit.name): farshore \(command.rawValue) is refused: \(refusal.reason); \(refusal.remedy(unit.name))")
        }
        let before = head.lifeCycle ?? Self.implied(by: head, activeHere: place == .active ? host.id : nil)
        var lifeCycle: LifeCycle? = before
        try change(&head, &lifeCycle)
        guard lifeCycle != before else { return }
        head.lifeCycle = lifeCycle
        head.lifeCycle?.timeMicros = Clock.wallNanoseconds() / 1_000
    }

    /// Of a group that was never failed over: its last writer is where guests write, and where it was first protected.
    private static func implied(by head: Head, activeHere: VaultID?) -> LifeCycle {
        let writer = activeHere ?? head.writer.id ?? LifeCycle.unknownHost
        return LifeCycle(state: .replicating, active: writer, home: writer, timeMicros: head.timeMicros)
    }
}
