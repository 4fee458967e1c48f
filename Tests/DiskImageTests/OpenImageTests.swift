// Which format a file is taken for, who may open it, and what tells that it was changed.

import BlockIO
import DiskImage
import Foundation
import Synchronization
import Testing

@Suite struct OpenImageTests {
    @Test func probingTellsTheFormats() throws {
        let folder = try TestFolder()
        for format in OutputFormat.allCases {
            try OutputImage.makeEmpty(folder.file(format.rawValue), format, 1 << 20)
            #expect(try inspectImage(folder.file(format.rawValue)).format == format.imageFormat)
        }
        for (name, magic) in [("qcow", [0x51, 0x46, 0x49, 0xFB]), ("VHDX", Array("vhdxfile".utf8)), ("QED", Array("QED\0".utf8)), ("VMDK", Array("KDMV".utf8))] as [(String, [UInt8])] {
            let path = try folder.write(name, magic + [UInt8](repeating: 0, count: 4096 - magic.count))
            let error = #expect(throws: ImageError.self) { try openImage(path, access: .readOnly) }
            #expect("\(error!)".contains(name))
            #expect(try openImage(path, access: .readOnly, format: .raw).sizeBytes == 4096)
        }
    }

    /// In the same words whoever asks, and at once: nobody is at the FIFO's other end.
    @Test func whatHoldsNoImageIsRefused() throws {
        let folder = try TestFolder()
        let fifo = folder.file("fifo")
        #expect(mkfifo(fifo, 0o600) == 0)
        for path in [fifo, folder.path, "/dev/null"] {
            let refusal = ImageError.unsupported(path: path, what: "neither a file nor a block device", remedy: "name the image file itself")
            #expect(throws: refusal) { try openImage(path, access: .readOnly) }
            #expect(throws: refusal) { try inspectImage(path) }
            #expect(throws: refusal) { try checkImage(path) }
            #expect(throws: refusal) { try ImageLock.isHeldByWriter(path) }
            #expect(throws: refusal) { _ = try ImageLock.take(path, for: .exclusive) }
        }
    }

    /// A guest of a raw or fixed disk that writes VHD structures must not change what its disk is taken for unasked.
    @Test func contradictionsAreAskedAbout() throws {
        let folder = try TestFolder()
        let dynamic = try MalformedVHDTests.soundDynamic()
        let fixedFooter = VHDFooter.fixed(sizeBytes: UInt64(dynamic.count), uniqueID: [1], timeStamp: 1)
        let fixedHoldingDynamic = try folder.write("fixed", dynamic + fixedFooter)
        let rawEndingAsDynamic = try folder.write("raw", [UInt8](repeating: 0, count: 8192) + dynamic.prefix(512))
        for path in [fixedHoldingDynamic, rawEndingAsDynamic] {
            let error = #expect(throws: ImageError.self) { try openImage(path, access: .readWrite) }
            #expect("\(error!)".contains("cannot be told"))
        }
        #expect(try openImage(fixedHoldingDynamic, access: .readOnly, format: .vhdFixed).allBytes() == dynamic)
        #expect(try openImage(rawEndingAsDynamic, access: .readOnly, format: .raw).sizeBytes == 8704)
    }

    @Test func aRawFileThatEndsInsideASectorIsReadPaddedAndNotWritten() throws {
        let folder = try TestFolder()
        let path = try folder.write("odd.raw", [UInt8](repeating: 3, count: 1000))
        #expect(try openImage(path, access: .readOnly).allBytes() == [UInt8](repeating: 3, count: 1000) + [UInt8](repeating: 0, count: 24))
        #expect(throws: ImageError.self) { try openImage(path, access: .readWrite) }
        #expect(throws: ImageError.self) { try openImage(folder.write("empty", []), access: .readOnly) }
        #expect(throws: ImageError.self) { try openImage(folder.path, access: .readOnly) }
        #expect(throws: ImageError.self) { try openImage(folder.file("missing"), access: .readOnly) }
    }

