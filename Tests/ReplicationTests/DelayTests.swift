// What is recoverable and what is not, error by error; and when lag and missed cycles are a warning. On simulated clocks.

import BlockIO
import DiskImage
import Foundation
import ObjectStore
import Replication
import Site
import Synchronization
import Testing
import Vault

@Suite struct DelayTests {
    // MARK: Recoverable or not (C3)

    /// A new code has to be put in one of the two.
    private func mayPass(_ code: StoreError.Code) -> Bool {
        switch code {
        case .unreachable, .timedOut, .heldBack, .throttled, .serverFault, .notEnoughSpace, .corruptResponse: true
        // A directory whose filesystem is not mounted yet looks the same.
        case .bucketMissing: true
        case .notFound, .alreadyExists, .outOfRange, .credentialsRefused, .credentialsExpired, .accessDenied, .clockSkew, .untrusted, .redirected, .badLocation, .unsupported: false
        }
    }

    private func expected(_ error: VaultError) -> (outcome: UploadCycle.Outcome, isAlarm: Bool) {
        switch error {
        case .wrongKey, .noKeyFile, .unsupportedVersion, .incomplete, .alreadyExists, .notFound, .refused: (.forGood, true)
        // As the target shows it now; somebody has to look all the same.
        case .unknownKey, .damaged, .missing, .notKept, .rolledBack, .noVault: (.mayPass, true)
        case .fenced: (.fenced, true)
        case .conflict: (.mayPass, false)
        case .store(let error): mayPass(error.code) ? (.mayPass, false) : (.forGood, true)
        case .memory(let error): error.errno == EIO ? (.mayPass, true) : error.errno == ENOSPC ? (.mayPass, false) : (.forGood, true)
        }
    }

    @Test func everyErrorOfATargetIsRetriedOrNot() {
        for code in StoreError.Code.allCases {
            let error = StoreError(code, "\(code)", try: "do it")
            for failure in [AttemptFailure(error), AttemptFailure(VaultError.store(error))] {
                #expect(failure.outcome == (mayPass(code) ? .mayPass : .forGood), "\(code)")
                #expect(failure.isAlarm == !mayPass(code), "\(code)")
                // What waits for nobody says what ends its wait.
                #expect(failure.remedy == (mayPass(code) ? "do it" : "do it, then farshore resume DISK"), "\(code)")
            }
        }
    }

