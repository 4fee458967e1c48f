// The settings of machines in a failover or test: what stands against it, which command starts a machine, and what it is told.

import Vault

extension Failovers {
    /// Throws when a machine could not be started on this host as its settings say.
    static func refuseObstacles(_ unit: FailoverUnit, _ catalog: Catalog, isTest: Bool) throws(FailoverError) {
        for machine in Set(unit.disks.map(\.machineName)).sorted() {
            guard let obstacle = catalog.settings(ofMachine: machine)?.obstacles(isTest: isTest).first else { continue }
            throw FailoverError(.prerequisite, obstacle, remedy: "free the address; farshore machine check \(machine) --vault URL\(isTest ? " --test" : "") says when it is free")
        }
    }

    /// How long a machine's command may take: of those in its settings they say it themselves.
    static func seconds(_ settings: MachineSettings?, isGiven: Bool, else seconds: Double) -> Double {
        isGiven ? seconds : settings?.commandSeconds.map(Double.init) ?? seconds
    }

    /// What the commands of a machine are told: its disks and settings.
    static func environment(_ report: FailoverReport, _ machine: String, _ catalog: Catalog, emptyFolder: String, isTest: Bool) throws -> [String: String] {
        let served = report.disks.filter { $0.disk.machineName == machine && $0.path != nil }.map { ($0.disk.name, $0.path ?? "") }
        let start = try MachineStart(
            catalog.settings(ofMachine: machine) ?? MachineSettings(name: machine), served: Dictionary(served) { first, _ in first }, emptyFolder: emptyFolder, isTest: isTest)
        return start.environment.merging(["FARSHORE_UNIT": report.unit]) { own, _ in own }
    }
}
