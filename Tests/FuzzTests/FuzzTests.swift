// The short form of `make fuzz`: every committed input, and seeded changes of it, through the same targets. A finding ends the process.

import Foundation
import FuzzTargets
import Testing
import VaultFixtures

@Suite(.serialized) struct FuzzTests {
    static let corpus = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "corpus")

    static func inputs(_ target: FuzzTarget) throws -> [[UInt8]] {
        let folder = corpus.appending(path: target.rawValue)
        return try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted().map { [UInt8](try Data(contentsOf: folder.appending(path: $0))) }
    }

    @Test(arguments: FuzzTarget.allCases) func theCorpusIsReadWithoutAFinding(_ target: FuzzTarget) throws {
        let inputs = try Self.inputs(target)
        #expect(inputs.count >= 2)
        for input in inputs + (try target.seeds()) { try target.run(input) }
    }

    @Test(arguments: FuzzTarget.allCases) func seededChangesAreReadWithoutAFinding(_ target: FuzzTarget) throws {
        var numbers = SeededNumbers(seed: 20_26)
        let inputs = try Self.inputs(target) + (try target.seeds())
        let rounds = target.changesInShortForm * (Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "") ?? 1)
        for _ in 0..<rounds {
            var input = inputs.randomElement(using: &numbers) ?? []
            for _ in 0..<Int.random(in: 1...4, using: &numbers) { change(&input, &numbers) }
            try target.run(Array(input.prefix(target.inputBytesMax)))
        }
    }

    private func change(_ input: inout [UInt8], _ numbers: inout SeededNumbers) {
        let place = Int.random(in: 0...max(0, input.count - 1), using: &numbers)
        switch Int.random(in: 0..<4, using: &numbers) {
        case 0 where place < input.count: input[place] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
        case 1 where place < input.count: input.replaceSubrange(place..<min(input.count, place + 8), with: [UInt8](repeating: [0, 0x7F, 0xFF].randomElement(using: &numbers)!, count: 8))
        case 2: input.insert(contentsOf: numbers.bytes(Int.random(in: 1...16, using: &numbers)), at: min(place, input.count))
        default: input.removeSubrange(place..<min(input.count, place + Int.random(in: 1...16, using: &numbers)))
        }
    }
}

extension FuzzTarget {
    /// What takes a second or two.
    var changesInShortForm: Int {
        switch self {
        case .imageVHD, .imageVHDX, .imageQCOW2, .vaultObject, .control, .configuration: 2000
        case .log, .logFiles: 1000
        case .vault: 300
        }
    }
}
