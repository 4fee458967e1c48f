// A target with every fault there is, one at a time and three at once, under a real uploader whose clock is the test's:
// whatever happens meanwhile, what the vault lists is right, the log keeps what the vault lacks, and once the faults
// are over replication catches up, by itself or, where an administrator had to mend something, after `resume`.

import BlockIO
import ChangeLog
import Foundation
import ObjectStore
import Replication
import Site
import Testing
import Vault
import VaultFixtures

/// One disk, one uploader or many that are killed, some faults, some hours.
private final class FaultRun: @unchecked Sendable {
    // Sendable: the uploader runs on the test's own thread; its other threads reach the store only.
    private static let rounds = 4
    private static let minute: UInt64 = 60_000_000_000
    /// The longest wait of the retry schedule, and the attempt.
    private static let patience = 31 * minute

    let name: String
    private let faults: [TargetFault]
    private let memory = MemoryStore()
    private let target: FaultyTarget
    private let killable: InterruptedStore
    private let disk: ReplicatedDisk
    private let kills: Bool
    /// Each uploader is a new one that remembers nothing of the vault: only then is anything listed.
    private let forgets: Bool
    private var random: SeededRandom
    private var now: UInt64 = 0
    private var nextRound: UInt64 = 0
    private var round = 0
    private var faultsEnded: UInt64?
    /// What stood in the way until somebody resumed it.
    private var stoodStill: String?
    var wasResumed: Bool { stoodStill != nil }
    private(set) var isOver = false
    private(set) var problems: [String] = []
    private var last: UInt64 = 0
    /// The sequences of marks that were seen.
    private var marked: UInt64 = 0

    init(_ faults: [TargetFault], seed: UInt64) throws {
        self.faults = faults
        random = SeededRandom(seed)
        let needsCondition = !faults.filter { [.conditionIgnored, .conditionRefused, .conditionHitsOwn].contains($0) }.isEmpty
        let features = StoreFeatures(conditionalPut: needsCondition || seed % 4 < 2, checksumTrusted: faults.contains(.headWrongMD5) || Bool.random(using: &random))
        let forgets = faults.allSatisfy { [.listStale, .listPartial, .listGarbage, .listRefused].contains($0) }
        self.forgets = forgets
        kills = seed % 2 == 1 || forgets
        name = "\(faults.map(\.rawValue).joined(separator: "+")), seed \(seed)\(kills ? ", killed" : "")\(features.conditionalPut ? "" : ", no conditional PUT")"
        target = FaultyTarget(memory, seed: seed, features: features)
        killable = InterruptedStore(target)
        var settings = VaultSettings()
        settings.settleMilliseconds = 0
        var quick = RetryPolicy()
        (quick.triesMax, quick.firstWaitMilliseconds) = (2, 0)
        var content = [UInt8](repeating: 0, count: 3 << 20)
        for index in stride(from: 1 << 20, to: content.count, by: 8) { withUnsafeBytes(of: random.next()) { content.replaceSubrange(index..<index + 8, with: $0) } }
        disk = try ReplicatedDisk(content: content, in: RetryingStore(killable, policy: quick), settings: settings)
        if Bool.random(using: &random), try disk.upload() != nil { problems.append("the first replication failed without a fault") }
    }

    var strikes: Int { faults.reduce(0) { $0 + target.strikes(of: $1) } }

    func run() throws {
        target.set(faults)
        while !isOver {
            let stop = StopFlag()
            let clock = UploadClock(now: { self.now }, sleep: { milliseconds, stop in self.pass(milliseconds, stop) })
            if forgets { for name in try Directory.list(disk.site.headsFolder) { unlink(disk.site.headsFolder + "/" + name) } }
            DiskUploader(name: ReplicatedDisk.name, replicator: try disk.replicator(stop: stop, clock: clock), log: ReplicatedDisk.quiet).run()
        }
        try judge()
    }

    /// The uploader waits: time passes, and what is due happens.
    private func pass(_ milliseconds: Int, _ stop: StopFlag) {
        now += max(UInt64(milliseconds) * 1_000_000, Self.minute / 2)
        do {
            if try !goesOn() { stop.stop() }
        } catch {
            problems.append("\(error)")
            isOver = true
            stop.stop()
        }
    }

    /// False when this uploader ends.
    private func goesOn() throws -> Bool {
        try checkMark()
        if let faultsEnded { return try catchesUp(since: faultsEnded) }
        guard now >= nextRound else { return true }
        round += 1
        nextRound = now + Self.minute * UInt64.random(in: 1...12, using: &random)
        try disk.scribble(Int.random(in: 1...5, using: &random), using: &random)
        last = disk.points.keys.max() ?? 0
        if round > Self.rounds {
            target.set([])
            killable.interrupt(at: .max, .dies)
            faultsEnded = now
            return !kills
        }
        if Bool.random(using: &random) { try Catalogue(site: disk.site).requestAttempt(ofDisk: ReplicatedDisk.name) }
        if kills { killable.interrupt(at: Int.random(in: 1...80, using: &random), Bool.random(using: &random) ? .dies : .diesAfter) }
        return !kills
    }

