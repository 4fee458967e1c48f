// Schedules run on a simulated clock: no test here waits.

import BlockIO
import ChangeLog
import DiskImage
import Glibc
import Replication
import Site
import Testing
import Vault

@Suite struct ScheduleTests {
    @Test func aChangedIntervalCountsFromTheLastAttempt() {
        var cycle = UploadCycle(intervalSeconds: 3_600, now: 0)
        let began = cycle.begin(now: 5)
        cycle.ended(.succeeded, now: 6)
        cycle.setInterval(seconds: 2)
        #expect(began && cycle.state == .due(at: 5 + 2_000_000_000))
        cycle.setInterval(seconds: 10)
        #expect(cycle.state == .due(at: 5 + 10_000_000_000))
    }

    private let second: UInt64 = 1_000_000_000

    /// Outside of the macro, which takes its values as constants.
    private func begins(_ cycle: inout UploadCycle, _ now: UInt64) -> Bool { cycle.begin(now: now) }

    @Test func waitsAreThoseOfTheContract() {
        var schedule = RetrySchedule()
        let minutes = (0..<8).map { _ in schedule.failed() / 60 }
        #expect(minutes == [1, 2, 4, 8, 10, 30, 30, 30])
        #expect(schedule.failures == 8)
        schedule.succeeded()
        let again = schedule.failed()
        #expect(again == 60)
    }

    @Test func failuresOfThisHostsStorageAreTriedAgain() {
        let (broken, full) = (SystemError(errno: EIO, operation: "read", path: "log"), SystemError(errno: ENOSPC, operation: "write", path: "log"))
        let alarms: [any Error] = [broken, LogError.system(broken), ImageError.system(broken), VaultError.memory(broken), SiteError(.refused, "the log failed", remedy: "mend it")]
        for error in alarms {
            let failure = AttemptFailure(error)
            #expect(failure.outcome == .mayPass && failure.isAlarm, "\(error)")
        }
        let warnings: [any Error] = [full, LogError.system(full), VaultError.memory(full), SiteError(.noSpace, "the catalogue is full", remedy: "make room")]
        for error in warnings {
            let failure = AttemptFailure(error)
            #expect(failure.outcome == .mayPass && !failure.isAlarm, "\(error)")
        }
    }

    /// The owner of the log recycles what the vault has; what stays missing is told each time.
    @Test func aLogThatIsRecycledMeanwhileIsTriedAgain() {
        #expect(AttemptFailure(LogError.recycled(folder: "log", after: 1, oldest: 2)).outcome == .mayPass)
        #expect(AttemptFailure(LogError.notALog(folder: "log")).outcome == .forGood)
    }

    @Test func theIntervalCountsFromTheBeginning() {
        var cycle = UploadCycle(intervalSeconds: 30, now: 0)
        #expect(begins(&cycle, 0))
        #expect(!begins(&cycle, 5 * second))
        cycle.ended(.succeeded, now: 10 * second)
        #expect(cycle.wakeAt == 30 * second)
        #expect(!begins(&cycle, 29 * second))
        #expect(begins(&cycle, 30 * second))
        // An attempt longer than the interval is followed at once.
        cycle.ended(.succeeded, now: 100 * second)
        #expect(cycle.wakeAt == 100 * second)
    }

    @Test func aLogThatFillsUpIsSentBeforeItsIntervalIsOverButNotBeforeARetry() {
        var cycle = UploadCycle(intervalSeconds: 3600, now: 0)
        #expect(begins(&cycle, 0))
        cycle.hasten(now: second)
        #expect(!begins(&cycle, second))
        cycle.ended(.succeeded, now: second)
        cycle.hasten(now: 2 * second)
        #expect(begins(&cycle, 2 * second))
        cycle.ended(.mayPass, now: 3 * second)
        cycle.hasten(now: 4 * second)
        #expect(!begins(&cycle, 4 * second))
    }

