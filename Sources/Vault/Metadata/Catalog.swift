// catalog/<n>: what the vault as a whole holds (docs/formats/vault.md section 7).

package struct Catalog: ChainDocument, Equatable {
    package struct Disk: Codable, Equatable, Sendable {
        package let id: VaultID
        package let name: String
        package let sizeBytes: UInt64
        package let createdMicros: UInt64
        /// The chain of heads that tells this disk's state.
        package let group: VaultID
        /// The machine it is a disk of; absent for a machine of the disk's own name.
        package let machine: String?

        init(id: VaultID, name: String, sizeBytes: UInt64, createdMicros: UInt64, group: VaultID, machine: String? = nil) {
            self.id = id
            self.name = name
            self.sizeBytes = sizeBytes
            self.createdMicros = createdMicros
            self.group = group
            self.machine = machine == name ? nil : machine
        }

        package var machineName: String { machine ?? name }

        func placed(in group: VaultID, machine: String) -> Disk {
            Disk(id: id, name: name, sizeBytes: sizeBytes, createdMicros: createdMicros, group: group, machine: machine)
        }
    }

    package struct Host: Codable, Equatable, Sendable {
        package let id: VaultID
        package let name: String
        package let role: String

        init(id: VaultID, name: String, role: String) { (self.id, self.name, self.role) = (id, name, role) }
    }

    package struct Group: Codable, Equatable, Sendable {
        package let id: VaultID
        package let name: String
        package let disks: [VaultID]

        package init(id: VaultID, name: String, disks: [VaultID]) {
            self.id = id
            self.name = name
            self.disks = disks
        }
    }

    package struct Plan: Codable, Equatable, Sendable {
        package let name: String
        package let document: String

        package static let documentBytesMax = 64 << 10

        package init(name: String, document: String) {
            self.name = name
            self.document = document
        }
    }

    package private(set) var format = FormatLimits.formatVersion
    package let vault: VaultID
    package var number: UInt64 = 0
    package var previous: Hash256?
    package var timeMicros: UInt64 = 0
    package var keyGeneration: UInt32
    package var collectionEpoch: UInt32 = 1
    package var condemned: [String]?
    package var disks: [Disk] = []
    package var hosts: [Host]?
    package var groups: [Group]?
    package var plans: [Plan]?
    package var machines: [MachineSettings]?
    package var policies: [DiskPolicy]?

    /// Itself sealed with the key it names: who cannot open it is told so by the first object read.
    package var sealingGeneration: UInt32? { keyGeneration }

    /// Number 1 of a new vault.
    init(first vault: VaultID, keyGeneration: UInt32) {
        self.vault = vault
        number = 1
        timeMicros = Vault.nowMicros()
        self.keyGeneration = keyGeneration
    }

    /// What makes it no valid catalog; names become directories of a mount, so they are checked here too.
    var flaw: String? {
        if collectionEpoch == 0 || collectionEpoch > UInt32.max / 2 { return "its collection epoch is \(collectionEpoch)" }
        if let disk = disks.first(where: { !Self.isValidName($0.name) }) { return "\(disk.name.debugDescription) cannot be a disk's name" }
        if Set(disks.map(\.name)).count != disks.count || Set(disks.map(\.id)).count != disks.count { return "a disk stands in it twice" }
        if let disk = disks.first(where: { !Self.isValidName($0.machineName) }) { return "\(disk.machineName.debugDescription) cannot be a machine's name" }
        let groups = groups ?? []
        if let group = groups.first(where: { !Self.isValidName($0.name) }) { return "\(group.name.debugDescription) cannot be a group's name" }
        if Set(groups.map(\.name)).count != groups.count || Set(groups.map(\.id)).count != groups.count { return "a group stands in it twice" }
        if let flaw = settingsFlaw ?? policyFlaw { return flaw }
        if let host = (hosts ?? []).first(where: { $0.name.utf8.count > FormatLimits.hostNameBytesMax }) { return "the name of the host \(host.id) has \(host.name.utf8.count) bytes" }
        let isSized = disks.allSatisfy { $0.sizeBytes > 0 && $0.sizeBytes % 512 == 0 && $0.sizeBytes <= FormatLimits.diskBytesMax }
        return isSized ? nil : "a disk in it has an impossible size"
    }

    private var settingsFlaw: String? {
        let (plans, machines) = (plans ?? [], machines ?? [])
        if let plan = plans.first(where: { !Self.isValidName($0.name) }) { return "\(plan.name.debugDescription) cannot be a plan's name" }
        if let plan = plans.first(where: { $0.document.utf8.count > Plan.documentBytesMax }) { return "the plan \(plan.name) has \(plan.document.utf8.count) bytes" }
        if Set(plans.map(\.name)).count != plans.count { return "a plan stands in it twice" }
        if Set(machines.map(\.name)).count != machines.count { return "a machine's settings stand in it twice" }
        return machines.lazy.compactMap { machine in machine.flaw.map { "the settings of \(machine.name) have \($0)" } }.first
    }

    package func settings(ofMachine name: String) -> MachineSettings? { machines?.first { $0.name == name } }

    package mutating func set(_ settings: MachineSettings) {
        let others = (machines ?? []).filter { $0.name != settings.name }
        machines = (others + [settings]).sorted { $0.name < $1.name }
    }

    /// Nil removes the plan.
    package mutating func setPlan(_ name: String, _ document: String?) {
        let listed = ((plans ?? []).filter { $0.name != name } + (document.map { [Plan(name: name, document: $0)] } ?? [])).sorted { $0.name < $1.name }
        plans = listed.isEmpty ? nil : listed
    }

    package func disk(named name: String) -> Disk? { disks.first { $0.name == name } }

    /// What the catalog calls the group; nil for a disk on its own.
    package func group(_ id: VaultID) -> Group? { groups?.first { $0.id == id } }

    /// The disks whose state the group's heads tell.
    package func disks(inGroup id: VaultID) -> [Disk] { disks.filter { $0.group == id } }

    /// Puts the disk into the group `id`, which has a name unless it is the disk's own. Another group loses that name: the
    /// caller has seen that it is not somebody else's (`refuseTaken`).
    mutating func place(_ disk: VaultID, in id: VaultID, named name: String?, machine: String) throws(VaultError) {
        guard let index = disks.firstIndex(where: { $0.id == disk }) else { throw .notFound("the vault does not know the disk \(disk): it was forgotten there") }
        disks[index] = disks[index].placed(in: id, machine: machine)
        var names = Dictionary((groups ?? []).map { ($0.id, $0.name) }) { first, _ in first }
        if let name {
            names = names.filter { $0.value != name }
            names[id] = name
        }
        let listed = names.sorted { $0.value < $1.value }.map { id, name in Group(id: id, name: name, disks: disks(inGroup: id).map(\.id)) }.filter { !$0.disks.isEmpty }
        groups = listed.isEmpty ? nil : listed
    }

    /// The disk is forgotten.
    mutating func remove(_ disk: VaultID) {
        disks.removeAll { $0.id == disk }
        let left = (groups ?? []).map { Group(id: $0.id, name: $0.name, disks: $0.disks.filter { $0 != disk }) }.filter { !$0.disks.isEmpty }
        groups = left.isEmpty ? nil : left
        policies = policies?.filter { $0.disk != disk }
        if policies?.isEmpty == true { policies = nil }
        let settings = machines?.filter { settings in disks.contains { $0.machineName == settings.name } } ?? []
        machines = settings.isEmpty ? nil : settings
    }

    /// Throws when the name is that of another group with disks that are not among `own`: the disks of a group are on one host.
    package func refuseTaken(_ name: String, for id: VaultID?, own: Set<String>) throws(VaultError) {
        guard let other = groups?.first(where: { $0.name == name && $0.id != id }) else { return }
        let names = disks.filter { other.disks.contains($0.id) && !own.contains($0.id.description) }.map(\.name)
        guard let first = names.first else { return }
        throw .refused("the vault has a group named \(name) with the disk \(first), which this site does not protect; a group lives on one host and cannot span two")
    }

    /// 1 to 64 characters of `A-Z a-z 0-9 . _ -`, not starting with a dot or dash: names become folders of a mount.
    package static func isValidName(_ name: String) -> Bool {
        let bytes = Array(name.utf8)
        guard let first = bytes.first, bytes.count <= 64, first != UInt8(ascii: "."), first != UInt8(ascii: "-") else { return false }
        return bytes.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
            case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): true
            default: false
            }
        }
    }
}

