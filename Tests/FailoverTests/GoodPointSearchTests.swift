// A bisection finds the border between good and bad, with few probes, and goes on from what was probed before.

import Failover
import Testing

@Suite struct GoodPointSearchTests {
    @Test func theBorderIsFoundWhereverItIs() {
        for count in [1, 2, 3, 4, 7, 8, 9, 64, 100, 1_000] {
            for good in stride(from: 0, through: count, by: max(1, count / 37)) {
                var search = GoodPointSearch(count: count)
                var probes = 0
                while case .probe(let point) = search.step {
                    #expect(search.probesLeft > 0)
                    search.note(point, isGood: point < good)
                    probes += 1
                }
                #expect(search.step == .found(newestGood: good > 0 ? good - 1 : nil, oldestBad: good < count ? good : nil) || (good == 0 && search.step == .found(newestGood: nil, oldestBad: 0)))
                let spread = good == 0 ? min(GoodPointSearch.spreadMax, max(count - 2, 0)) : 0
                #expect(probes <= 2 + spread + (count > 2 ? 64 - (count - 2).leadingZeroBitCount : 0), "\(probes) probes for \(count)")
                #expect(search.probesLeft == 0)
            }
        }
        #expect(GoodPointSearch(count: 0).step == .found(newestGood: nil, oldestBad: nil))
    }

    /// A disk that was not in use yet at the oldest points: good ones lie between two bad ends.
    @Test func theOldestPointsNeedNotBeGood() {
        for (count, good) in [(3, 1..<2), (8, 1..<5), (100, 40..<90), (1_000, 3..<100), (1_000, 900..<999), (10_000, 9_500..<9_999)] {
            var search = GoodPointSearch(count: count)
            var probes: [Int] = []
            while case .probe(let point) = search.step {
                let left = search.probesLeft
                probes.append(point)
                search.note(point, isGood: good.contains(point))
                #expect(search.probesLeft < left, "\(search.probesLeft) after \(left)")
            }
            #expect(search.step == .found(newestGood: good.upperBound - 1, oldestBad: good.upperBound), "\(count), \(good)")
            #expect(probes.count == Set(probes).count && probes.count <= 2 + GoodPointSearch.spreadMax + 14 && probes.prefix(2) == [count - 1, 0])
        }
        // Few good ones among many may be missed; that is no endless search.
        var search = GoodPointSearch(count: 100_000)
        while case .probe(let point) = search.step { search.note(point, isGood: false) }
        #expect(search.step == .found(newestGood: nil, oldestBad: 0) && search.probedCount == 2 + GoodPointSearch.spreadMax && search.probesLeft == 0)
        // One that is known to be good from before is where it begins.
        search = GoodPointSearch(count: 100_000)
        search.note(70_001, isGood: true)
        var probes = 0
        while case .probe(let point) = search.step {
            search.note(point, isGood: point == 70_001)
            probes += 1
        }
        #expect(search.step == .found(newestGood: 70_001, oldestBad: 70_002) && probes < 20)
    }

    /// Interrupted after any probe: another one with the same notes asks for the next only.
    @Test func whatWasProbedIsNotProbedAgain() {
        var notes: [(Int, Bool)] = []
        while true {
            var search = GoodPointSearch(count: 300)
            for (point, isGood) in notes { search.note(point, isGood: isGood) }
            guard case .probe(let point) = search.step else {
                #expect(search.step == .found(newestGood: 122, oldestBad: 123))
                break
            }
            #expect(!notes.contains { $0.0 == point })
            notes.append((point, point < 123))
        }
    }
}