    @Test func failuresThatMayPassAreRetriedByTheSchedule() {
        var cycle = UploadCycle(intervalSeconds: 30, now: 0)
        var now: UInt64 = 0
        var waits: [UInt64] = []
        for _ in 0..<7 {
            #expect(begins(&cycle, now))
            cycle.ended(.mayPass, now: now)
            waits.append((cycle.wakeAt! - now) / second / 60)
            #expect(!begins(&cycle, cycle.wakeAt! - 1))
            now = cycle.wakeAt!
        }
        #expect(waits == [1, 2, 4, 8, 10, 30, 30])
        #expect(begins(&cycle, now))
        cycle.ended(.succeeded, now: now)
        #expect(cycle.retry.failures == 0)
        #expect(cycle.wakeAt == now + 30 * second)
    }

    @Test func failuresForGoodWaitForTheAdministrator() {
        var cycle = UploadCycle(intervalSeconds: 30, now: 0)
        #expect(begins(&cycle, 0))
        cycle.ended(.forGood, now: second)
        #expect(cycle.wakeAt == nil)
        #expect(!begins(&cycle, UInt64.max))
        cycle.resume(now: 50 * second)
        #expect(begins(&cycle, 50 * second))
    }

    @Test func aFencedUploaderIsNotResumed() {
        var cycle = UploadCycle(intervalSeconds: 30, now: 0)
        #expect(begins(&cycle, 0))
        cycle.ended(.fenced, now: second)
        cycle.resume(now: 2 * second)
        #expect(!begins(&cycle, UInt64.max))
        #expect(cycle.state == .fenced)
    }

    @Test func anEndWithoutABeginningChangesNothing() {
        var cycle = UploadCycle(intervalSeconds: 30, now: 7)
        cycle.ended(.forGood, now: 8)
        #expect(cycle.state == .due(at: 7))
    }

    /// Once a thread that had taken its time before another came after it, and the difference trapped.
    @Test func aGateLetsThreadsThroughAtTheSameTime() throws {
        let gate = ProgressGate()
        let threads = try (0..<4).map { number in
            try OwnThread(name: "gate") { for _ in 0..<200_000 { _ = gate.opens(isLast: number % 2 == 0) } }
        }
        for thread in threads { thread.join() }
        #expect(gate.opens(isLast: true))
    }

    @Test func anObjectIsAsLargeAsTheTargetTakesInSeconds() {
        let fast = UploadPace()
        for _ in 0..<10 { fast.note(payloadBytes: UInt64(fast.segmentPayloadBytesMax), nanoseconds: 100_000_000) }
        #expect(fast.segmentPayloadBytesMax == 16 << 20 && fast.publicationPayloadBytesMax == 64 << 20)
        // 1 Mbit/s.
        for _ in 0..<3 { fast.note(payloadBytes: UInt64(fast.segmentPayloadBytesMax), nanoseconds: UInt64(fast.segmentPayloadBytesMax) * 8_000) }
        #expect(fast.segmentPayloadBytesMax == Int(UploadPace.secondsWanted) * 125_000)
        fast.note(payloadBytes: 1, nanoseconds: .max)
        #expect(fast.segmentPayloadBytesMax == UploadPace.payloadBytesMin)
        fast.note(payloadBytes: .max, nanoseconds: 0)
        #expect(fast.segmentPayloadBytesMax == 2 * UploadPace.payloadBytesMin)
    }
}

@Suite struct LogFillTests {
    @Test func aLogThatHoldsMoreThanAResynchronisationWouldSendIsGivenUp() {
        let gib: UInt64 = 1 << 30
        func isBeyond(_ bytes: UInt64, _ percent: Int, of diskBytes: UInt64) -> Bool { LogFill(unreplicatedBytes: bytes, budgetBytes: 100 * gib).isBeyond(percent: percent, ofDiskBytes: diskBytes) }
        #expect(isBeyond(5 * gib, 50, of: 10 * gib) && !isBeyond(5 * gib - (1 << 21), 50, of: 10 * gib))
        #expect(isBeyond(gib, 10, of: 10 * gib) && !isBeyond(100 * gib, 0, of: gib))
        // Of a small disk it is no less.
        #expect(!isBeyond(200 << 20, 50, of: 100 << 20) && isBeyond(256 << 20, 50, of: 100 << 20))
        #expect(LogFill(unreplicatedBytes: 87, budgetBytes: 100).pressure == .full && LogFill(unreplicatedBytes: 49, budgetBytes: 100).pressure == .low)
    }
}
