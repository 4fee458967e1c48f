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
                #expect(probes <= 2 + (count > 2 ? 64 - (count - 2).leadingZeroBitCount : 0), "\(probes) probes for \(count)")
                #expect(search.probesLeft == 0)
            }
        }
        #expect(GoodPointSearch(count: 0).step == .found(newestGood: nil, oldestBad: nil))
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
