// Machines, replication groups, and which disks share recovery points. The disks of a machine always share them, and so
// do the machines of a replication group; all of them are on this host and go to the same vaults, for a point is one number
// of this host's sequence and appears in a vault by one head.

import BlockIO
import GRDB

package struct Machine: Equatable, Sendable {
    package let name: String
    /// 32 lowercase hex digits: the group in vaults, when its disks share points with nobody else.
    package let id: String
    package let group: String?
    package let disks: [ProtectedDisk]
}

package struct ReplicationGroup: Equatable, Sendable {
    package let name: String
    package let id: String
    package let machines: [Machine]

    package var disks: [ProtectedDisk] { machines.flatMap(\.disks) }
}

/// All disks that share recovery points with one another.
package struct ConsistencyGroup: Equatable, Sendable {
    package enum Kind: String, Sendable { case disk, machine, group }

    package let kind: Kind
    /// Of the disk, machine or replication group.
    package let name: String
    /// The group in vaults. A disk that shares with nobody has its own id here.
    package let id: String
    package let disks: [ProtectedDisk]

    /// A point of all is due as often as the policy of any of them says.
    package var pointSeconds: Int { disks.map(\.pointSeconds).min() ?? 0 }
    /// Between app-consistent points; nil where no policy wants any.
    package var appSeconds: Int? { disks.compactMap(\.appSeconds).min() }
    package var diskNames: [String] { disks.map(\.name) }

    init(machine: Machine) {
        let single = machine.disks.count == 1 ? machine.disks.first : nil
        kind = single == nil ? .machine : .disk
        name = single?.name ?? machine.name
        id = single?.id ?? machine.id
        disks = machine.disks
    }

    init(group: ReplicationGroup) {
        kind = .group
        name = group.name
        id = group.id
        disks = group.disks
    }
}

// MARK: - Reading

extension Catalogue {
    package func machines() throws(SiteError) -> [Machine] { try read { try Self.machines($0) } }

    package func machine(named name: String) throws(SiteError) -> Machine {
        guard let found = try machines().first(where: { $0.name == name }) else { throw Self.noMachine(name) }
        return found
    }

    package func groups() throws(SiteError) -> [ReplicationGroup] { try read { try Self.groups($0) } }

    package func group(named name: String) throws(SiteError) -> ReplicationGroup {
        guard let found = try groups().first(where: { $0.name == name }) else { throw Self.noGroup(name) }
        return found
    }

    /// Every disk of the site in exactly one.
    package func consistencyGroups() throws(SiteError) -> [ConsistencyGroup] { try read { try Self.consistencyGroups($0) } }

    package func consistencyGroup(ofDisk name: String) throws(SiteError) -> ConsistencyGroup {
        let found: ConsistencyGroup? = try read { database in
            guard let machine = try Self.machines(database, where: "name = (SELECT machine FROM disk WHERE name = ?)", name).first else { return nil }
            guard let group = machine.group else { return ConsistencyGroup(machine: machine) }
            return try Self.groups(database, where: "name = ?", group).first.map(ConsistencyGroup.init(group:))
        }
        guard let found else {
            throw SiteError(.diskNotFound, "no disk named \(name) is protected on this site (\(site.path))", remedy: "farshore status")
        }
        return found
    }

    /// `condition` with the one parameter `value`, or all.
    private static func machines(_ database: Database, where condition: String = "1 OR ? IS NULL", _ value: String? = nil) throws -> [Machine] {
        let rows = try Row.fetchAll(
            database, sql: diskQuery + " WHERE is_first AND disk.machine IN (SELECT name FROM machine WHERE \(condition)) ORDER BY disk.name", arguments: [value])
        let disks = Dictionary(grouping: try rows.map(ProtectedDisk.init(row:)), by: \.machine)
        return try Row.fetchAll(database, sql: "SELECT * FROM machine WHERE \(condition) ORDER BY name", arguments: [value]).map { row in
            let name: String = row["name"]
            return Machine(name: name, id: row["id"], group: row["replication_group"], disks: disks[name] ?? [])
        }
    }

