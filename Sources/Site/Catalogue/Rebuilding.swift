// What a catalogue that was lost gets back (`farshore site rebuild`): what shares points is registered in one transaction with all that
// mount, uploader and life cycle go by, so that a kill leaves it as it was registered or not at all.

import BlockIO
import GRDB

package struct RebuiltDisk: Equatable, Sendable {
    /// With the policy it had, be it a failback policy.
    package let disk: ProtectedDisk
    package let isPaused: Bool
    /// What the vault's newest head proves of its log; nil where the vault has nothing of its lineage yet.
    package let proven: Proven?
    /// Why the mount does not serve it.
    package let held: String?
    /// Why the vault cannot be brought up to date by the log.
    package let resynchronisation: String?

    package struct Proven: Equatable, Sendable {
        let lineage: String
        let sequence: UInt64
        let headNumber: UInt64
        let writerEpoch: UInt64

        package init(lineage: String, sequence: UInt64, headNumber: UInt64, writerEpoch: UInt64) {
            (self.lineage, self.sequence, self.headNumber, self.writerEpoch) = (lineage, sequence, headNumber, writerEpoch)
        }
    }

    package init(disk: ProtectedDisk, isPaused: Bool, proven: Proven?, held: String?, resynchronisation: String?) {
        (self.disk, self.isPaused, self.proven, self.held, self.resynchronisation) = (disk, isPaused, proven, held, resynchronisation)
    }
}

extension Catalogue {
    /// Registers disks that share points, all of them or none, and what this site has to know of their failover. `isNew`: in machines and a group with
    /// the ids they have in the vault; else the site has some of them already. Policies that they had are made; of one that other disks here have with
    /// other settings the name is returned.
    package func add(
        rebuilt disks: [RebuiltDisk], machineIDs: [String: String], group: (name: String, id: String)?, isNew: Bool,
        failover: (record: FailoverRecord, disks: [FailoverRecord.Disk])?
    ) throws(SiteError) -> [String] {
        try write { database in
            var differing: [String] = []
            var based: [ProtectedDisk] = []
            for rebuilt in disks {
                if try !Self.restore(rebuilt.disk.policy, database) { differing.append(rebuilt.disk.policy.name) }
                var disk = rebuilt.disk
                // Registered with its policy at home, as reprotect found it.
                disk.policy = disk.policy.named(disk.policy.parent ?? disk.policy.name)
                disk.isPaused = rebuilt.isPaused
                based.append(disk)
            }
            if isNew {
                try Self.insert(based, machineIDs: machineIDs, group: group, database)
            } else {
                for disk in based { try Self.insert(disk, group: group.flatMap { $0.name == disk.machine ? nil : $0.name }, database) }
                try Self.checkSharing(database)
            }
            for rebuilt in disks { try Self.complete(rebuilt, database) }
            if let failover {
                try Self.begin(failover.record, database)
                for disk in failover.disks { try Self.note(disk, ofFailover: failover.record.run, database) }
            }
            return differing.sorted()
        }
    }

    private static func complete(_ rebuilt: RebuiltDisk, _ database: Database) throws {
        let name = rebuilt.disk.name
        let vault = rebuilt.disk.vaultID
        try database.execute(sql: "UPDATE disk SET held = ? WHERE name = ?", arguments: [rebuilt.held, name])
        try database.execute(sql: "UPDATE target SET policy = ? WHERE disk = ? AND vault = ?", arguments: [rebuilt.disk.policy.name, name, vault])
        if let proven = rebuilt.proven {
            try database.execute(
                sql: "UPDATE replication SET phase = ?, lineage = ?, proven_sequence = ?, proven_at = ?, head_number = ?, writer_epoch = ? WHERE disk = ? AND vault = ?",
                arguments: [
                    ReplicationState.Phase.delta.rawValue, proven.lineage, Int64(bitPattern: proven.sequence), Int64(bitPattern: Clock.wallNanoseconds()),
                    Int64(bitPattern: proven.headNumber), Int64(bitPattern: proven.writerEpoch), name, vault,
                ])
        }
        if let reason = rebuilt.resynchronisation { try markResynchronisation(name, vault, reason: reason, isNow: false, database) }
    }

    /// The policy and its failback policy as they were. False where other disks of the site have it with other settings: it stays as it is.
    private static func restore(_ policy: Policy, _ database: Database) throws -> Bool {
        let home = policy.named(policy.parent ?? policy.name)
        for wanted in [home, policy.named(home.failbackName, parent: home.name)] {
            guard let known = try Self.policy(wanted.name, database) else {
                try insert(wanted, database)
                continue
            }
            if known == wanted { continue }
            let isUsed = try Bool.fetchOne(database, sql: "SELECT EXISTS (SELECT 1 FROM target WHERE policy IN (?, ?))", arguments: [home.name, home.failbackName]) ?? true
            guard !isUsed, known.parent == wanted.parent else { return false }
            try store(wanted, database)
        }
        return true
    }
}
