// Which machine, group or disk a name means, and what is said where it could be two.

import Failover
import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct UnitNameTests {
    private func disks(_ name: String, _ catalog: Catalog) throws -> [String] { try FailoverUnit(name, in: catalog).disks.map(\.name) }

    @Test func ofTwoThingsOfOneNameTheLargerIsMeantOrNone() throws {
        let folder = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let vault = try Vault.create(store: DirectoryStore(root: folder, create: true), protection: .none, memory: HeadMemory(folder: nil), settings: TestVault.settings).vault
        for (name, machine) in [("db", "db"), ("db-log", "db"), ("web", "front"), ("a", "web"), ("b", "web"), ("lone", "lone")] {
            _ = try vault.register(disk: .random(), name: name, sizeBytes: 1 << 20, machine: machine)
        }
        let group = VaultID.random()
        for disk in ["db", "db-log", "lone"] { _ = try vault.place(vault.disk(disk).id, in: group, named: "lone", machine: disk == "lone" ? "lone" : "db") }
        let catalog = try vault.catalog().document
        // A machine and one of its disks; a group and one of its machines.
        #expect(try disks("db", catalog) == ["db", "db-log"] && disks("disk:db", catalog) == ["db"])
        #expect(try disks("lone", catalog) == ["db", "db-log", "lone"] && disks("machine:lone", catalog) == ["lone"] && disks("group:lone", catalog).count == 3)
        #expect(try FailoverUnit("machine:lone", in: catalog).wholeGroup == "lone" && FailoverUnit("group:lone", in: catalog).wholeGroup == nil)
        // A machine, and a disk of another one.
        let refusal = #expect(throws: FailoverError.self) { try FailoverUnit("web", in: catalog) }
        #expect(refusal?.message == "web is a machine and a disk that is no part of it" && refusal?.remedy == "machine:web or disk:web in its place")
        #expect(try disks("machine:web", catalog) == ["a", "b"] && disks("disk:web", catalog) == ["web"])
        #expect(try FailoverUnit("disk:web", in: catalog).plainName == "web")
        for name in ["group:web", "nowhere", "machine:", "plan:web", ":web"] { #expect(throws: FailoverError.self) { try FailoverUnit(name, in: catalog) } }
    }
}
