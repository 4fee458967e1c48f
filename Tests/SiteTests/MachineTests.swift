// Which disks share points: the disks of a machine, the machines of a replication group, and nobody else.

import GRDB
import Site
import Testing

@Suite struct MachineTests {
    private func disk(_ name: String, machine: String? = nil, vault: String = "v") -> ProtectedDisk {
        var disk = makeDisk(name)
        disk.machine = machine ?? name
        disk.vaultID = vault
        return disk
    }

    private func sharing(_ catalogue: Catalogue) throws -> [[String]] {
        try catalogue.consistencyGroups().map(\.diskNames).sorted { $0[0] < $1[0] }
    }

    @Test func aDiskOfNoMachineIsItsOwn() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(disk("a"))
        #expect(try catalogue.machines().map(\.name) == ["a"])
        let group = try catalogue.consistencyGroup(ofDisk: "a")
        #expect(group.kind == .disk)
        #expect(try group.id == catalogue.disk(named: "a").id)
        try catalogue.remove(disk: "a")
        #expect(try catalogue.machines().isEmpty)
        #expect(throws: SiteError.self) { try catalogue.consistencyGroup(ofDisk: "a") }
    }

    @Test func disksOfAMachineAndMachinesOfAGroupShare() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(disk("a", machine: "m"))
        try catalogue.add(disk("b", machine: "m"))
        try catalogue.add(disk("c"), group: "g")
        try catalogue.add(disk("d"))
        #expect(try sharing(catalogue) == [["a", "b"], ["c"], ["d"]])
        try catalogue.put(machines: ["m"], inGroup: "g")
        #expect(try Set(catalogue.consistencyGroup(ofDisk: "c").diskNames) == ["a", "b", "c"])
        #expect(try catalogue.consistencyGroup(ofDisk: "a").id == catalogue.group(named: "g").id)
        try catalogue.put(disks: ["d"], inMachine: "m")
        #expect(try Set(catalogue.consistencyGroup(ofDisk: "d").diskNames) == ["a", "b", "c", "d"])
        #expect(try catalogue.machines().map(\.name) == ["c", "m"])
        try catalogue.take(disks: ["d"], outOfMachine: "m")
        try catalogue.take(machines: ["c"], outOfGroup: "g")
        #expect(try sharing(catalogue) == [["a", "b"], ["c"], ["d"]])
        try catalogue.remove(group: "g")
        #expect(try sharing(catalogue) == [["a", "b"], ["c"], ["d"]])
        #expect(try catalogue.consistencyGroup(ofDisk: "a").kind == .machine)
    }

    @Test func whatSharesPointsGoesToOneVault() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(disk("a", machine: "m"))
        #expect { try catalogue.add(disk("b", machine: "m", vault: "other")) } throws: { ($0 as? SiteError)?.code == .refused }
        #expect(try catalogue.disks().map(\.name) == ["a"])
        try catalogue.add(disk("b", vault: "other"))
        #expect { try catalogue.addGroup(named: "g", machines: ["m", "b"]) } throws: { ($0 as? SiteError)?.code == .refused }
        #expect(try catalogue.groups().isEmpty)
        #expect { try catalogue.put(disks: ["b"], inMachine: "m") } throws: { ($0 as? SiteError)?.code == .refused }
        #expect(try sharing(catalogue) == [["a"], ["b"]])
    }

    @Test func namesMeanOneThing() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(disk("a", machine: "m"), group: "g")
        #expect { try catalogue.add(disk("m")) } throws: { ($0 as? SiteError)?.code == .diskExists }
        #expect { try catalogue.add(disk("g")) } throws: { ($0 as? SiteError)?.code == .groupExists }
        #expect { try catalogue.addGroup(named: "m") } throws: { ($0 as? SiteError)?.code == .groupExists }
        #expect { try catalogue.addGroup(named: "g") } throws: { ($0 as? SiteError)?.code == .groupExists }
        try catalogue.addGroup(named: "h")
        #expect { try catalogue.put(machines: ["m"], inGroup: "h") } throws: { ($0 as? SiteError)?.code == .groupExists }
        #expect { try catalogue.put(machines: ["x"], inGroup: "h") } throws: { ($0 as? SiteError)?.code == .machineNotFound }
        #expect { try catalogue.put(machines: ["m"], inGroup: "x") } throws: { ($0 as? SiteError)?.code == .groupNotFound }
        #expect { try catalogue.take(machines: ["m"], outOfGroup: "h") } throws: { ($0 as? SiteError)?.code == .machineNotFound }
    }

    @Test func aCatalogueWithoutMachinesIsTakenOver() throws {
        let site = try TemporarySite()
        do {
            let catalogue = try site.catalogue()
            try catalogue.add(disk("a"))
            try catalogue.add(disk("b"))
        }
        // As the version before machines left it.
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.writeWithoutTransaction { database in
            try database.execute(sql: """
                PRAGMA foreign_keys = OFF;
                ALTER TABLE disk DROP COLUMN machine;
                DROP TABLE machine;
                DROP TABLE replication_group;
                DELETE FROM grdb_migrations WHERE identifier = '2 machines and groups';
                """)
        }
        try raw.close()
        let catalogue = try site.catalogue()
        #expect(try catalogue.disks().map(\.machine) == ["a", "b"])
        #expect(try sharing(catalogue) == [["a"], ["b"]])
    }
}
