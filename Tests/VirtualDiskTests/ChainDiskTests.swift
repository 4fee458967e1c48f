// A protected differencing disk: destage writes into the leaf, the disk shows the whole chain, and what happens to a parent is seen.

import BlockIO
import ChangeLog
import DiskImage
import Foundation
import Testing
import VirtualDisk

@Suite struct ChainDiskTests {
    private final class Chain {
        let root: String
        var base: String { root + "/base.vhd" }
        var leaf: String { root + "/leaf.vhd" }
        private(set) var model: [UInt8] = []

        init() throws {
            root = try TestDisk.makeFolder()
            try python(["make", base, root + "/base.raw", "--size", "\(6 << 20)", "--filled", "0.7", "--block", "524288"])
            try python(["child", leaf, root + "/leaf.raw", "--parent", base, "--id", String(repeating: "77", count: 16), "--block", "1048576"])
            model = try [UInt8](Data(contentsOf: URL(filePath: root + "/leaf.raw")))
        }

        deinit { try? FileManager.default.removeItem(atPath: root) }

        /// Another file has the parent's name, with the parent's unique id and size.
        func replaceParent() throws {
            try FileManager.default.moveItem(atPath: base, toPath: root + "/away.vhd")
            try FileManager.default.copyItem(atPath: root + "/away.vhd", toPath: base)
        }

        func bringParentBack() throws { try #require(rename(root + "/away.vhd", base) == 0) }

        func open() throws -> any ImageFile { try openImage(leaf, access: .readWrite, format: .vhdDifferencing) }

        func readByPython() throws -> [UInt8] {
            try python(["read", leaf, root + "/back.raw"])
            return try [UInt8](Data(contentsOf: URL(filePath: root + "/back.raw")))
        }

        private func python(_ arguments: [String]) throws {
            let tool = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "tools/vhd.py").path
            let process = Process()
            process.executableURL = URL(filePath: "/usr/bin/env")
            process.arguments = ["python3", tool] + arguments
            try process.run()
            process.waitUntilExit()
            try #require(process.terminationStatus == 0)
        }
    }

    private func write(_ disk: VirtualDisk, _ model: inout [UInt8], _ count: Int, _ random: inout Seeded) throws {
        for _ in 0..<count {
            let offset = random.below(model.count / 512) * 512
            let length = min((random.below(64) + 1) * 512, model.count - offset)
            if random.chance(1, in: 6) {
                try disk.zero(at: UInt64(offset), length: UInt64(length), mayFree: true, sequenceSlot: nil)
                model.replaceSubrange(offset..<offset + length, with: repeatElement(0, count: length))
            } else {
                let bytes = [UInt8](repeating: UInt8(random.below(255) + 1), count: length)
                try disk.put(bytes, at: offset)
                model.replaceSubrange(offset..<offset + length, with: bytes)
            }
        }
    }

    // Promise C4: The disk of a differencing image is what its whole chain shows, written in the image itself only.
    @Test func writesGoIntoTheLeaf() throws {
        let chain = try Chain()
        let before = try Data(contentsOf: URL(filePath: chain.base))
        var (model, random) = (chain.model, Seeded(11))
        let test = try TestDisk(try chain.open())
        defer { test.remove() }
        #expect(try test.contents() == model)
        for round in 0..<6 {
            try write(test.disk, &model, 40, &random)
            #expect(try test.contents() == model)
            if round == 2 {
                test.disk.abandon()
                test.image = try chain.open()
                try test.open()
            }
            if round == 4 {
                _ = try test.disk.freeze()
                #expect(try openImage(chain.leaf, access: .readOnly).allOfIt() == model, "the frozen image is the disk of that moment")
                try write(test.disk, &model, 20, &random)
                try test.disk.unfreeze()
            }
            try test.disk.mergeAll()
            #expect(try test.contents() == model)
        }
        try test.disk.close()
        #expect(try chain.readByPython() == model)
        #expect(try Data(contentsOf: URL(filePath: chain.base)) == before)
    }

