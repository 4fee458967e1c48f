// Settings of machines and plans in the catalog: what a recovery host reads is what was written, and nothing it must not believe.

import Foundation
import ObjectStore
import Testing
import Vault
import VaultFixtures

@Suite struct MachineSettingsTests {
    private func settings(_ change: (inout MachineSettings) -> Void = { _ in }) -> MachineSettings {
        var settings = MachineSettings(name: "web1")
        settings.cpus = 4
        settings.memoryBytes = 8 << 30
        settings.firmware = .uefi
        settings.adapters = [.init(network: "lan", testNetwork: "isolated", address: "10.1.0.5", mac: "52:54:00:aa:bb:cc")]
        settings.disks = [.init(name: "web1-root", serial: "A1"), .init(name: "web1-swap", excludedSizeBytes: 8 << 30)]
        settings.start = "start-guest"
        settings.freeze = .init(agent: "/run/web1.sock")
        change(&settings)
        return settings
    }

    @Test func aCatalogKeepsThemAndAnotherHostReadsThem() throws {
        let test = try TestVault()
        try test.vault.updateCatalog { catalog in
            catalog.set(settings())
            catalog.setPlan("shop", "plan: shop\n")
        }
        let read = try test.reopened().catalog().document
        #expect(read.settings(ofMachine: "web1") == settings())
        #expect(read.plans?.map(\.name) == ["shop"])
        try test.vault.updateCatalog { $0.setPlan("shop", nil) }
        #expect(try test.reopened().catalog().document.plans == nil)
    }

    @Test func whatNobodyMustBelieveIsAFlaw() {
        #expect(settings().flaw == nil)
        let wrong: [(inout MachineSettings) -> Void] = [
            { $0.cpus = 0 }, { $0.memoryBytes = 1 }, { $0.targetName = "../etc" }, { $0.start = "" }, { $0.start = "a\nb" }, { $0.start = String(repeating: "x", count: 5_000) },
            { $0.commandSeconds = 0 }, { $0.adapters = Array(repeating: .init(network: "lan"), count: 9) }, { $0.adapters = [.init(network: "lan", address: "10.1.0")] },
            { $0.adapters = [.init(network: "a b")] }, { $0.adapters = [.init(network: "lan", mac: "52:54:00:aa:bb")] }, { $0.disks = [.init(name: "a"), .init(name: "a")] },
            { $0.disks = [.init(name: "a/b")] }, { $0.disks = [.init(name: "a", serial: "x,format=raw")] }, { $0.disks = [.init(name: "a", excludedSizeBytes: 100)] },
            { $0.freeze = .init(agent: "relative") }, { $0.freeze = .init(after: "thaw") }, { $0.freeze = .init(agent: "/a", seconds: 3_600) },
        ]
        for (number, change) in wrong.enumerated() { #expect(settings(change).flaw != nil, "number \(number)") }
    }

    private func words(_ name: String = "office", retention: String = "forever") -> PolicyWords {
        PolicyWords(
            name: name, parent: nil, intervalSeconds: 30, pointSeconds: 30, retention: retention, rpoSeconds: 60, bandwidth: "unlimited", download: "unlimited", compression: "auto",
            resyncWindow: "always", whenFull: "refuse", appSeconds: nil, resyncPercent: 50, anomaly: "pin")
    }

    @Test func thePolicyOfADiskIsKeptUntilItIsForgotten() throws {
        let test = try TestVault()
        let disks = try ["a", "b"].map { try test.vault.register(disk: .random(), name: $0, sizeBytes: 1 << 20).id }
        #expect(try test.reopened().catalog().document.policies == nil)
        try test.vault.updateCatalog { catalog in
            for disk in disks { catalog.set(Catalog.DiskPolicy(disk: disk, policy: words("first"), failback: nil)) }
            catalog.set(Catalog.DiskPolicy(disk: disks[0], policy: words(), failback: words("office-failback", retention: "of a later release")))
        }
        let read = try test.reopened().catalog().document
        #expect(read.policies?.count == 2 && read.policy(ofDisk: disks[0])?.policy == words() && read.policy(ofDisk: disks[1])?.policy.name == "first")
        #expect(read.policy(ofDisk: disks[0])?.failback?.retention == "of a later release")
        for (disk, left) in zip(disks, [1, nil] as [Int?]) {
            _ = try test.vault.forget(disk.description)
            #expect(try test.reopened().catalog().document.policies?.count == left)
        }
    }

    /// Nobody writes it, for nobody could read the vault then; who finds it believes nothing of it.
    private func isRefused(_ flaw: (inout Catalog) -> Void) throws {
        let test = try TestVault()
        #expect { try test.vault.updateCatalog(flaw) } throws: { if case VaultError.refused = $0 { true } else { false } }
        var document = try test.reopened().catalog().document
        flaw(&document)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let place = ObjectPlace.catalog(document.number)
        let sealed = try Array(encoder.encode(document)).withUnsafeBytes {
            try SealedObject.seal($0, place: place, keys: test.vault.keys, generation: document.keyGeneration)
        }
        try test.store.put(place.key, sealed, ifAbsent: false)
        #expect { try test.reopened().catalog() } throws: { if case VaultError.damaged = $0 { true } else { false } }
    }

    @Test func aCatalogWithAFlawedPolicyIsRefused() throws {
        for (policy, failback) in [(words("a/b"), nil), (words(), words("..")), (words(retention: String(repeating: "x", count: 4_097)), nil)] as [(PolicyWords, PolicyWords?)] {
            try isRefused { $0.set(Catalog.DiskPolicy(disk: .random(), policy: policy, failback: failback)) }
        }
    }

    @Test func aCatalogWithAFlawIsRefused() throws {
        for flawed in [settings { $0.cpus = -1 }, MachineSettings(name: "..")] { try isRefused { $0.set(flawed) } }
        try isRefused { $0.setPlan("a/b", "") }
    }
}
