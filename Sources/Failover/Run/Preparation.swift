// `failover prepare`, on the active host: guests are stopped, the mount gives the disks up, all that was ever acknowledged is sent, and the
// vault is told up to where that is. From then on a planned failover loses nothing, or is refused.

import BlockIO
import ChangeLog
import Glibc
package import Site
import Vault

package struct PreparationActions: Sendable {
    /// Cuts one last point over the disks, which nobody serves, and makes it durable: the last sequence there is of each.
    package let cutLast: @Sendable ([ProtectedDisk]) throws -> UInt64
    /// Makes the uploader send what is there, or does it itself where none runs; called until all is proven.
    package let send: @Sendable () throws -> Void

    package init(cutLast: @escaping @Sendable ([ProtectedDisk]) throws -> UInt64, send: @escaping @Sendable () throws -> Void) {
        self.cutLast = cutLast
        self.send = send
    }
}

extension Failovers {
    /// Repeatable; `failover cancel` takes it back. `waitSeconds`: how long the vault may take to get the rest.
    package func prepare(
        _ unitName: String, stopCommand: String?, commandSeconds: Double, waitSeconds: UInt64, _ source: PreparationActions
    ) throws -> LifeCycleStanding {
        let (standing, lock) = try alone(unitName)
        defer { withExtendedLifetime(lock) {} }
        let unit = standing.unit
        try unit.refusePart()
        try standing.check(.prepare)
        let disks = try ownDisks(unit)
        var run = VaultID.random().description
        if let known = try openRecord(.preparation, of: unit) { run = known.run } else {
            try catalogue.begin(FailoverRecord(
                run: run, kind: .preparation, name: unitName, unit: unitName, group: unit.group.description, vaultURL: disks[0].vaultURL,
                vaultID: vault.id.description, keyFile: disks[0].keyFile, passphraseFile: disks[0].passphraseFile, point: "latest", isPlanned: true, folder: ""))
        }
        return try catalogue.asJob(.failoverPreparation, unitName, steps: ["stop", "hold", "send", "publish"]) { job in
            try job.step("stop") {
                if let stopCommand {
                    var environment = ["FARSHORE_UNIT": unitName]
                    if unit.machines.count == 1 { environment.merge(names(ofMachine: unit.machines[0], standing)) { own, _ in own } }
                    return try Self.command(stopCommand, "stop", environment: environment, seconds: commandSeconds)
                }
                return try stopMachines(standing, seconds: commandSeconds)
            }
            var last: UInt64 = 0
            try job.step("hold") {
                last = try hold(disks, standing, source)
                return "acknowledged up to #\(last)"
            }
            try job.step("send") { try wait(until: last, disks, waitSeconds, source) }
            try job.step("publish") {
                try requireHeld(disks, run, unitName)
                try publishPrepared(unit, last)
                return nil
            }
            try catalogue.record(.information, disk: nil, "\(unitName) is shut down for a planned failover; the vault has everything up to #\(last)")
            return try heads.standing(of: unitName)
        }
    }

    /// What a stop command is told of them. One script that starts and stops finds the machine under the name it runs by on this host: at home its own.
    private func names(ofMachine machine: String, _ standing: LifeCycleStanding) -> [String: String] {
        let settings = standing.catalog.settings(ofMachine: machine) ?? MachineSettings(name: machine)
        let isSource = standing.unit.disks.contains { heads.protects($0.id) }
        let isHome = standing.lifeCycle.map { $0.home == heads.host.id || ($0.home == LifeCycle.unknownHost && isSource) } ?? true
        return isHome ? MachineSettings(name: machine).names : settings.names
    }

    /// By the stop commands of their settings, one after another: nil where none has one.
    private func stopMachines(_ standing: LifeCycleStanding, seconds: Double) throws -> String? {
        var said: [String] = []
        for machine in Set(standing.unit.disks.map(\.machineName)).sorted() {
            guard let settings = standing.catalog.settings(ofMachine: machine), let stop = settings.stop else { continue }
            let environment = names(ofMachine: machine, standing).merging(["FARSHORE_UNIT": standing.unit.name]) { own, _ in own }
            said.append(try Self.command(stop, "stop", environment: environment, seconds: Self.seconds(settings, isGiven: false, else: seconds)))
        }
        return said.isEmpty ? nil : said.joined(separator: "; ")
    }

    private func ownDisks(_ unit: FailoverUnit) throws -> [ProtectedDisk] {
        // Not uploaded once, it is in no catalog: it would stay behind, and nobody would say so.
        for group in try catalogue.consistencyGroups() where group.disks.contains(where: { own in unit.disks.contains { $0.id.description == own.id } }) {
            guard let left = group.disks.first(where: { own in !unit.disks.contains { $0.id.description == own.id } }) else { continue }
            throw FailoverError(
                .prerequisite, "\(left.name) shares recovery points with \(unit.name) on this site, but the vault does not have it in \(unit.name) yet, so it would stay behind",
                remedy: "farshore upload here, then the same command again; or farshore unprotect \(left.name)")
        }
        // At the target that is to be failed over to; others send what they can meanwhile.
        let all = try catalogue.disksAtTargets().filter { $0.vaultID == vault.id.description }
        return try unit.disks.map { disk in
            guard let own = all.first(where: { $0.id == disk.id.description }) else {
                throw FailoverError(.prerequisite, "this site does not replicate \(disk.name) to that vault, which is in \(unit.name)", remedy: "farshore unprotect DISK where it was, or run this on its host")
            }
            guard !own.isPaused else { throw FailoverError(.prerequisite, "the upload of \(own.name) is paused", remedy: "farshore resume \(own.name)") }
            return own
        }
    }

