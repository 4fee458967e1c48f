// A recovery disk through a real mount: used at once, filled at its limit beside that, over a killed worker and a vault that is away.

import BlockIO
import Failover
import Foundation
import Site
import Testing
import Vault
import VaultFixtures

@Suite struct RecoveryMountTests {
    /// What the program prints; its exit status is checked.
    /// `path`: what the site is named by; `expected`: its exit status.
    @discardableResult
    private func farshore(_ arguments: [String], _ site: RecoveredSite, as path: String? = nil, status expected: Int32 = 0) throws -> String {
        let program = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent().path + "/farshore"
        let words = [program] + arguments + ["--site", path ?? site.catalogue.site.path]
        // Not by Foundation: it waits for all who have inherited what it gave the program, and a mount stays.
        let output = site.folder + "/output"
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        var pid: pid_t = 0
        var status: Int32 = 0
        let given = words.map { strdup($0) } + [nil]
        defer { for word in given { free(word) } }
        try #require(posix_spawn(&pid, program, &actions, nil, given, environ) == 0)
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        let text = try String(contentsOfFile: output, encoding: .utf8)
        #expect(status == expected << 8, "farshore \(arguments.joined(separator: " ")): \(text)")
        return text
    }

    private func status(_ site: RecoveredSite) throws -> [String: Any] {
        let text = try farshore(["status", "disk", "--json"], site)
        let document = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        return try #require((document["disks"] as? [[String: Any]])?.first)
    }

    private func wait(_ site: RecoveredSite, for what: String, _ isThere: ([String: Any]) -> Bool) throws {
        let deadline = Date(timeIntervalSinceNow: 30)
        var last: [String: Any] = [:]
        while Date() < deadline {
            last = try status(site)
            if isThere(last) { return }
            usleep(100_000)
        }
        Issue.record("not within 30 s: \(what); \(last)")
    }