    @Test func aFileThatShrankIsAnErrorAndNotZeros() throws {
        let folder = try TestFolder()
        for format in OutputFormat.allCases {
            let path = folder.file(format.rawValue)
            try OutputImage.makeEmpty(path, format, 4 << 20)
            let image = try openImage(path, access: .readWrite)
            try image.put([UInt8](repeating: 1, count: 4 << 20), at: 0)
            try image.flush()
            try Descriptor.open(path, 2).truncate(to: 1 << 20)
            #expect(throws: SystemError.self) { try image.allBytes() }
        }
    }

    @Test func aSavedMachinesDiskIsNotWritten() throws {
        let folder = try TestFolder()
        var bytes = [UInt8](repeating: 0, count: 4096) + VHDFooter.fixed(sizeBytes: 4096, uniqueID: [1], timeStamp: 1)
        bytes[4096 + 84] = 1
        bytes[4096 + 67] -= 1
        let path = try folder.write("saved.vhd", bytes)
        #expect(try openImage(path, access: .readOnly).sizeBytes == 4096)
        #expect(throws: ImageError.self) { try openImage(path, access: .readWrite) }
    }

    /// A dynamic image says it in two places, and whoever saves the machine's state may write but one.
    @Test func aSavedMachinesDynamicDiskIsNotWritten() throws {
        let folder = try TestFolder()
        let path = try folder.write("saved.vhd", MalformedVHDTests.soundDynamic())
        #expect(try inspectImage(path).vhd?.savedState == false)
        let saved = Lie(.footer, 84, [1], ""), running = Lie(.footer, 84, [0], ""), both = Lie(.both, 84, [1], "")
        for (name, lies) in [("at the end", [saved]), ("in the copy", [both, running]), ("in both", [both])] {
            for lie in lies { try lie.apply(to: Descriptor.open(path, 2)) }
            let error = #expect(throws: ImageError.self, "\(name)") { try openImage(path, access: .readWrite) }
            guard case .unsupported(_, let what, _) = error else { Issue.record("\(name): \(String(describing: error))"); continue }
            #expect(what.contains("saved virtual machine"), "\(name): \(what)")
            #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 4) == [1, 2, 3, 4] && inspectImage(path).vhd?.savedState == true)
            #expect(try checkImage(path).remarks.contains { $0.contains("saved virtual machine") })
            try Lie(.both, 84, [0], "").apply(to: Descriptor.open(path, 2))
        }
        // Behind a torn footer only the copy counts.
        try saved.apply(to: Descriptor.open(path, 2))
        let end = try Descriptor.open(path, 0).status().sizeBytes - 512
        try Descriptor.open(path, 2).write([0xEE], at: end + 200)
        #expect(try openImage(path, access: .readWrite).sizeBytes == 64 << 20)
    }

    @Test func identityChangesWithTheImage() throws {
        let folder = try TestFolder()
        let path = try folder.write("i.raw", [UInt8](repeating: 0, count: 8192))
        let before = try ImageIdentity(of: path)
        #expect(try ImageIdentity(of: path) == before)
        usleep(20_000)
        try Descriptor.open(path, 2).write([1], at: 0)
        #expect(try ImageIdentity(of: path) != before)
        #expect(ImageIdentity(evidence: before.evidence, sizeBytes: before.sizeBytes, stamp: before.stamp) == before)
    }
}

@Suite struct ProbingTests {
    /// Of Virtual PC before 2004. Taken for a raw disk it would show its footer to the guest.
    @Test func aFooterOf511BytesIsToldAndNotServed() throws {
        let folder = try TestFolder()
        let data = [UInt8](repeating: 7, count: 8192)
        let short = Array(VHDFooter.fixed(sizeBytes: 8192, uniqueID: [1], timeStamp: 1).dropLast())
        for name in ["old.vhd", "old"] {
            let path = try folder.write(name, data + short)
            for opening in [{ _ = try openImage(path, access: .readOnly) }, { _ = try inspectImage(path) }, { _ = try openImage(path, access: .readWrite, format: .vhdFixed) }] as [() throws -> Void] {
                let error = #expect(throws: ImageError.self, performing: opening)
                guard case .unsupported(_, let what, let remedy) = error else { Issue.record("told as \(String(describing: error))"); continue }
                #expect(what.contains("footer has 511 bytes") && remedy.contains("truncate -s +1"), "\(what): \(remedy)")
            }
            // As the refusal says.
            let copy = folder.file("copy.vhd")
            try run("cp", [path, copy])
            try run("truncate", ["-s", "+1", copy])
            #expect(try openImage(copy, access: .readWrite).allBytes() == data && inspectImage(copy).format == .vhdFixed)
        }
        // Damaged it is no raw disk either, and the field is named.
        var damaged = short
        damaged[100] = 1
        let error = #expect(throws: ImageError.self) { try openImage(folder.write("damaged", data + damaged), access: .readOnly) }
        #expect("\(error!)".contains("footer, checksum at byte \(8192 + 64)"), "\(error!)")
        // What only says the word is no footer: a raw disk ends with a whole sector.
        #expect(try inspectImage(folder.write("guest", data + [0] + short)).format == .raw)
    }

