// What a machine's start, stop and check commands are told, and which disks it gets: its recovered ones and, empty, those that are not
// replicated, in the order and with the serial numbers of its settings. The variables are listed in docs/operating/machines.md.

package import BlockIO
import Glibc
package import Vault

package struct MachineStart: Sendable {
    package struct Disk: Equatable, Sendable {
        package let name: String
        package let path: String
        package let serial: String?
    }

    package let settings: MachineSettings
    package let disks: [Disk]
    package let isTest: Bool

    /// `served`: paths of the recovered disks by name. Excluded ones are made in `emptyFolder` where they are not there yet.
    package init(_ settings: MachineSettings, served: [String: String], emptyFolder: String, isTest: Bool) throws(SystemError) {
        self.settings = settings
        self.isTest = isTest
        var disks: [Disk] = []
        for disk in settings.disks ?? [] {
            if let path = served[disk.name] {
                disks.append(Disk(name: disk.name, path: path, serial: disk.serial))
            } else if let sizeBytes = disk.excludedSizeBytes {
                let path = "\(emptyFolder)/\(disk.name).raw"
                try Self.makeEmpty(path, sizeBytes)
                disks.append(Disk(name: disk.name, path: path, serial: disk.serial))
            }
        }
        let placed = Set(disks.map(\.name))
        disks += served.filter { !placed.contains($0.key) }.sorted { $0.key < $1.key }.map { Disk(name: $0.key, path: $0.value, serial: nil) }
        self.disks = disks
    }

    private static func makeEmpty(_ path: String, _ sizeBytes: UInt64) throws(SystemError) {
        try Directory.create(Directory.parent(of: path) ?? ".", mode: 0o700)
        do throws(SystemError) {
            let file = try Descriptor.open(path, O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
            guard ftruncate(file.raw, off_t(sizeBytes)) == 0 else { throw SystemError(errno: errno, operation: "make the disk", path: path) }
        } catch where error.errno == EEXIST {
            // The machine was started before: what it wrote there is its own business.
        }
    }

    package var environment: [String: String] {
        var found = settings.names.merging(["FARSHORE_IS_TEST": isTest ? "1" : "0", "FARSHORE_DISKS": "\(disks.count)"]) { own, _ in own }
        found["FARSHORE_CPUS"] = settings.cpus.map { "\($0)" }
        found["FARSHORE_MEMORY_BYTES"] = settings.memoryBytes.map { "\($0)" }
        found["FARSHORE_FIRMWARE"] = settings.firmware?.rawValue
        for (number, disk) in disks.enumerated() {
            found["FARSHORE_DISK_\(number + 1)"] = disk.path
            found["FARSHORE_DISK_\(number + 1)_NAME"] = disk.name
            found["FARSHORE_DISK_\(number + 1)_SERIAL"] = disk.serial
        }
        let adapters = settings.adapters(isTest: isTest)
        found["FARSHORE_NICS"] = "\(adapters.count)"
        for (number, adapter) in adapters.enumerated() {
            found["FARSHORE_NIC_\(number + 1)_NETWORK"] = adapter.network
            found["FARSHORE_NIC_\(number + 1)_IP"] = adapter.address
            found["FARSHORE_NIC_\(number + 1)_MAC"] = adapter.mac
        }
        return found
    }
}

extension MachineSettings {
    /// What its commands are told of its names: here, and at the target.
    var names: [String: String] { ["FARSHORE_MACHINE": name, "FARSHORE_TARGET_NAME": targetName ?? name] }

    /// As they are in a failover or in a test, where those without a test network are left out.
    package func adapters(isTest: Bool) -> [(network: String, address: String?, mac: String?)] {
        (adapters ?? []).compactMap { adapter in
            if !isTest { return (adapter.network, adapter.address, adapter.mac) }
            return adapter.testNetwork.map { ($0, adapter.testAddress, adapter.mac) }
        }
    }

    /// What keeps the machine from being started here: empty when nothing does. Takes a second for each address.
    package func obstacles(isTest: Bool) -> [String] {
        var found: [String] = []
        if (adapters ?? []).isEmpty == false, adapters(isTest: isTest).isEmpty { found.append("none of the network adapters of \(name) has a test network") }
        for adapter in adapters(isTest: isTest) {
            guard let address = adapter.address, let holder = TakenAddress.holder(of: address) else { continue }
            found.append("the address \(address) of \(name) is taken: \(holder)")
        }
        return found
    }
}