    private static func groups(_ database: Database, where condition: String = "1 OR ? IS NULL", _ value: String? = nil) throws -> [ReplicationGroup] {
        let machines = try machines(database, where: "replication_group IN (SELECT name FROM replication_group WHERE \(condition))", value)
        return try Row.fetchAll(database, sql: "SELECT * FROM replication_group WHERE \(condition) ORDER BY name", arguments: [value]).map { row in
            let name: String = row["name"]
            return ReplicationGroup(name: name, id: row["id"], machines: machines.filter { $0.group == name })
        }
    }

    private static func consistencyGroups(_ database: Database) throws -> [ConsistencyGroup] {
        let alone = try machines(database).filter { $0.group == nil && !$0.disks.isEmpty }.map(ConsistencyGroup.init(machine:))
        return try groups(database).filter { !$0.disks.isEmpty }.map(ConsistencyGroup.init(group:)) + alone
    }

    private static func noMachine(_ name: String) -> SiteError {
        SiteError(.machineNotFound, "there is no machine named \(name) on this site", remedy: "farshore machine list")
    }

    private static func noGroup(_ name: String) -> SiteError {
        SiteError(.groupNotFound, "there is no replication group named \(name) on this site", remedy: "farshore group list")
    }
}

// MARK: - Changing

extension Catalogue {
    package func addGroup(named name: String, machines: [String] = []) throws(SiteError) {
        try write { database in
            try Self.makeGroup(name, database)
            for machine in machines { try Self.put(machine: machine, in: name, database) }
            try Self.checkSharing(database)
        }
    }

    package func put(machines: [String], inGroup name: String) throws(SiteError) {
        try write { database in
            guard try Self.exists("replication_group", name, database) else { throw Self.noGroup(name) }
            for machine in machines { try Self.put(machine: machine, in: name, database) }
            try Self.checkSharing(database)
        }
    }

    package func take(machines: [String], outOfGroup name: String) throws(SiteError) {
        try write { database in
            for machine in machines {
                guard try Self.exists("machine", machine, database) else { throw Self.noMachine(machine) }
                try database.execute(sql: "UPDATE machine SET replication_group = NULL WHERE name = ? AND replication_group = ?", arguments: [machine, name])
                guard database.changesCount == 1 else {
                    throw SiteError(.machineNotFound, "the machine \(machine) is not in the group \(name)", remedy: "farshore group show \(name)")
                }
            }
        }
    }

    /// Its machines stay, each on its own.
    package func remove(group name: String) throws(SiteError) {
        try write { database in
            try database.execute(sql: "UPDATE machine SET replication_group = NULL WHERE replication_group = ?", arguments: [name])
            try database.execute(sql: "DELETE FROM replication_group WHERE name = ?", arguments: [name])
            guard database.changesCount == 1 else { throw Self.noGroup(name) }
        }
    }

    /// Makes disks of this site disks of the machine.
    package func put(disks: [String], inMachine name: String) throws(SiteError) {
        try write { database in
            guard try Self.exists("machine", name, database) else { throw Self.noMachine(name) }
            for disk in disks { try Self.set(machine: name, ofDisk: disk, database) }
            try Self.removeEmptyMachines(database)
            try Self.checkSharing(database)
        }
    }

    /// Makes disks of the machine machines of their own, outside of its group.
    package func take(disks: [String], outOfMachine name: String) throws(SiteError) {
        try write { database in
            for disk in disks {
                guard try String.fetchOne(database, sql: "SELECT machine FROM disk WHERE name = ?", arguments: [disk]) == name else {
                    throw SiteError(.diskNotFound, "the machine \(name) has no disk named \(disk)", remedy: "farshore machine show \(name)")
                }
                guard try !Self.exists("machine", disk, database) else {
                    throw SiteError(.refused, "\(disk) would become a machine of its own, but there is a machine of that name", remedy: "take the other disks out of it instead")
                }
                try Self.insertMachine(disk, database)
                try Self.set(machine: disk, ofDisk: disk, database)
            }
            try Self.removeEmptyMachines(database)
        }
    }

    /// For a disk that is being added.
    static func makeMachine(of disk: ProtectedDisk, group: String?, _ database: Database) throws {
        if try exists("machine", disk.machine, database) {
            guard disk.machine != disk.name else {
                throw SiteError(.diskExists, "there is a machine named \(disk.name) with other disks", remedy: "--machine \(disk.name) if it is a disk of that machine, else another name")
            }
        } else {
            try insertMachine(disk.machine, database)
        }
        guard let group else { return }
        if try !exists("replication_group", group, database) { try makeGroup(group, database) }
        try put(machine: disk.machine, in: group, database)
    }