    /// A guest has written a differencing VHD into its raw disk, whose parent is a file of the host.
    @Test func aParentIsNotFollowedFromAFileThatWasOnlyProbed() throws {
        let chain = TestChain(try TestFolder())
        try chain.base("secret.vhd", size: 1 << 20)
        try chain.child("guest.raw")
        let path = chain.leaf.path
        for opening in [{ _ = try openImage(path, access: .readOnly) }, { _ = try inspectImage(path) }, { _ = try checkImage(path) }] as [() throws -> Void] {
            let error = #expect(throws: ImageError.self, performing: opening)
            guard case .unsupported(path, let what, let remedy) = error else { Issue.record("\(String(describing: error))"); continue }
            #expect(what.contains("looks like a differencing VHD") && remedy.contains("--from"))
        }
        #expect(try openImage(path, access: .readOnly, format: .raw).sizeBytes % 512 == 0)
        #expect(try openImage(path, access: .readOnly, format: .vhdDifferencing).allBytes() == chain.model())
        for name in ["child.AVHD", "child.vhd"] {
            try FileManager.default.copyItem(atPath: path, toPath: chain.folder.file(name))
            #expect(try openImage(chain.folder.file(name), access: .readOnly).allBytes() == chain.model())
        }
    }
}

@Suite struct PromisingNameTests {
    private func expectPromise(_ path: String, _ format: String) throws {
        for opening in [{ _ = try openImage(path, access: .readWrite) }, { _ = try inspectImage(path) }, { _ = try checkImage(path) }] as [() throws -> Void] {
            let error = #expect(throws: ImageError.self, "\(path)", performing: opening)
            guard case .unsupported(path, let what, let remedy) = error else { Issue.record("\(path): \(String(describing: error))"); continue }
            #expect(what.contains("its name promises a \(format)") && remedy.contains("--from raw"), "\(what): \(remedy)")
        }
        #expect(try openImage(path, access: .readOnly, format: .raw).sizeBytes % 512 == 0)
    }

    /// Served raw, their tables would be the disk.
    @Test func aWreckedImageIsNoRawDisk() throws {
        let folder = try TestFolder()
        let nothing = [UInt8](repeating: 0, count: 512)
        let dynamic = try MalformedVHDTests.soundDynamic()
        try expectPromise(folder.write("both footers gone.vhd", nothing + dynamic.dropFirst(512).dropLast(512) + nothing), "VHD")
        try expectPromise(folder.write("fixed without footer.vhd", [UInt8](repeating: 7, count: 1 << 20)), "VHD")
        let vhdx = try MalformedMappedTests.sound(folder, .vhdx, "no identifier.VHDX")
        try Descriptor.open(vhdx, 2).write([UInt8](repeating: 0, count: 8), at: 0)
        try expectPromise(vhdx, "VHDX")
        for (ending, format) in [("avhd", "VHD"), ("avhdx", "VHDX"), ("qcow2", "qcow2 image"), ("vmdk", "VMDK"), ("vdi", "VDI")] {
            try expectPromise(folder.write("text.\(ending)", Array("not an image at all\n".utf8) + [UInt8](repeating: 32, count: 492)), format)
        }
        // A name that promises nothing, and one that is kept.
        #expect(try inspectImage(folder.write("text.img", [UInt8](repeating: 32, count: 512))).format == .raw)
        #expect(try inspectImage(folder.write("sound.vhd", dynamic)).format == .vhdDynamic)
    }
}

