// Which points stay, over random histories: whatever the rules and the clock, the newest stays, nothing that a rule asks
// for goes, and going through the points in steps ends where one look does.

import Testing
import Vault
import VaultFixtures

@Suite struct ThinningTests {
    private let hour: UInt64 = 3_600_000_000
    private let usual = Thinning(rules: [.init(periodSeconds: 0, spanSeconds: 7_200), .init(periodSeconds: 3_600, spanSeconds: 86_400), .init(periodSeconds: 86_400, spanSeconds: 15 * 86_400)])

    private func points(every seconds: UInt64, days: UInt64) -> [Thinning.Candidate] {
        (0..<days * 86_400 / seconds).map { Thinning.Candidate(sequence: $0 + 1, elapsedMicros: ($0 + 1) * seconds * 1_000_000) }
    }

    @Test func eachStretchOfTimeKeepsItsFirstPoint() {
        let points = points(every: 300, days: 40)
        let newest = points.last!.elapsedMicros
        let kept = usual.kept(points, newestMicros: newest)
        let ages = points.filter { kept.contains($0.sequence) }.map { newest - $0.elapsedMicros }
        #expect(ages.filter { $0 <= 2 * hour }.count == 25)
        #expect(ages.filter { $0 > 2 * hour && $0 <= 24 * hour }.count == 22)
        #expect((14...15).contains(ages.filter { $0 > 25 * hour }.count))
        #expect(ages.max()! <= 16 * 24 * hour)
    }

    /// Rules whose periods divide one another: looked at after every few points, or only at the end.
    @Test(arguments: 1...20) func stepsEndWhereOneLookDoes(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        var (sequence, time): (UInt64, UInt64) = (0, 1_700_000_000_000_000)
        var (all, left): ([Thinning.Candidate], [Thinning.Candidate]) = ([], [])
        for _ in 0..<2_000 {
            sequence += UInt64.random(in: 1...9, using: &numbers)
            time += UInt64.random(in: 1...1_800_000_000, using: &numbers)
            all.append(Thinning.Candidate(sequence: sequence, elapsedMicros: time))
            left.append(all.last!)
            if Int.random(in: 0..<7, using: &numbers) == 0 {
                let kept = usual.kept(left, newestMicros: time)
                left = left.filter { kept.contains($0.sequence) }
            }
        }
        #expect(usual.kept(left, newestMicros: time) == usual.kept(all, newestMicros: time), "seed \(seed)")
    }

    @Test(arguments: 1...200) func noRuleIsBroken(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        let rules = (0..<Int.random(in: 1...4, using: &numbers)).map { _ in
            let period = [0, 60, 900, 3_600, 86_400].randomElement(using: &numbers)!
            return Thinning.Rule(periodSeconds: UInt64(period), spanSeconds: UInt64(period + Int.random(in: 1...1_000_000, using: &numbers)))
        }
        var time: UInt64 = 1_000_000_000
        let points = (1...300).map { sequence -> Thinning.Candidate in
            time += UInt64.random(in: 0...20_000_000_000, using: &numbers)
            return Thinning.Candidate(sequence: UInt64(sequence), elapsedMicros: time)
        }
        let thinning = Thinning(rules: rules)
        let kept = thinning.kept(points, newestMicros: time)
        #expect(kept.contains(300))
        for rule in rules {
            for point in points where point.elapsedMicros + rule.spanMicros >= time {
                let isKept = rule.periodMicros == 0 ? kept.contains(point.sequence)
                    : points.contains { kept.contains($0.sequence) && $0.elapsedMicros / rule.periodMicros == point.elapsedMicros / rule.periodMicros }
                #expect(isKept, "seed \(seed): \(rule) and point \(point)")
            }
        }
        // Thinning what is thinned out changes nothing.
        let left = points.filter { kept.contains($0.sequence) }
        #expect(thinning.kept(left, newestMicros: time) == kept)
    }

    /// A clock that goes back, or forward by years, makes nothing older than the points' own course.
    @Test(arguments: 1...50) func clocksThatJumpMakeNothingOld(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        var (wall, steady): (Int64, UInt64) = (1_700_000_000_000_000, 0)
        var time: RetentionTime?
        var before: UInt64 = 0
        for _ in 0..<500 {
            if Int.random(in: 0..<20, using: &numbers) == 0 { wall += Int64.random(in: -3...3, using: &numbers) * 365 * 86_400_000_000 }
            wall = max(wall, 0)
            time?.advance(to: UInt64(wall))
            let now = time ?? RetentionTime(timeMicros: UInt64(wall))
            time = now
            #expect(now.elapsedMicros >= before && now.elapsedMicros - (before == 0 ? now.elapsedMicros : before) <= RetentionTime.stepMicrosMax, "seed \(seed)")
            before = now.elapsedMicros
            let step = UInt64.random(in: 0...600_000_000, using: &numbers)
            (wall, steady) = (wall + Int64(step), steady + step)
        }
    }
}