    /// After a clean stop; and while the disk is open.
    @Test func aParentThatChangedOrWentIsSeen() throws {
        let chain = try Chain()
        let test = try TestDisk(try chain.open())
        defer { test.remove() }
        #expect(test.disk.status.health == .normal)
        #expect(rename(chain.base, chain.root + "/away.vhd") == 0)
        #expect(test.disk.status.health == .critical && test.disk.status.trouble == .parentLost && test.disk.status.reason.contains("base.vhd"))
        #expect(try test.contents() == chain.model)
        try FileManager.default.copyItem(atPath: chain.root + "/away.vhd", toPath: chain.base)
        #expect(test.disk.status.trouble == .parentLost, "another file of that name is not the one that is read")
        try chain.bringParentBack()
        #expect(test.disk.status.health == .normal)
        try test.disk.close()
        // A rename and another mode change no content and not the time of modification.
        chmod(chain.base, 0o400)
        test.image = try chain.open()
        try test.open()
        try test.disk.close()
        usleep(20_000)
        try Descriptor.open(chain.base, O_RDWR).write([1], at: 600_000)
        test.image = try chain.open()
        let error = #expect(throws: DiskError.self) { try test.open() }
        #expect("\(error!)".contains("leaf.vhd, or a parent that it is read through (") && "\(error!)".contains("base.vhd), was changed"))
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
    }

    // Promise C5: A changed parent is noticed by the next mount, also after a kill: the disk is refused until the administrator accepts it.
    @Test func aParentChangedAfterAKillIsSeen() throws {
        let chain = try Chain()
        let test = try TestDisk(try chain.open())
        defer { test.remove() }
        func again(parentsAreHeld: Bool = false) throws {
            test.image = try chain.open()
            try test.open(parentsAreHeld: parentsAreHeld)
            test.disk.abandon()
        }
        test.disk.abandon()
        chmod(chain.base, 0o400)
        try again()
        usleep(20_000)
        try Descriptor.open(chain.base, O_RDWR).write([1], at: 600_000)
        try again(parentsAreHeld: true)
        for _ in 0..<2 {
            let error = #expect(throws: DiskError.self, "what the mount had open is not what is there after it") { try again() }
            #expect("\(error!)".contains("a parent that ") && "\(error!)".contains("base.vhd) was changed"))
        }
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
        usleep(20_000)
        try Descriptor.open(chain.base, O_RDWR).write([2], at: 600_000)
        try test.disk.close()
        test.image = try chain.open()
        #expect(throws: DiskError.self, "what a stop recorded is what it found, not what was served") { try test.open() }
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
    }

    /// Who asks for a freeze reads the whole chain by its names; who merges to the end leaves the disk to them.
    @Test func nothingIsFrozenOrMergedOverAReplacedParent() throws {
        let chain = try Chain()
        let test = try TestDisk(try chain.open())
        defer { test.remove() }
        func refuses(_ call: () throws -> Void) {
            let error = #expect(throws: DiskError.self) { try call() }
            #expect(error.map { "\($0)".contains("base.vhd was removed or replaced") } == true)
        }
        try chain.replaceParent()
        refuses { _ = try test.disk.freeze() }
        refuses { try test.disk.mergeAll() }
        try FileManager.default.removeItem(atPath: chain.base)
        refuses { _ = try test.disk.freeze() }
        try chain.bringParentBack()
        let frozen = try test.disk.freeze()
        try chain.replaceParent()
        refuses { _ = try test.disk.freeze() }
        #expect(test.disk.frozenSequence == frozen, "a question that was refused ended the freeze")
        try chain.bringParentBack()
        #expect(try test.disk.freeze() == frozen)
        try test.disk.unfreeze()
    }

    /// To open one waits for its other end.
    @Test func aPipeInTheParentsPlaceHoldsUpNoStop() throws {
        let chain = try Chain()
        let test = try TestDisk(try chain.open())
        defer { test.remove() }
        #expect(rename(chain.base, chain.root + "/away.vhd") == 0 && mkfifo(chain.base, 0o600) == 0)
        #expect(throws: SystemError.self) { _ = try ImageIdentity(of: chain.base) }
        let error = #expect(throws: DiskError.self) { try test.disk.close() }
        #expect(error.map { "\($0)".contains("base.vhd), was removed or replaced") } == true)
        try chain.bringParentBack()
        test.image = try chain.open()
        #expect(throws: DiskError.self, "who put it back has to say so") { try test.open() }
        try VirtualDisk.acceptImage(test.image, folder: test.folder, lock: OwnerLock.acquire(test.folder))
        try test.open()
    }
}

extension ImageFile {
    fileprivate func allOfIt() throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(sizeBytes))
        try bytes.withUnsafeMutableBytes { try read(into: $0, at: 0) }
        return bytes
    }
}