@Suite struct ImageLockTests {
    /// As a successor does that inherited the lock.
    @Test func aLockedImageIsTheFileThatWasLocked() throws {
        let folder = try TestFolder()
        let path = try folder.write("disk.raw", [UInt8](repeating: 1, count: 4096))
        let lock = try ImageLock.take(path, for: .exclusive)
        #expect(rename(try folder.write("other", [UInt8](repeating: 2, count: 4096)), path) == 0)
        let image = try openImage(locked: lock, access: .readWrite, format: .raw)
        #expect(try image.path == path && image.bytes(at: 0, count: 1) == [1])
        #expect(try !image.files[0].isThere())
        try image.put([3], at: 0)
        #expect(try openImage(path, access: .readOnly).bytes(at: 0, count: 1) == [2])
    }

    @Test func readersShareAndWritersDoNot() throws {
        let folder = try TestFolder()
        let path = try folder.write("l.raw", [UInt8](repeating: 0, count: 4096))
        let first = try ImageLock.take(path, for: .shared)
        let second = try ImageLock.take(path, for: .shared)
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .exclusive) }
        try first.release()
        try second.release()
        let writer = try ImageLock.take(path, for: .exclusive)
        #expect(try ImageLock.isHeldByWriter(path))
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .exclusive) }
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .shared) }
        // A worker that inherits the supervisor's descriptor holds the same lock.
        let inherited = try ImageLock.take(on: Descriptor(owning: dup(writer.descriptor.raw), path: path), for: .exclusive)
        try writer.release()
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .shared) }
        try inherited.release()
        #expect(try !ImageLock.isHeldByWriter(path))
    }

    @Test(.enabled(if: requires("qemu-io"))) func QEMUAndWeRespectEachOther() throws {
        let folder = try TestFolder()
        let path = folder.file("q.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 1 << 20)
        let writer = try ImageLock.take(path, for: .exclusive)
        #expect(try run("qemu-io", ["-f", "vpc", "-c", "write 0 512", path], expecting: 1).output.contains("lock"))
        #expect(try run("qemu-img", ["info", path], expecting: 1).output.contains("lock"))
        try run("qemu-img", ["info", "-U", path])
        try writer.release()

        let holder = Process()
        holder.executableURL = URL(filePath: "/usr/bin/env")
        holder.arguments = ["qemu-io", "-f", "vpc", "-c", "write 0 512", "-c", "sleep 20000", path]
        holder.standardOutput = Pipe()
        try holder.run()
        defer {
            kill(holder.processIdentifier, SIGKILL)
            holder.waitUntilExit()
        }
        let deadline = Date().addingTimeInterval(10)
        while try !ImageLock.isHeldByWriter(path), Date() < deadline { usleep(20_000) }
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .exclusive) }
        #expect(throws: ImageError.inUse(path: path)) { _ = try ImageLock.take(path, for: .shared) }
    }
}

@Suite struct ConcurrentReaderTests {
    /// `image info`, and the uploader of a frozen image, open what a worker has open: they see a sound image at all times.
    @Test func aReaderBesideTheWriterNeverFindsDamage() throws {
        // In memory, where a sync takes no time: the table changes often while a reader is between two of its reads.
        let folder = try TestFolder(in: "/dev/shm")
        let path = folder.file("live.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, 32 << 30)
        let image = try openImage(path, access: .readWrite)
        let finished = Mutex(false)
        let writer = Thread {
            defer { finished.withLock { $0 = true } }
            for block in 0..<16_000 {
                do {
                    try image.put([UInt8](repeating: UInt8(block % 255 + 1), count: 512), at: UInt64(block) << 21)
                    try image.flush()
                } catch {
                    Issue.record(error)
                }
            }
        }
        writer.start()
        var opened = 0
        while !finished.withLock({ $0 }) {
            #expect(try openImage(path, access: .readOnly, format: .vhdDynamic).sizeBytes == 32 << 30)
            opened += 1
        }
        #expect(opened > 0)
    }
}
