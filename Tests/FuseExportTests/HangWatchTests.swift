// When a worker counts as hung, sample by sample.

import FuseExport
import Testing

@Suite struct HangWatchTests {
    private let still = HangWatch.Sample(requestsInHand: 3, requestMark: 7, writtenBytes: 100, waitsForOthers: false)

    private func verdicts(_ samples: [HangWatch.Sample]) -> [HangWatch.Verdict] {
        var watch = HangWatch(limitMilliseconds: 3_000)
        return samples.map { watch.note($0) }
    }

    private func changed(_ change: (inout HangWatch.Sample) -> Void) -> HangWatch.Sample {
        var sample = still
        change(&sample)
        return sample
    }

    @Test func standingStillForTheWholeTimeIsAHang() {
        let watch = HangWatch(limitMilliseconds: 3_000)
        #expect(watch.sampleMilliseconds == 300)
        #expect(verdicts([HangWatch.Sample](repeating: still, count: 11)) == [HangWatch.Verdict](repeating: .fine, count: 10) + [.hung])
    }

    @Test(arguments: 0..<4) func anySignOfLifeBeginsTheTimeAnew(kind: Int) {
        let sign = changed { sample in
            switch kind {
            case 0: sample.requestMark = 8
            case 1: sample.writtenBytes = 101
            case 2: sample.requestsInHand = 0
            default: sample.waitsForOthers = true
            }
        }
        let samples = [HangWatch.Sample](repeating: still, count: 10) + [sign] + [HangWatch.Sample](repeating: still, count: 9)
        #expect(!verdicts(samples).contains(.hung))
    }

    @Test func aWaitForStorageIsSaidOnceAndItsEndToo() {
        let waiting = changed { $0.waitsForOthers = true }
        let moved = changed { $0.requestMark = 9 }
        let found = verdicts([HangWatch.Sample](repeating: waiting, count: 30) + [moved, moved])
        #expect(found.filter { $0 == .waits }.count == 1 && found[10] == .waits)
        #expect(found[30] == .movesAgain && found[31] == .fine && !found.contains(.hung))
    }

    @Test func anIdleWorkerIsNeverHung() {
        let idle = changed { $0.requestsInHand = 0 }
        #expect(verdicts([HangWatch.Sample](repeating: idle, count: 1_000)).allSatisfy { $0 == .fine })
    }
}