    static func refuseMachine(_ name: String, _ database: Database) throws {
        guard try exists("machine", name, database) else { return }
        throw SiteError(.diskExists, "there is a machine named \(name) on this site already", remedy: "farshore machine show \(name)")
    }

    /// A group of machines that are in none, with the id it has in a vault. One that disks of an earlier failover left empty is made anew.
    static func makeGroup(_ name: String, id: String, machines: [String], _ database: Database) throws {
        try database.execute(
            sql: "DELETE FROM replication_group WHERE name = ?1 AND id = ?2 AND NOT EXISTS (SELECT 1 FROM machine WHERE machine.replication_group = ?1)",
            arguments: [name, id])
        try makeGroup(name, database)
        try database.execute(sql: "UPDATE replication_group SET id = ? WHERE name = ?", arguments: [id, name])
        for machine in machines { try put(machine: machine, in: name, database) }
    }

    private static func makeGroup(_ name: String, _ database: Database) throws {
        if try exists("replication_group", name, database) {
            throw SiteError(.groupExists, "there is a replication group named \(name) already", remedy: "farshore group add \(name) MACHINE")
        }
        guard try !exists("machine", name, database), try !exists("disk", name, database) else {
            throw SiteError(.groupExists, "\(name) is the name of a machine or disk already", remedy: "another name for the group")
        }
        try database.execute(
            sql: "INSERT INTO replication_group (name, id, created) VALUES (?, lower(hex(randomblob(16))), ?)",
            arguments: [name, Int64(bitPattern: Clock.wallNanoseconds())])
    }

    private static func insertMachine(_ name: String, _ database: Database) throws {
        guard try !exists("replication_group", name, database) else {
            throw SiteError(.groupExists, "\(name) is the name of a replication group already", remedy: "another name")
        }
        try database.execute(
            sql: "INSERT INTO machine (name, id, created) VALUES (?, lower(hex(randomblob(16))), ?)",
            arguments: [name, Int64(bitPattern: Clock.wallNanoseconds())])
    }

    private static func put(machine: String, in group: String, _ database: Database) throws {
        guard let row = try Row.fetchOne(database, sql: "SELECT replication_group FROM machine WHERE name = ?", arguments: [machine]) else { throw noMachine(machine) }
        if let other: String = row["replication_group"], other != group {
            throw SiteError(.groupExists, "the machine \(machine) is in the group \(other)", remedy: "farshore group remove \(other) \(machine)")
        }
        try database.execute(sql: "UPDATE machine SET replication_group = ? WHERE name = ?", arguments: [group, machine])
    }

    private static func set(machine: String, ofDisk disk: String, _ database: Database) throws {
        try database.execute(sql: "UPDATE disk SET machine = ? WHERE name = ?", arguments: [machine, disk])
        guard database.changesCount == 1 else { throw SiteError(.diskNotFound, "no disk named \(disk) is protected on this site", remedy: "farshore status") }
    }

    static func removeEmptyMachines(_ database: Database) throws {
        try database.execute(sql: "DELETE FROM machine WHERE name NOT IN (SELECT machine FROM disk)")
    }

    /// Disks that share points go to the same vaults: a point of all of them appears in each by one head.
    static func checkSharing(_ database: Database) throws {
        for group in try consistencyGroups(database) {
            let vaults = try group.disks.map { disk in (disk.name, Set(try String.fetchAll(database, sql: "SELECT vault FROM target WHERE disk = ?", arguments: [disk.name]))) }
            guard let first = vaults.first, let other = vaults.first(where: { $0.1 != first.1 }) else { continue }
            throw SiteError(
                .refused, "\(first.0) and \(other.0) would share points in \(group.name), but are replicated to different vaults",
                remedy: "give both the same targets first (farshore target list), or keep them in different machines and groups")
        }
    }

    private static func exists(_ table: String, _ name: String, _ database: Database) throws -> Bool {
        try Bool.fetchOne(database, sql: "SELECT EXISTS (SELECT 1 FROM \(table) WHERE name = ?)", arguments: [name]) ?? false
    }
}
