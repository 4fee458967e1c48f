// The whole disk engine on a simulated machine (Tests/Simulation), by seeds: threads, storage, faults, kills, power losses and
// clocks follow the seed, so a seed that fails fails again. FARSHORE_SEED=N runs one and prints its trace.

import Foundation
import Testing

@Suite struct SimulationTests {
    /// Linked beside the tests; a process of its own, because it replaces the system calls.
    private func simulate(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        let process = Process()
        process.executableURL = folder.appendingPathComponent("engine-simulation")
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let bytes = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: bytes, as: UTF8.self))
    }

    // Promise D4: After a power loss the disk holds a prefix of its writes in sequence order, and at least every
    // durable one.
    @Test func everySeedKeepsThePromises() throws {
        let environment = ProcessInfo.processInfo.environment
        let scale = environment["FARSHORE_CAMPAIGN_SCALE"].flatMap { Int($0) } ?? 1
        let arguments = environment["FARSHORE_SEED"].map { ["--seed", $0] } ?? ["--seeds", "1-\(500 * scale)"]
        let (status, output) = try simulate(arguments)
        print(output)
        #expect(status == 0, "a seed failed: run it alone with FARSHORE_SEED to see its trace")
    }

    /// Found by the long form: a file that was emptied and could not be removed was used again; and the model had forgotten what a slow read may still find.
    @Test(arguments: [855, 2087, 3322, 19469]) func aSeedThatFailedPasses(_ seed: Int) throws {
        let (status, output) = try simulate(["--seed", "\(seed)"])
        #expect(status == 0, "\(output.suffix(1000))")
    }

    /// Not only one hash: every line of the trace, from two processes.
    @Test func aSeedRepeatsExactly() throws {
        for seed in [3, 5, 11] {
            let (first, second) = (try simulate(["--seed", "\(seed)"]), try simulate(["--seed", "\(seed)"]))
            #expect(first.output.contains("trace") && first.output.count > 1000)
            #expect(first.output == second.output, "seed \(seed) does not repeat")
        }
    }
}