    /// Held first, so that no mount that starts meanwhile serves them; released, no write can be acknowledged any more. Then the last point:
    /// its sequence is above all that was ever acknowledged on any of them.
    private func hold(_ disks: [ProtectedDisk], _ standing: LifeCycleStanding, _ source: PreparationActions) throws -> UInt64 {
        let reason = "it was shut down for a failover; farshore failover cancel \(standing.unit.name) takes that back"
        // Another host may take over a prepared unit at any time: guests begin on none of its disks again before that is taken back.
        try holdAll(disks, reason: reason, staysHeld: standing.state == .prepared)
        return try source.cutLast(disks)
    }

    /// The mount serves them no more, now and after its next start. Where that, or `check` after it, throws, those that were not held before
    /// are let go again, unless `staysHeld`.
    func holdAll(_ disks: [ProtectedDisk], reason: String, staysHeld: Bool = false, _ check: ([ProtectedDisk]) throws -> Void = { _ in }) throws {
        let before = try disks.map { try catalogue.disk(named: $0.name).held }
        for disk in disks { try catalogue.hold(disk: disk.name, reason: reason) }
        do {
            for disk in disks { try actions.release(disk.name) }
            try check(disks)
        } catch {
            guard !staysHeld else { throw error }
            // Somebody uses one of them: all go on as they were.
            for (disk, held) in zip(disks, before) where held != nil { try catalogue.hold(disk: disk.name, reason: held) }
            try letGo(zip(disks, before).filter { $0.1 == nil }.map(\.0))
            throw error
        }
    }

    /// A mount that is just starting, or whose worker is just being replaced, answers no release, and may have looked whether a disk is held
    /// before it was: it has taken the disk's locks before that look.
    func requireUnowned(_ disks: [ProtectedDisk]) throws {
        for disk in disks {
            let folder = LogFolder(disk.logFolder)
            guard access(folder.path, F_OK) == 0 else { continue }
            do { _ = try waitingForUploader(of: catalogue.site) { try OwnerLock.acquire(folder) } } catch LogError.inUse {
                throw FailoverError(
                    .inUse, "another process of this host has \(disk.name) open: a mount that is just starting would serve it to guests here, beside those on the other host",
                    remedy: "when the mount answers (farshore status), or is ended (farshore unmount DIR), the same command again")
            }
        }
    }

    private func letGo(_ disks: [ProtectedDisk]) throws {
        for disk in disks {
            try catalogue.hold(disk: disk.name, reason: nil)
            _ = try actions.serve(disk.name)
        }
    }

    private func wait(until last: UInt64, _ disks: [ProtectedDisk], _ seconds: UInt64, _ source: PreparationActions) throws -> String? {
        let deadline = Clock.monotonicNanoseconds() + seconds * 1_000_000_000
        // One that waits because an attempt failed is tried again.
        for disk in disks { try catalogue.requestAttempt(ofDisk: disk.name) }
        while true {
            try source.send()
            let states = try disks.map { (disk: $0, state: try catalogue.replication(ofDisk: $0.name, at: $0.vaultID)) }
            guard let behind = states.first(where: { $0.state.provenSequence ?? 0 < last }) else { return nil }
            guard Clock.monotonicNanoseconds() < deadline else {
                throw FailoverError(
                    .prerequisite, "the vault has \(behind.disk.name) up to #\(behind.state.provenSequence ?? 0) only, not up to #\(last)" + (behind.state.error.map { ": \($0)" } ?? ""),
                    remedy: "\(behind.state.remedy ?? "farshore status \(behind.disk.name)"), then the same command again; farshore failover cancel UNIT takes it back")
            }
            usleep(500_000)
        }
    }

    /// Served again, guests may have written above the last point already.
    private func requireHeld(_ disks: [ProtectedDisk], _ run: String, _ unit: String) throws {
        let isOpen = try catalogue.openFailovers(.preparation).contains { $0.run == run }
        guard isOpen, try disks.allSatisfy({ try catalogue.disk(named: $0.name).held != nil }) else {
            throw FailoverError(.prerequisite, "the preparation of \(unit) was taken back meanwhile", remedy: "farshore failover prepare \(unit) once more")
        }
    }

    /// What the vault proves, not what was sent.
    private func publishPrepared(_ unit: FailoverUnit, _ last: UInt64) throws {
        try heads.publish(.prepare, unit, claiming: false) { (head: inout Head, lifeCycle: inout LifeCycle?) throws(VaultError) in
            var points: [LifeCycle.Point] = []
            for disk in unit.disks {
                guard let current = head.state(of: disk.id)?.current, current.sequence == last else {
                    throw .refused("the vault does not have \(disk.name) up to #\(last)")
                }
                points.append(LifeCycle.Point(disk: disk.id, lineage: current.id, sequence: last))
            }
            lifeCycle?.state = .prepared
            lifeCycle?.points = points
        }
    }

    /// The mount may serve them again.
    func undo(_ preparation: FailoverRecord) throws {
        let unit = try FailoverUnit(preparation.unit, in: try vault.catalog().document)
        let ids = unit.disks.map(\.id.description)
        try letGo(try catalogue.disks().filter { $0.held != nil && ids.contains($0.id) })
        try catalogue.end(failover: preparation.run, note: "cancelled")
    }
}