extension Vault {
    var catalogChain: Chain<Catalog> { Chain(vault: self, name: "catalog") { .catalog($0) } }

    package func catalog() throws(VaultError) -> Published<Catalog> {
        guard let newest = try catalogChain.newest() else { throw .missing(object: ObjectPlace.catalog(1).key) }
        let object = ObjectPlace.catalog(newest.document.number).key
        if let flaw = newest.document.flaw { throw .damaged(object: object, reason: flaw) }
        try seal(with: newest.document.keyGeneration, namedBy: object)
        return newest
    }

    /// Publishes a changed catalog; `change` runs again on a newer one when another client was faster.
    @discardableResult
    package func updateCatalog(_ change: (inout Catalog) throws(VaultError) -> Void) throws(VaultError) -> Published<Catalog> {
        try refuseCopy()
        for attempt in 0..<Chain<Catalog>.triesMax {
            catalogChain.giveWay(before: attempt)
            let current = try catalog()
            var next = current.document
            try change(&next)
            if next == current.document { return current }
            // Nobody could read it.
            if let flaw = next.flaw { throw .refused("the vault's catalog would not be valid: \(flaw)") }
            do {
                return try catalogChain.publish(next, after: current)
            } catch .conflict {
                continue
            }
        }
        throw .conflict(chain: "catalog")
    }

