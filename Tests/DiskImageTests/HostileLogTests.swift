// A VHDX's log may hold hundreds of thousands of changes, and none of them may cost more than itself: what overlaps is put
// together first, and entries that lie over each other are refused before they are read.

import BlockIO
import DiskImage
import Foundation
import Testing

private func le(_ number: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: number.littleEndian) { Array($0) } }

@Suite struct HostileLogTests {
    private static let logOffset = 64 << 20, logBytes = 16 << 20
    private static let id = [UInt8](1...16)

    private enum Change {
        case zeros(at: UInt64, count: UInt64)
        case data(at: UInt64, [UInt8])
    }

    /// A disk whose table takes two MiB, with a log of 16 MiB behind everything that is not empty.
    private func image(_ folder: TestFolder, log: [UInt8]) throws -> String {
        let path = folder.file("log.vhdx")
        try OutputImage.makeEmpty(path, .vhdx, 8 << 40)
        let file = try Descriptor.open(path, 2)
        try file.truncate(to: UInt64(Self.logOffset + Self.logBytes))
        try file.write(log, at: UInt64(Self.logOffset))
        for place in [64 << 10, 128 << 10] as [UInt64] {
            var header = try file.read(count: 4096, at: place)
            header.replaceSubrange(48..<64, with: Self.id)
            header.replaceSubrange(68..<80, with: le(UInt32(Self.logBytes)) + le(UInt64(Self.logOffset)))
            header.replaceSubrange(4..<8, with: [0, 0, 0, 0])
            header.replaceSubrange(4..<8, with: le(crc32c(header)))
            try file.write(header, at: place)
        }
        return path
    }

    private func entry(_ changes: [Change], at place: Int, tail: Int, sequence: UInt64) -> [UInt8] {
        let head = (64 + 32 * changes.count + 4095) / 4096 * 4096
        var (descriptors, sectors): ([UInt8], [UInt8]) = ([], [])
        for change in changes {
            switch change {
            case .zeros(let offset, let count): descriptors += Array("zero".utf8) + le(UInt32(0)) + le(count) + le(offset) + le(sequence)
            case .data(let offset, let bytes):
                descriptors += Array("desc".utf8) + bytes[4092...] + bytes[..<8] + le(offset) + le(sequence)
                sectors += Array("data".utf8) + le(UInt32(sequence >> 32)) + bytes[8..<4092] + le(UInt32(truncatingIfNeeded: sequence))
            }
        }
        let fileBytes = UInt64(Self.logOffset + Self.logBytes)
        var header = Array("loge".utf8) + le(UInt32(0)) + le(UInt32(head + sectors.count)) + le(UInt32(tail)) + le(sequence)
        header += le(UInt32(changes.count)) + le(UInt32(0)) + Self.id + le(fileBytes) + le(fileBytes)
        var bytes = header + descriptors
        bytes += [UInt8](repeating: 0, count: head - bytes.count) + sectors
        bytes.replaceSubrange(4..<8, with: le(crc32c(bytes)))
        return bytes
    }

    /// Each zeroes the whole table, half of them with a gap between: one by one they were terabytes.
    @Test func zerosThatCoverEachOtherAreOne() throws {
        let folder = try TestFolder()
        let count = (Self.logBytes - 64) / 32
        let changes = (0..<count).map { number in
            number % 2 == 0 ? Change.zeros(at: 3 << 20, count: 2 << 20) : .zeros(at: UInt64(5 << 20) + UInt64(number % 4096) * 8192, count: 4096)
        }
        let path = try image(folder, log: entry(changes, at: 0, tail: 0, sequence: 1))
        let start = ContinuousClock.now
        let disk = try openImage(path, access: .readOnly, format: .vhdx)
        #expect(ContinuousClock.now - start < .seconds(8))
        #expect(try disk.bytes(at: 4 << 40, count: 4096).allSatisfy { $0 == 0 })
    }

    @Test func entriesThatLieOverEachOtherAreRefused() throws {
        let folder = try TestFolder()
        var log = [UInt8](repeating: 0, count: Self.logBytes)
        for place in stride(from: 0, to: log.count, by: 4096) {
            let header = Array("loge".utf8) + le(UInt32(1)) + le(UInt32(Self.logBytes)) + le(UInt32(place)) + le(UInt64(1)) + le(UInt64(0)) + Self.id
            log.replaceSubrange(place..<place + header.count, with: header)
        }
        let path = try image(folder, log: log)
        let start = ContinuousClock.now
        let error = #expect(throws: ImageError.self) { try openImage(path, access: .readOnly, format: .vhdx) }
        #expect("\(error!)".contains("log, entry lengths at byte \(Self.logOffset)"), "\(error!)")
        #expect(ContinuousClock.now - start < .seconds(2))
    }

    /// Zeros and data at random over each other: what is carried out is what one after the other would leave.
    @Test(arguments: 0..<UInt64(4 * campaignScale)) func changesPutTogetherLeaveTheSame(_ seed: UInt64) throws {
        let folder = try TestFolder()
        var random = SeededRandom(seed: seed)
        // A part of the metadata region that holds nothing.
        let (start, sectors) = (UInt64(2 << 20) + 512 << 10, 64)
        var model = [UInt8](repeating: 0, count: sectors * 4096)
        var log: [UInt8] = []
        for sequence in 1...3 as ClosedRange<UInt64> {
            var changes: [Change] = []
            for _ in 0..<Int.random(in: 1...80, using: &random) {
                let sector = Int.random(in: 0..<sectors, using: &random)
                let place = start + UInt64(sector) * 4096
                if Bool.random(using: &random) {
                    let bytes = random.bytes(4096)
                    changes.append(.data(at: place, bytes))
                    model.replaceSubrange(sector * 4096..<(sector + 1) * 4096, with: bytes)
                } else {
                    let count = Int.random(in: 0...min(5, sectors - sector), using: &random) * 4096
                    changes.append(.zeros(at: place, count: UInt64(count)))
                    model.replaceSubrange(sector * 4096..<sector * 4096 + count, with: repeatElement(0, count: count))
                }
            }
            log += entry(changes, at: log.count, tail: 0, sequence: sequence)
        }
        let path = try image(folder, log: log)
        let disk = try openImage(path, access: .readWrite, format: .vhdx)
        try disk.flush()
        #expect(try Descriptor.open(path, 0).read(count: model.count, at: start) == model)
        #expect(try inspectImage(path).vhdx?.hasLogToReplay == false)
    }
}
