// How a machine is started elsewhere and brought to a rest for a point: `machines` of the catalog (docs/formats/vault.md section 7),
// and, as the same JSON, the catalogue of the site that protects it. Read by hosts that know nothing else of the machine, so every
// field is checked before it is used.

package struct MachineSettings: Codable, Equatable, Sendable {
    package enum Firmware: String, Codable, Sendable { case bios, uefi }

    package struct Adapter: Codable, Equatable, Sendable {
        package var network: String
        /// The network of a test failover; nil: the adapter is left out there.
        package var testNetwork: String?
        /// IPv4 or IPv6; nil: DHCP.
        package var address: String?
        package var testAddress: String?
        package var mac: String?

        package init(network: String, testNetwork: String? = nil, address: String? = nil, testAddress: String? = nil, mac: String? = nil) {
            self.network = network
            self.testNetwork = testNetwork
            self.address = address
            self.testAddress = testAddress
            self.mac = mac
        }
    }

    /// A disk of the machine, in its place among the others.
    package struct Disk: Codable, Equatable, Sendable {
        package var name: String
        package var serial: String?
        /// Of a disk that is not replicated: it comes up empty, with this size.
        package var excludedSizeBytes: UInt64?

        package init(name: String, serial: String? = nil, excludedSizeBytes: UInt64? = nil) {
            self.name = name
            self.serial = serial
            self.excludedSizeBytes = excludedSizeBytes
        }
    }

    /// How the machine is brought to a rest: by the guest agent, by scripts, or by both, the scripts around it.
    package struct Freeze: Codable, Equatable, Sendable {
        /// The socket of the QEMU guest agent.
        package var agent: String?
        package var before: String?
        package var after: String?
        /// Run when the agent does not thaw the machine in time.
        package var rescue: String?
        /// The machine runs on after that many seconds at the latest.
        package var seconds: Int

        package init(agent: String? = nil, before: String? = nil, after: String? = nil, rescue: String? = nil, seconds: Int = Self.secondsDefault) {
            self.agent = agent
            self.before = before
            self.after = after
            self.rescue = rescue
            self.seconds = seconds
        }

        package static let secondsDefault = 10
        package static let secondsRange = 2...120
    }

    package static let adaptersMax = 8
    package static let disksMax = 256
    package static let commandBytesMax = 4_096
    package static let commandSecondsDefault = 300
    package static let commandSecondsRange = 1...86_400

    package let name: String
    /// The machine's name at the target; nil: as here.
    package var targetName: String?
    package var cpus: Int?
    package var memoryBytes: UInt64?
    package var firmware: Firmware?
    /// The first is the default one.
    package var adapters: [Adapter]?
    /// Those that are not named follow, by name.
    package var disks: [Disk]?
    package var start: String?
    package var stop: String?
    package var check: String?
    /// How long each of the three may take.
    package var commandSeconds: Int?
    package var freeze: Freeze?

    package init(name: String) { self.name = name }

    package var excluded: [Disk] { (disks ?? []).filter { $0.excludedSizeBytes != nil } }

    /// Why nobody may use them.
    package var flaw: String? {
        if !Catalog.isValidName(name) { return "\(name.debugDescription) cannot be a machine's name" }
        if let targetName, !Catalog.isValidName(targetName) { return "\(targetName.debugDescription) cannot be a machine's name at the target" }
        if let cpus, !(1...1_024).contains(cpus) { return "\(cpus) processors" }
        if let memoryBytes, !(1 << 20...1 << 46).contains(memoryBytes) { return "\(memoryBytes) bytes of memory" }
        if let flaw = adaptersFlaw ?? disksFlaw { return flaw }
        for command in [start, stop, check, freeze?.before, freeze?.after, freeze?.rescue].compactMap({ $0 }) where !Self.isText(command, bytesMax: Self.commandBytesMax) || command.isEmpty {
            return "a command that is empty, longer than \(Self.commandBytesMax) bytes or has control characters"
        }
        if let commandSeconds, !Self.commandSecondsRange.contains(commandSeconds) { return "commands that may take \(commandSeconds) s; 1 s to 1 d are allowed" }
        guard let freeze else { return nil }
        if !Freeze.secondsRange.contains(freeze.seconds) { return "a machine at rest for \(freeze.seconds) s; 2 to 120 s are allowed" }
        if freeze.agent == nil, freeze.before == nil { return "a freeze with neither agent nor script" }
        if let agent = freeze.agent, !agent.hasPrefix("/") || !Self.isText(agent, bytesMax: 4_096) { return "\(agent.debugDescription) as the agent's socket; it begins with /" }
        return nil
    }

    private var adaptersFlaw: String? {
        let adapters = adapters ?? []
        if adapters.count > Self.adaptersMax { return "\(adapters.count) network adapters; at most \(Self.adaptersMax) are allowed" }
        for adapter in adapters {
            for network in [adapter.network, adapter.testNetwork].compactMap({ $0 }) where network.isEmpty || !Self.isText(network, bytesMax: 64) || network.contains(" ") {
                return "\(network.debugDescription) as a network"
            }
            for address in [adapter.address, adapter.testAddress].compactMap({ $0 }) where !IPAddress.isValid(address) { return "\(address.debugDescription) as an IP address" }
            if let mac = adapter.mac, !Self.isMAC(mac) { return "\(mac.debugDescription) as a MAC address" }
        }
        return nil
    }

    private var disksFlaw: String? {
        let disks = disks ?? []
        if disks.count > Self.disksMax { return "\(disks.count) disks; at most \(Self.disksMax) are allowed" }
        if Set(disks.map(\.name)).count != disks.count { return "a disk that is named twice" }
        for disk in disks {
            if !Catalog.isValidName(disk.name) { return "\(disk.name.debugDescription) as a disk" }
            if let serial = disk.serial, !Self.isText(serial, bytesMax: 64) || serial.isEmpty || serial.contains(where: { ", =".contains($0) }) { return "\(serial.debugDescription) as a serial number" }
            if let size = disk.excludedSizeBytes, size == 0 || size % 512 != 0 || size > FormatLimits.diskBytesMax { return "a disk of \(size) bytes" }
        }
        return nil
    }

    private static func isText(_ text: String, bytesMax: Int) -> Bool {
        text.utf8.count <= bytesMax && text.unicodeScalars.allSatisfy { $0.value >= 32 && $0.value != 127 }
    }

    private static func isMAC(_ text: String) -> Bool {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        return parts.count == 6 && parts.allSatisfy { $0.count == 2 && UInt8($0, radix: 16) != nil }
    }
}