    private func bytes(_ file: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: file))) }

    private func worker(_ site: RecoveredSite) throws -> pid_t {
        let supervisor = try String(contentsOfFile: site.catalogue.site.mountPIDPath, encoding: .utf8).trimmingCharacters(in: .whitespacesAndNewlines)
        let children = try String(contentsOfFile: "/proc/\(supervisor)/task/\(supervisor)/children", encoding: .utf8)
        return try #require(children.split(separator: " ").first.flatMap { pid_t($0) })
    }

    @Test func aMountServesItAtOnceAndFillsIt() throws {
        let test = try TestVault()
        let source = try ModelDisk(test.vault, sizeBytes: 12 << 20, seed: 30)
        source.fill()
        try source.replicateInitially()
        for _ in 0..<3 { try source.step(records: 8) }
        let site = try RecoveredSite(test)
        let key = site.folder + "/key"
        try Data(TestVault.keyBytes).write(to: URL(filePath: key))
        var plan = site.plan
        (plan.vaultURL, plan.keyFile) = ("file://" + test.directory, key)
        _ = try site.catalogue.changePolicy(named: Policy.defaultName, PolicyChange(download: try BandwidthCalendar("512KiB")))
        try site.create(["disk"], at: source.sequence, plan)
        // Nothing of the vault is there when the mount begins.
        try FileManager.default.moveItem(atPath: test.directory, toPath: test.directory + ".away")
        let directory = site.folder + "/mount"
        try farshore(["mount", directory], site)
        defer { _ = try? farshore(["unmount", directory], site) }
        let file = directory + "/disk/disk.raw"
        var model = source.content
        let disk = try Descriptor.open(file, O_RDWR)
        let mine = [UInt8](repeating: 0x5A, count: 1 << 20)
        // In pieces that the kernel sends as they are: of one that it cuts inside a block the rest would be read from the vault.
        for piece in 0..<16 { try disk.write(Array(mine[..<(64 << 10)]), at: UInt64(3 << 20 + piece << 16)) }
        model.replaceSubrange(3 << 20..<4 << 20, with: mine)
        #expect(try disk.read(count: 1 << 20, at: 3 << 20) == mine)
        try wait(site, for: "the vault is said to be away") { $0["health"] as? String == "warning" && ($0["reason"] as? String ?? "").contains("not filled") }
        try FileManager.default.moveItem(atPath: test.directory + ".away", toPath: test.directory)
        #expect(try bytes(file) == model)
        try disk.syncData()
        try wait(site, for: "it is being filled") { ($0["filling"] as? [String: Any])?["totalBytes"] as? Int ?? 0 > 0 && $0["role"] as? String == "recovery" }
        let killed = try worker(site)
        kill(killed, SIGKILL)
        #expect(try bytes(file) == model, "over a killed worker")
        #expect(try worker(site) != killed)
        #expect(try status(site)["filling"] != nil)
        _ = try site.catalogue.changePolicy(named: Policy.defaultName, PolicyChange(download: .unlimited))
        try wait(site, for: "it stands alone") { $0["filling"] == nil && $0["isServed"] as? Bool == true && ($0["reason"] as? String ?? "").contains("not replicated") }
        try FileManager.default.moveItem(atPath: test.directory, toPath: test.directory + ".away")
        try disk.write([1, 2, 3], at: 77)
        model.replaceSubrange(77..<80, with: [1, 2, 3])
        #expect(try bytes(file) == model, "without the vault")
        try disk.close()
        try FileManager.default.moveItem(atPath: test.directory + ".away", toPath: test.directory)
        let made = try site.catalogue.disk(named: "disk")
        try farshore(["unprotect", "disk"], site)
        #expect(try bytes(made.imagePath) == model, "the image alone")
    }

    /// The mount table has each mount by its path without links.
    @Test func aTestIsNotCleanedUpUnderItsGuestByAPathWithLinks() throws {
        let test = try TestVault()
        try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 31).replicateInitially()
        let site = try RecoveredSite(test)
        let key = site.folder + "/key"
        try Data(TestVault.keyBytes).write(to: URL(filePath: key))
        try FileManager.default.createSymbolicLink(atPath: site.folder + "/link", withDestinationPath: site.folder)
        let linked = site.folder + "/link/site"
        try farshore(["failover", "test", "disk", "--name", "one", "--vault", "file://" + test.directory, "--key-file", key], site, as: linked)
        let directory = site.catalogue.site.path + "/tests/one"
        defer { if FileManager.default.fileExists(atPath: directory + "/mnt/disk") { _ = try? farshore(["unmount", directory + "/mnt"], site, as: directory) } }
        let guest = try Descriptor.open(directory + "/mnt/disk/disk.raw", O_RDWR)
        #expect(try farshore(["failover", "tests"], site, as: linked).contains("tests/one/mnt"))
        try farshore(["failover", "cleanup", "one"], site, as: linked, status: 9)
        try guest.write([1, 2, 3], at: 512)
        #expect(FileManager.default.fileExists(atPath: directory + "/disks/disk.raw"))
        try guest.close()
        try farshore(["failover", "cleanup", "one"], site, as: linked)
        #expect(!FileManager.default.fileExists(atPath: directory))
    }

    /// A test may be of any vault, and open for days beside that.
    @Test func aUnitIsLookedForWhereItIsReplicatedAndNotInTheVaultOfATest() throws {
        let test = try TestVault()
        let source = try ModelDisk(test.vault, sizeBytes: 2 << 20, seed: 32)
        try source.replicateInitially()
        let site = try RecoveredSite(test)
        let key = site.folder + "/key"
        try Data(TestVault.keyBytes).write(to: URL(filePath: key))
        var plan = site.plan
        (plan.vaultURL, plan.keyFile) = ("file://" + test.directory, key)
        try site.create(["disk"], at: source.sequence, plan)
        let nowhere = FailoverRecord(
            run: VaultID.random().description, kind: .test, name: "other", unit: "disk", group: "", vaultURL: "file://" + site.folder + "/nowhere", vaultID: "", keyFile: key,
            passphraseFile: nil, point: "latest", isPlanned: false, folder: site.folder + "/other")
        try site.catalogue.begin(nowhere)
        #expect(try farshore(["failover", "show", "disk"], site).contains("disk"))
        // One that is gone on with is in its own.
        #expect(try farshore(["failover", "test", "disk", "--name", "other"], site, status: 3).contains("/nowhere"))
    }
}
