// `engine-simulation --seeds FIRST-LAST | --seed N`: runs the disk engine (change log, virtual disk, image) on a simulated
// machine and compares it with a model. A failing seed is printed; run alone it prints its trace. Not installed.

import Glibc
import SimulatedSystem

nonisolated(unsafe) private var currentSeed: UInt64 = 0

/// A run that cannot go on.
func abandonRun(_ reason: String) -> Never {
    simulated_end()
    print("seed \(currentSeed): \(reason)")
    fflush(nil)
    exit(1)
}

@main
struct Simulation {
    static let stepsMax: UInt64 = 3_000_000

    static func main() {
        // The order of sets and dictionaries would follow addresses.
        if getenv("SWIFT_DETERMINISTIC_HASHING") == nil {
            setenv("SWIFT_DETERMINISTIC_HASHING", "1", 1)
            var arguments = CommandLine.arguments.map { strdup($0) } + [nil]
            execv("/proc/self/exe", &arguments)
            abandonRun("cannot start again: errno \(errno)")
        }
        let arguments = Array(CommandLine.arguments.dropFirst())
        if arguments.count == 2, arguments[0] == "--seed", let seed = UInt64(arguments[1]) {
            exit(run(seed, isTracing: true).isRight ? 0 : 1)
        }
        let bounds = arguments.count == 2 && arguments[0] == "--seeds" ? arguments[1].split(separator: "-").compactMap { UInt64($0) } : []
        guard bounds.count == 2, bounds[0] <= bounds[1] else {
            print("usage: engine-simulation --seeds FIRST-LAST | --seed N")
            exit(2)
        }
        runAll(bounds[0]...bounds[1])
    }

    private static func runAll(_ seeds: ClosedRange<UInt64>) {
        var total = World.Counts()
        var failed = 0
        let start = time(nil)
        for seed in seeds {
            let result = run(seed, isTracing: false)
            if !result.isRight { failed += 1 }
            // A seed that fails must fail again: some are run twice.
            if seed % 16 == 0, run(seed, isTracing: false).hash != result.hash {
                print("seed \(seed): two runs differ")
                failed += 1
            }
            total.add(result.counts)
        }
        print("""
            seeds \(seeds.lowerBound)-\(seeds.upperBound): \(failed) failed; \(total.requests) writes, \(total.reads) reads, \(total.points) points, \
            \(total.kills) kills, \(total.powerLosses) power losses, \(total.cleanStops) stops, \(total.faults) faults, \(total.merges) merged intervals, \(time(nil) - start) s
            """)
        exit(failed == 0 ? 0 : 1)
    }

    private static func run(_ seed: UInt64, isTracing: Bool) -> (isRight: Bool, hash: UInt64, counts: World.Counts) {
        currentSeed = seed
        storage = Storage()
        storage.isTracing = isTracing
        simulated_begin(seed, [1, 2, 4, 8, 40][Int(seed % 5)], stepsMax)
        let world = World()
        var failure: (any Error)?
        do { try world.run() } catch { failure = error }
        let hash = simulated_hash()
        simulated_end()
        if let failure { print("seed \(seed): \(failure)"); fflush(nil) }
        if isTracing { print("seed \(seed): trace \(String(hash, radix: 16))") }
        return (failure == nil, hash, world.counts)
    }
}

extension World.Counts {
    mutating func add(_ other: World.Counts) {
        requests += other.requests
        reads += other.reads
        points += other.points
        kills += other.kills
        powerLosses += other.powerLosses
        cleanStops += other.cleanStops
        faults += other.faults
        merges += other.merges
    }
}
