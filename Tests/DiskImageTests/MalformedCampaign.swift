// Thousands of malformed images of every format, each kind made from a seed: refused with the field named, or read equal to what
// the image held before. None traps, hangs or takes much memory. The lies of MalformedVHDTests and MalformedMappedTests are kinds
// here too, also two at a time.

import BlockIO
import DiskImage
import Foundation
import Testing

/// What is done to the bytes of an image, and what must come of it.
struct Damage {
    enum Outcome {
        /// The refusal names one of these; of several lies at once, whatever it names.
        case refused([String])
        case equal
        case refusedOrEqual
    }

    enum Step {
        case vhd(Lie)
        case mapped(FileLie)
        case cut(UInt64)
        case append([UInt8])
        /// The byte becomes another one.
        case change(ClosedRange<UInt64>)
    }

    let steps: [Step]
    let outcome: Outcome

    init(_ steps: [Step], _ outcome: Outcome) { (self.steps, self.outcome) = (steps, outcome) }
}

/// A sound image, the file of it that is damaged, and what the disk holds.
final class Specimen {
    let opened: String
    let damaged: String
    let format: ImageFormat
    let fileBytes: UInt64
    /// Kept as long as the specimen.
    var folder: TestFolder?
    private let contents: [(at: UInt64, bytes: [UInt8])]
    private let sizeBytes: UInt64
    private let pristine: Descriptor
    private let file: Descriptor

    /// `damaged`: the file of the chain that lies, where it is not the image itself. `checked`: ranges of the disk that hold data.
    init(_ opened: String, _ format: ImageFormat, damaged: String? = nil, checked: [Range<UInt64>]? = nil) throws {
        (self.opened, self.damaged, self.format) = (opened, damaged ?? opened, format)
        let image = try openImage(opened, access: .readOnly, format: format)
        sizeBytes = image.sizeBytes
        contents = try (checked ?? [0..<image.sizeBytes]).map { (at: $0.lowerBound, bytes: try image.bytes(at: $0.lowerBound, count: $0.count)) }
        try run("cp", ["--sparse=always", self.damaged, self.damaged + ".pristine"])
        pristine = try Descriptor.open(self.damaged + ".pristine", 0)
        file = try Descriptor.open(self.damaged, 2)
        fileBytes = try file.status().sizeBytes
    }

    /// Returns what has to be put back.
    func apply(_ damage: Damage, _ random: inout SeededRandom) throws -> [Range<UInt64>] {
        var touched: [Range<UInt64>] = []
        for step in damage.steps {
            switch step {
            case .vhd(let lie): touched += try lie.apply(to: file)
            case .mapped(let lie): touched += try lie.apply(to: file, format)
            case .cut(let bytes): try file.truncate(to: bytes)
            case .append(let bytes): try file.write(bytes, at: file.status().sizeBytes)
            case .change(let range):
                let place = UInt64.random(in: range, using: &random)
                try file.write([file.read(count: 1, at: place)[0] ^ UInt8.random(in: 1...255, using: &random)], at: place)
                touched.append(place..<place + 1)
            }
        }
        return touched
    }

    func restore(_ touched: [Range<UInt64>]) throws {
        let now = try file.status().sizeBytes
        if now != fileBytes { try file.truncate(to: fileBytes) }
        for range in touched where range.lowerBound < fileBytes { try copy(range.clamped(to: 0..<fileBytes)) }
        var from = min(now, fileBytes)
        while from < fileBytes, let data = try pristine.nextData(from: from) {
            from = min(try pristine.nextHole(from: data), fileBytes)
            try copy(data..<from)
        }
    }

    private func copy(_ range: Range<UInt64>) throws { try file.write(pristine.read(count: range.count, at: range.lowerBound), at: range.lowerBound) }

    /// Nil when the disk shows what it held; elsewhere it is all zeros.
    func difference(_ image: any ImageFile, _ random: inout SeededRandom) throws -> String? {
        guard image.sizeBytes == sizeBytes else { return "\(image.sizeBytes) bytes instead of \(sizeBytes)" }
        for part in contents where try image.bytes(at: part.at, count: part.bytes.count) != part.bytes { return "other data from \(part.at)" }
        for _ in 0..<4 {
            let place = UInt64.random(in: 0..<sizeBytes / 4096, using: &random) * 4096
            guard !contents.contains(where: { $0.at <= place && place < $0.at + UInt64($0.bytes.count) }) else { continue }
            if try image.bytes(at: place, count: 4096).contains(where: { $0 != 0 }) { return "data at \(place)" }
        }
        return nil
    }
}

struct MalformedKind {
    let name: String
    let specimen: Specimen
    let make: (inout SeededRandom) -> Damage
}

@Suite(.serialized) struct MalformedCampaign {
    private static let imagesWanted = 5_000, kindsWanted = 70
    private static let memoryMax = 256 << 20
    /// The largest specimens are read whole, 4 MiB at a time: a measure that sees less is blind.
    private static let memoryMin = 1 << 20
    private static let secondsMax = 10.0

    private struct Tally {
        var images = 0, refused = 0, equal = 0
        var memory = 0, peak = 0
        var seconds = 0.0
        var slowest = "", largest = ""
        var problems: [String] = []
    }