    @Test func everyErrorOfAVaultIsRetriedOrNot() {
        let all: [VaultError] = [
            .wrongKey("x"), .unknownKey(object: "o", generation: 2), .damaged(object: "o", reason: "r"), .missing(object: "o"), .notKept(object: "o", reason: "r"), .fenced("x"),
            .conflict(chain: "c"), .rolledBack("x"), .unsupportedVersion(object: "o", found: "9"), .noVault("x"), .incomplete("x"), .alreadyExists("x"), .notFound("x"), .noKeyFile(path: "p"),
            .refused("x"), .store(StoreError(.throttled, "x", try: "y")), .memory(SystemError(errno: EIO, operation: "read", path: "p")),
            .memory(SystemError(errno: ENOSPC, operation: "write", path: "p")), .memory(SystemError(errno: EACCES, operation: "write", path: "p")),
        ]
        for error in all {
            let failure = AttemptFailure(error)
            #expect((failure.outcome, failure.isAlarm) == expected(error), "\(error)")
            #expect(!failure.remedy.isEmpty, "\(error)")
            if case .memory = error { #expect(failure.remedy.contains("farshore resume") == (failure.outcome == .forGood), "\(error)") }
        }
    }

    /// An image or a parent that is brought back is not for the uploader to see.
    @Test func everyErrorOfAnImageIsRetriedAndToldOf() {
        let damage = ImageDamage(path: "i", field: "f", offset: 0, found: "1", expected: "2", meaning: "m")
        for error in [ImageError.damaged(damage), .unsupported(path: "i", what: "w", remedy: "r"), .inUse(path: "i")] {
            let failure = AttemptFailure(error)
            #expect(failure.outcome == .mayPass && failure.isAlarm == (error != .inUse(path: "i")) && !failure.remedy.isEmpty, "\(error)")
        }
    }

    // MARK: Lag

    private let second: UInt64 = 1_000_000_000
    /// Long after 1970.
    private let wall: UInt64 = 1_800_000_000_000_000_000

    /// Outside of the macro, which takes its values as constants. Seconds; `written` is the oldest write by the clock then.
    private func look(_ watch: inout LagWatch, _ now: Int, written: Int?, clock: Int = 0) -> LagWatch.Change? {
        let at = { (seconds: Int) in UInt64(Int(self.wall) + seconds * Int(self.second)) }
        return watch.look(oldestWallNanoseconds: written.map(at), now: UInt64(now) * second, wallNanoseconds: at(now + clock), lateSeconds: 100, intervalSeconds: 30)
    }

    @Test func lagIsAWarningFromTheThresholdOnAndNotOverAtOnce() {
        var watch = LagWatch()
        watch.succeeded(begunAt: 800 * second)
        #expect(look(&watch, 1_000, written: 900) == nil)
        #expect(look(&watch, 1_001, written: 900) == .raised(lagSeconds: 101))
        #expect(look(&watch, 1_030, written: 900) == nil)
        // Between two publications all is there; that is not over yet.
        #expect(look(&watch, 1_031, written: nil) == nil)
        #expect(look(&watch, 1_060, written: 1_059) == nil)
        // 85 % is not below 80 %: counted anew.
        #expect(look(&watch, 1_080, written: 995) == nil)
        #expect(look(&watch, 1_085, written: 1_080) == nil)
        #expect(look(&watch, 1_144, written: 1_080) == nil)
        #expect(look(&watch, 1_145, written: 1_080) == .over)
        #expect(!watch.isRaised)
        #expect(look(&watch, 1_300, written: 1_080) == .raised(lagSeconds: 220))
    }

    private let year = 365 * 86_400

    @Test func aClockThatIsSetRaisesNothingAndHidesNothing() {
        for jump in [30 * year, -30 * year] {
            var watch = LagWatch()
            watch.succeeded(begunAt: 1_000 * second)
            #expect(look(&watch, 1_010, written: 1_005) == nil)
            // Set by years: the write is not older than the last success.
            #expect(look(&watch, 1_020, written: 1_005, clock: jump) == nil)
            // And it is that old, though by the clock it was written in years to come.
            #expect(look(&watch, 1_101, written: 1_005, clock: jump) == .raised(lagSeconds: 101))
            watch.succeeded(begunAt: 1_105 * second)
            #expect(look(&watch, 1_110, written: 1_108 + jump, clock: jump) == nil)
            #expect(look(&watch, 1_170, written: 1_165 + jump, clock: jump) == .over)
            #expect(look(&watch, 1_270, written: 1_168 + jump, clock: jump) == .raised(lagSeconds: 102))
        }
    }

    @Test func anUploaderThatJustBeganKnowsNothingOfTheClockBefore() {
        // Written a second ago; then the clock was set by 30 years, and then the uploader began.
        var watch = LagWatch()
        #expect(look(&watch, 1_000, written: 999, clock: 30 * year) == nil)
        #expect(look(&watch, 1_100, written: 999, clock: 30 * year) == nil)
        #expect(look(&watch, 1_101, written: 999, clock: 30 * year) == .raised(lagSeconds: Double(30 * year + 102)))
        // One that goes on where the vault was behind already says so again.
        watch = LagWatch(wasRaised: true)
        #expect(look(&watch, 1_000, written: 899) == .raised(lagSeconds: 101))
        // One that catches up at once has nothing to say, whatever the time of the write.
        watch = LagWatch()
        #expect(look(&watch, 1_000, written: 0) == nil)
        watch.succeeded(begunAt: 1_001 * second)
        #expect(look(&watch, 1_002, written: 0) == nil)
    }

    // MARK: A running uploader

    /// Hours of its clock are seconds here: the target is away, then back.
    @Test func aRunningUploaderWarnsAndSaysWhenItIsOver() throws {
        let disk = try ReplicatedDisk(content: [UInt8](repeating: 5, count: 1 << 20))
        let catalogue = try Catalogue(site: disk.site)
        _ = try catalogue.changePolicy(named: "default", PolicyChange(intervalSeconds: 30, rpoSeconds: 100))
        #expect(try disk.upload() == nil)
        let passed = Atomic<UInt64>(0)
        let clock = UploadClock(
            now: { passed.load(ordering: .relaxed) },
            sleep: { milliseconds, _ in
                passed.add(UInt64(milliseconds) * 1_000_000, ordering: .relaxed)
                usleep(100)
            })
        let stop = StopFlag()
        let service = UploadService(replicator: try disk.replicator(stop: stop, clock: clock), log: ReplicatedDisk.quiet)
        let thread = try OwnThread(name: "service") { do { try service.run() } catch { Issue.record(error) } }
        defer {
            stop.stop()
            thread.join()
        }
        func waits(for kinds: [StandingWarning.Kind]) throws -> Bool {
            let deadline = Date.now.addingTimeInterval(60)
            while try catalogue.warnings(ofDisk: ReplicatedDisk.name).map(\.kind) != kinds {
                guard Date.now < deadline else { return false }
                usleep(20_000)
            }
            return true
        }
        disk.store.failPuts { _, _ in unreachable }
        try disk.write([1, 2, 3], at: 4_096)
        #expect(try waits(for: [.lag, .missedCycles]))
        disk.store.failPuts(nil)
        #expect(try waits(for: []))
        let events = try catalogue.events(limit: 100)
        for (severity, text) in [
            (SiteEvent.Severity.warning, "more than the 100s of the policy default"), (.information, "no more than 100s behind again"),
            (.warning, "upload intervals were missed"), (.information, "upload intervals are kept again"),
        ] {
            #expect(events.count { $0.severity == severity && $0.text.contains(text) } == 1, "\(text): \(events.map(\.text))")
        }
    }

    // MARK: Missed cycles

    private func look(_ cycles: inout MissedCycles, _ now: Int) -> MissedCycles.Change? { cycles.look(now: UInt64(now) * second) }

    @Test func aFifthOfTheLastHoursCyclesMissedIsAWarning() {
        var cycles = MissedCycles(intervalSeconds: 30, now: 0)
        // A cycle in four is missed from the start; nothing is said of the first ten minutes.
        for number in 0..<120 {
            if number % 4 != 3 { cycles.succeeded(begunAt: UInt64(number * 30 + 1) * second) }
            let change = look(&cycles, (number + 1) * 30)
            #expect(change == (number == 19 ? .raised(missed: 5, of: 20) : nil), "cycle \(number)")
        }
        #expect(cycles.isRaised)
        // Kept from now on: over when of the last 120 fewer than 12 are missing.
        var over: Int?
        for number in 120..<240 {
            cycles.succeeded(begunAt: UInt64(number * 30 + 1) * second)
            if look(&cycles, (number + 1) * 30) == .over { over = number }
        }
        #expect(over == 195)
        #expect(look(&cycles, 240 * 30) == nil)
    }

    @Test func afterTwentyPercentAndNotBefore() {
        var cycles = MissedCycles(intervalSeconds: 30, now: 0)
        for number in 0..<120 where number % 5 != 4 { cycles.succeeded(begunAt: UInt64(number * 30) * second) }
        #expect(look(&cycles, 3_600) == nil)
        // One more, while an attempt hangs.
        #expect(look(&cycles, 3_630) == .raised(missed: 25, of: 120))
    }

    @Test func longIntervalsAreJudgedByFive() {
        var cycles = MissedCycles(intervalSeconds: 3_600, now: 0)
        cycles.succeeded(begunAt: 0)
        #expect(look(&cycles, 4 * 3_600) == nil)
        #expect(look(&cycles, 5 * 3_600) == .raised(missed: 4, of: 5))
    }
}