    private func catchesUp(since: UInt64) throws -> Bool {
        isOver = try disk.proven.provenSequence == last && disk.proven.health == .normal
        if isOver { return false }
        guard now > since + Self.patience else { return true }
        if !wasResumed {
            stoodStill = try disk.proven.error ?? "no error"
            faultsEnded = now
            try Catalogue(site: disk.site).requestAttempt(ofDisk: ReplicatedDisk.name)
            return true
        }
        problems.append("stuck: \(try disk.proven.error ?? "no error")")
        isOver = true
        return false
    }

    // MARK: The truth

    /// Past every fault.
    private func history() throws -> DiskHistory? {
        let vault = try Vault.open(store: memory, key: disk.key, memory: HeadMemory(folder: nil), settings: disk.settings)
        return try DiskHistory.newest(vault, try vault.disk(ReplicatedDisk.name))
    }

    /// Promise F3: A local segment is let go only after the vault's copy of it was verified.
    private func checkMark() throws {
        guard let mark = try LogFolder(disk.folder + "/log").readMark(target: disk.entry(vault: try openTruth()).vaultID), mark.sequence != marked else { return }
        let found: DiskHistory?
        do { found = try history() } catch VaultError.damaged(let object, _) where object.hasPrefix("heads/") && faultsEnded == nil {
            // The target did not keep a later head as it was sent, and its writer has not put it again yet: the next look tells.
            return
        }
        marked = mark.sequence
        guard let history = found, history.newestSequence >= mark.sequence else {
            problems.append("the log may let go of all up to \(mark.sequence), which the vault lacks")
            return
        }
        if let content = disk.points[history.newestSequence], try vaultContent(history, at: history.newestSequence) != content {
            problems.append("#\(history.newestSequence) counted as replicated and is not what it was")
        }
    }

    private func openTruth() throws -> Vault { try Vault.open(store: memory, key: disk.key, memory: HeadMemory(folder: nil), settings: disk.settings) }

    private func judge() throws {
        if let stoodStill, !faults.contains(where: \.isForGood) { problems.append("it went on only after resume: \(stoodStill)") }
        guard let history = try history() else { return problems.append("the vault has nothing") }
        let listed = Set(try history.points().map(\.sequence))
        for (sequence, content) in disk.points where sequence >= history.state.oldestSequence {
            if !listed.contains(sequence) { problems.append("#\(sequence) is not listed") }
            do {
                if try vaultContent(history, at: sequence) != content { problems.append("#\(sequence) is not what it was") }
            } catch {
                problems.append("#\(sequence) does not read: \(error)")
            }
        }
        if !listed.contains(last) { problems.append("the last point is missing") }
        let check = try VaultCheck(vault: openTruth(), readData: true).run()
        if !check.isClean { problems.append("vault check: \(check.findings.map { "\($0.object): \($0.reason)" }.joined(separator: "; "))") }
    }
}

@Suite struct FaultMatrixTests {
    private static let seeds = ProcessInfo.processInfo.environment["FARSHORE_SEED"].flatMap(UInt64.init)

    private func run(_ faults: [TargetFault], _ seed: UInt64) -> (strikes: Int, wasResumed: Bool)? {
        do {
            let run = try FaultRun(faults, seed: seed)
            try run.run()
            for problem in run.problems { Issue.record("\(run.name): \(problem)") }
            return (run.strikes, run.wasResumed)
        } catch {
            Issue.record("\(faults.map(\.rawValue)), seed \(seed): \(error)")
            return nil
        }
    }

    /// Promise P2: A point is listed in a vault only when everything it needs was verified there.
    @Test func everyFaultByItself() {
        var table: [String] = []
        for (number, fault) in TargetFault.allCases.enumerated() {
            var (strikes, resumed, runs) = (0, 0, 0)
            for seed in 0..<UInt64(campaignScale) {
                guard let outcome = run([fault], Self.seeds ?? seed + UInt64(number)) else { continue }
                (strikes, resumed, runs) = (strikes + outcome.strikes, resumed + (outcome.wasResumed ? 1 : 0), runs + 1)
            }
            table.append("\(fault.rawValue): \(runs) runs, \(strikes) requests struck, \(runs - resumed) went on by itself, \(resumed) after resume")
        }
        print(table.joined(separator: "\n"))
    }

    @Test func threeAtOnce() {
        var (strikes, resumed, runs) = (0, 0, 0)
        for seed in Self.seeds.map({ $0...$0 }) ?? 100...UInt64(99 + 12 * campaignScale) {
            var numbers = SeededRandom(seed)
            let chosen = Array(TargetFault.allCases.shuffled(using: &numbers).prefix(3))
            guard let outcome = run(chosen, seed) else { continue }
            (strikes, resumed, runs) = (strikes + outcome.strikes, resumed + (outcome.wasResumed ? 1 : 0), runs + 1)
        }
        print("three at once: \(runs) runs, \(strikes) requests struck, \(runs - resumed) went on by themselves, \(resumed) after resume")
    }
}