    /// Registers a disk as a group of its own. The same id again changes nothing; a name in use is refused.
    package func register(disk: VaultID, name: String, sizeBytes: UInt64, machine: String? = nil) throws(VaultError) -> Catalog.Disk {
        guard Catalog.isValidName(name) else { throw .refused("\"\(name)\" is no disk name: 1 to 64 of A-Z a-z 0-9 . _ - not starting with . or -") }
        guard sizeBytes > 0, sizeBytes % 512 == 0, sizeBytes <= FormatLimits.diskBytesMax else { throw .refused("a disk of \(sizeBytes) bytes cannot be kept in a vault") }
        let entry = Catalog.Disk(id: disk, name: name, sizeBytes: sizeBytes, createdMicros: Self.nowMicros(), group: disk, machine: machine)
        let published = try updateCatalog { catalog throws(VaultError) in
            if let known = catalog.disks.first(where: { $0.id == disk }) {
                guard known.name == name, known.sizeBytes == sizeBytes else { throw .refused("the disk \(disk) is already registered as \(known.name) with \(known.sizeBytes) bytes") }
                return
            }
            guard catalog.disk(named: name) == nil else { throw .alreadyExists("the vault already has a disk named \(name)") }
            catalog.disks.append(entry)
        }
        return published.document.disks.first { $0.id == disk } ?? entry
    }

    /// Publishes that the disk's state is told by the heads of the group `id` from now on.
    package func place(_ disk: VaultID, in id: VaultID, named name: String?, machine: String) throws(VaultError) -> Published<Catalog> {
        try updateCatalog { catalog throws(VaultError) in try catalog.place(disk, in: id, named: name, machine: machine) }
    }

    /// The disk with this name or id.
    package func disk(_ nameOrID: String) throws(VaultError) -> Catalog.Disk {
        let disks = try catalog().document.disks
        if let found = disks.first(where: { $0.name == nameOrID || $0.id.description == nameOrID }) { return found }
        let names = disks.map(\.name).sorted().joined(separator: ", ")
        throw .notFound("the vault has no disk \(nameOrID); it has \(names.isEmpty ? "none" : names)")
    }
}
