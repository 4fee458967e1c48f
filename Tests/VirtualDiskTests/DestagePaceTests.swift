// When destage works: the state machine alone, without a disk.

import Testing
import VirtualDisk

@Suite struct DestagePaceTests {
    private static let budget: UInt64 = 8 << 30
    private static let second: UInt64 = 1_000_000_000

    private func load(_ pending: UInt64, traffic: UInt64 = 0, isAwaited: Bool = false) -> DestagePace.Load {
        DestagePace.Load(pendingBytes: pending, budgetBytes: Self.budget, trafficBytes: traffic, isAwaited: isAwaited)
    }

    /// A pace that has seen a guest write `bytes` within a second.
    private func pace(afterWriting bytes: UInt64) -> DestagePace {
        var pace = DestagePace(trafficBytes: 0, now: 0)
        pace.note(load(0, traffic: bytes), now: Self.second)
        return pace
    }

    @Test func anIdleGuestLeavesTheDiskToDestage() {
        let pace = pace(afterWriting: 1 << 20)
        #expect(pace.mayBegin(load(1)))
        #expect(pace.restNanoseconds(load(1), worked: 1000) == 0)
    }

    @Test func aBusyGuestPutsDestageOffUpToTheLowMark() {
        let pace = pace(afterWriting: 100 << 20)
        #expect(!pace.mayBegin(load(DestagePace.lowMarkBytesMax - 1)))
        #expect(pace.mayBegin(load(DestagePace.lowMarkBytesMax)))
        #expect(pace.windowBytes(load(DestagePace.lowMarkBytesMax)) < self.pace(afterWriting: 0).windowBytes(load(0)))
    }

    @Test func theLessRoomTheShorterTheRest() {
        let pace = pace(afterWriting: 100 << 20)
        let rests = stride(from: DestagePace.lowMarkBytesMax, through: Self.budget, by: 1 << 28).map { pace.restNanoseconds(load($0), worked: 1000) }
        #expect(rests.first == 3000 && rests.last == 0)
        #expect(zip(rests, rests.dropFirst()).allSatisfy { $0 >= $1 })
    }

    @Test func whoWaitsForDestageIsNotKeptWaiting() {
        let pace = pace(afterWriting: 100 << 20)
        #expect(pace.mayBegin(load(1, isAwaited: true)))
        #expect(pace.restNanoseconds(load(1, isAwaited: true), worked: 1000) == 0)
    }

    @Test func theGuestIsMeasuredOverAWhile() {
        var pace = pace(afterWriting: 100 << 20)
        // Too soon after the last look to say anything.
        pace.note(load(0, traffic: 100 << 20), now: Self.second + 1)
        #expect(!pace.mayBegin(load(1)))
        pace.note(load(0, traffic: 100 << 20), now: 2 * Self.second)
        #expect(pace.mayBegin(load(1)))
    }

    @Test func aSmallLogHasASmallLowMark() {
        let pace = pace(afterWriting: 100 << 20)
        let small = DestagePace.Load(pendingBytes: 32 << 20, budgetBytes: 96 << 20, trafficBytes: 0, isAwaited: false)
        #expect(pace.mayBegin(small))
    }
}
