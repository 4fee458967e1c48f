// Who may import whom. SwiftPM does not stop a target from importing a transitive module, so this table does.

import Testing

@Suite struct LayerTests {
    let system: Set<String> = ["Glibc", "Synchronization"]
    /// Room: the rooms it may see. Foundation and packages are listed where they are allowed.
    let allowed: [String: Set<String>] = [
        "BlockIO": ["CLinux", "CISAL"],
        "DiskImage": ["BlockIO", "CLinux", "CZlib", "CZstd"],
        "ChangeLog": ["BlockIO", "CLinux"],
        "VirtualDisk": ["BlockIO", "DiskImage", "ChangeLog", "CLinux"],
        "FuseExport": ["BlockIO", "DiskImage", "VirtualDisk", "CFuse", "CLinux"],
        "ObjectStore": ["BlockIO", "CLinux", "COpenSSL", "Foundation", "Logging", "AsyncHTTPClient", "NIOCore", "NIOHTTP1", "NIOSSL", "NIOPosix", "XMLCoder"],
        "Vault": ["BlockIO", "ObjectStore", "COpenSSL", "CZstd", "Foundation", "Logging"],
        "Site": ["BlockIO", "CLinux", "Foundation", "GRDB", "Logging"],
        "Replication": ["BlockIO", "DiskImage", "ChangeLog", "Site", "ObjectStore", "Vault", "Foundation", "Logging"],
        "RecoveryPoints": ["BlockIO", "DiskImage", "VirtualDisk", "ObjectStore", "Vault", "Foundation", "Logging"],
        "Failover": ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "ObjectStore", "Vault", "Site", "Replication", "RecoveryPoints", "CYaml", "Foundation", "Logging"],
        "farshore": ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "FuseExport", "ObjectStore", "Vault", "Site", "Replication", "RecoveryPoints", "Failover",
                     "CLinux", "Foundation", "Logging", "ArgumentParser"],
    ]

    @Test func importsFollowTheTable() throws {
        for file in try SourceTree().files where !file.isTest {
            let table = try #require(allowed[file.room], "\(file.path) lies in a room the table does not know")
            for line in file.lines {
                guard let module = imported(line) else { continue }
                #expect(table.contains(module) || system.contains(module), "\(file.path) imports \(module)")
            }
        }
    }

    @Test func everyRoomHasFiles() throws {
        let rooms = Set(try SourceTree().files.filter { !$0.isTest }.map(\.room))
        #expect(rooms == Set(allowed.keys))
    }

    private func imported(_ line: String) -> String? {
        let words = line.split(separator: " ").map(String.init)
        guard let at = words.firstIndex(of: "import"), words[..<at].allSatisfy({ $0 == "package" || $0 == "private" || $0.hasPrefix("@") }) else { return nil }
        let module = words.dropFirst(at + 1).first { !["struct", "class", "enum", "func", "protocol"].contains($0) }
        return module?.split(separator: ".").first.map(String.init)
    }
}
