// What a start command is told, which disks the machine gets, and when an address stops it.

import BlockIO
import Failover
import Foundation
import Testing
import Vault

@Suite struct SettingsTests {
    private func settings() -> MachineSettings {
        var settings = MachineSettings(name: "web1")
        settings.targetName = "web1-dr"
        settings.cpus = 2
        settings.memoryBytes = 4 << 30
        settings.firmware = .bios
        settings.adapters = [.init(network: "lan", testNetwork: "isolated", address: "10.1.0.5", mac: "52:54:00:aa:bb:cc"), .init(network: "backup")]
        settings.disks = [.init(name: "swap", excludedSizeBytes: 8 << 20), .init(name: "root", serial: "A1")]
        return settings
    }

    @Test func disksComeInOrderAndExcludedOnesEmpty() throws {
        let folder = NSTemporaryDirectory() + "farshore-settings-\(UInt32.random(in: 0...UInt32.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let served = ["root": "/mnt/root/disk.raw", "data": "/mnt/data/disk.raw"]
        let start = try MachineStart(settings(), served: served, emptyFolder: folder + "/empty", isTest: false)
        #expect(start.disks.map(\.name) == ["swap", "root", "data"])
        #expect(start.disks.map(\.path) == [folder + "/empty/swap.raw", "/mnt/root/disk.raw", "/mnt/data/disk.raw"])
        let size = try FileManager.default.attributesOfItem(atPath: folder + "/empty/swap.raw")[.size] as? Int
        #expect(size == 8 << 20)
        let told = start.environment
        #expect(told["FARSHORE_DISKS"] == "3" && told["FARSHORE_DISK_2"] == "/mnt/root/disk.raw" && told["FARSHORE_DISK_2_SERIAL"] == "A1")
        #expect(told["FARSHORE_TARGET_NAME"] == "web1-dr" && told["FARSHORE_CPUS"] == "2" && told["FARSHORE_MEMORY_BYTES"] == "4294967296" && told["FARSHORE_FIRMWARE"] == "bios")
        #expect(told["FARSHORE_NICS"] == "2" && told["FARSHORE_NIC_1_IP"] == "10.1.0.5" && told["FARSHORE_NIC_2_NETWORK"] == "backup" && told["FARSHORE_NIC_2_IP"] == nil)
        // What the machine wrote on it stays when it is started again.
        try Data("swapped".utf8).write(to: URL(filePath: folder + "/empty/swap.raw"))
        _ = try MachineStart(settings(), served: served, emptyFolder: folder + "/empty", isTest: false)
        #expect(try Data(contentsOf: URL(filePath: folder + "/empty/swap.raw")) == Data("swapped".utf8))
    }

    @Test func aTestHasItsOwnNetworks() throws {
        let folder = NSTemporaryDirectory() + "farshore-settings-\(UInt32.random(in: 0...UInt32.max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let told = try MachineStart(settings(), served: ["root": "/r"], emptyFolder: folder, isTest: true).environment
        #expect(told["FARSHORE_IS_TEST"] == "1" && told["FARSHORE_NICS"] == "1" && told["FARSHORE_NIC_1_NETWORK"] == "isolated" && told["FARSHORE_NIC_1_IP"] == nil)
    }

    @Test func aTakenAddressIsAnObstacle() {
        var settings = settings()
        settings.adapters = [.init(network: "lan", testNetwork: "isolated", address: "127.0.0.1")]
        #expect(settings.obstacles(isTest: false) == ["the address 127.0.0.1 of web1 is taken: this host has it"])
        #expect(settings.obstacles(isTest: true).isEmpty)
        settings.adapters = [.init(network: "lan")]
        #expect(settings.obstacles(isTest: true) == ["none of the network adapters of web1 has a test network"])
        settings.adapters = [.init(network: "lan", address: "::1")]
        #expect(settings.obstacles(isTest: false).count == 1)
    }
}