    /// "5,000 malformed images of at least 70 kinds: none crashes, hangs, takes more than 256 MiB or is accepted with wrong data".
    @Test func everyMalformedImageIsRefusedOrEqual() throws {
        let folder = try TestFolder()
        let kinds = try MalformedKinds.all(folder)
        #expect(Set(kinds.map(\.name)).count == kinds.count && kinds.count >= Self.kindsWanted)
        var tally = Tally()
        try PeakMemory.makeAllocationsSeen()
        let before = try PeakMemory().before
        let start = ContinuousClock.now
        let rounds = (Self.imagesWanted * campaignScale + kinds.count - 1) / kinds.count
        for round in 0..<rounds {
            for (number, kind) in kinds.enumerated() { try check(kind, seed: UInt64(round * 1_000 + number), &tally) }
        }
        let total = ContinuousClock.now - start
        print("malformed images: \(kinds.count) kinds, \(tally.images) images, \(tally.refused) refused, \(tally.equal) read equal, in \(total)")
        print("  at most \(tally.memory >> 10) KiB more memory for one (\(tally.largest)), \(tally.peak >> 20) MiB for the whole process; longest \(Int(tally.seconds * 1000)) ms (\(tally.slowest))")
        #expect(tally.images >= Self.imagesWanted && tally.refused > tally.images / 2 && tally.equal > tally.images / 50)
        #expect(tally.memory > Self.memoryMin, "the measure of memory is blind")
        // What one image takes, and what any of them took and kept.
        #expect(tally.peak - before < Self.memoryMax)
        #expect(tally.memory < Self.memoryMax && tally.seconds < Self.secondsMax)
        #expect(tally.problems.isEmpty, "\(tally.problems.count): \(tally.problems.prefix(20).joined(separator: "\n"))")
    }

    private func check(_ kind: MalformedKind, seed: UInt64, _ tally: inout Tally) throws {
        var random = SeededRandom(seed: seed)
        let damage = kind.make(&random)
        let touched = try kind.specimen.apply(damage, &random)
        let memory = try PeakMemory()
        let start = ContinuousClock.now
        let found = outcome(kind, &random)
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        let grown = try memory.grown()
        try kind.specimen.restore(touched)
        tally.images += 1
        if seconds > tally.seconds { (tally.seconds, tally.slowest) = (seconds, kind.name) }
        tally.peak = max(tally.peak, memory.before + grown)
        if grown > tally.memory { (tally.memory, tally.largest) = (grown, kind.name) }
        var isWanted: Bool
        switch (found, damage.outcome) {
        case (.refused(let text, let isNamed), .refused(let names)): isWanted = isNamed && (names.isEmpty || names.contains { text.contains($0) })
        case (.refused(_, let isNamed), .refusedOrEqual): isWanted = isNamed
        case (.equal, .equal), (.equal, .refusedOrEqual): isWanted = true
        default: isWanted = false
        }
        switch found {
        case .refused: tally.refused += 1
        case .equal: tally.equal += 1
        case .wrong: isWanted = false
        }
        if !isWanted { tally.problems.append("\(kind.name), seed \(seed): \(found), wanted \(damage.outcome)") }
    }

    private enum Found {
        /// `isNamed`: it says which field of which file, or what of the format is not served.
        case refused(String, isNamed: Bool)
        case equal
        case wrong(String)
    }

    private func outcome(_ kind: MalformedKind, _ random: inout SeededRandom) -> Found {
        do {
            let image = try openImage(kind.specimen.opened, access: Bool.random(using: &random) ? .readWrite : .readOnly, format: kind.specimen.format)
            return try kind.specimen.difference(image, &random).map { .wrong($0) } ?? .equal
        } catch let error as ImageError {
            let text = "\(error)"
            switch error {
            case .damaged(let damage): return .refused(text, isNamed: !damage.field.isEmpty && text.contains("at byte \(damage.offset)"))
            case .unsupported(_, let what, let remedy): return .refused(text, isNamed: !what.isEmpty && !remedy.isEmpty)
            case .brokenChain(let broken): return .refused(text, isNamed: !broken.tried.isEmpty)
            case .inUse, .system: return .wrong(text)
            }
        } catch {
            return .wrong("\(error)")
        }
    }
}

/// How far a process' memory goes above where it was.
private struct PeakMemory {
    let before: Int

    /// What other tests have freed stays resident, and what is taken from there raises no peak: it is given back, and from now on
    /// whatever is not small is mapped anew and unmapped when it is freed.
    static func makeAllocationsSeen() throws {
        // Swift's module of the C library lacks malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1.
        typealias Set = @convention(c) (Int32, Int32) -> Int32
        typealias Trim = @convention(c) (Int) -> Int32
        let set = unsafeBitCast(try #require(dlsym(nil, "mallopt")), to: Set.self)
        let trim = unsafeBitCast(try #require(dlsym(nil, "malloc_trim")), to: Trim.self)
        // A sanitizer has an allocator of its own, which refuses these: the test of the measure tells.
        _ = (set(-3, 128 << 10), set(-1, 128 << 10), trim(0))
    }

    init() throws {
        // Makes the peak what is resident now.
        try Descriptor.open("/proc/self/clear_refs", 1).write(Array("5".utf8), at: 0)
        before = try Self.resident()
    }

    func grown() throws -> Int { try Self.resident() - before }

    private static func resident() throws -> Int {
        let text = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("VmHWM") })
        return try #require(line.split(separator: " ").dropFirst().first.flatMap { Int($0) }) * 1024
    }
}
