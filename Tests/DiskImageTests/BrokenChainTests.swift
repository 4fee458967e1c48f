// Parents that are missing, somebody else's, out of bounds or endless; locators that lie. The refusal says which and where.

import BlockIO
import DiskImage
import Foundation
import Testing

@Suite struct BrokenChainTests {
    private static let size = 3 << 20

    private func pair(_ more: [String] = [], in folder: TestFolder, base: [String] = []) throws -> TestChain {
        let chain = TestChain(folder)
        try chain.base(size: Self.size, ["--block", "524288"] + base)
        try chain.child("leaf.vhd", ["--block", "524288"] + more)
        return chain
    }

    private func refusal(_ path: String, parentFolders: [String] = []) -> String {
        for access in [ImageAccess.readWrite, .readOnly] {
            do throws(ImageError) {
                _ = try openImage(path, access: access, parentFolders: parentFolders)
                return "opened"
            } catch where access == .readOnly {
                return "\(error)"
            } catch {}
        }
        return ""
    }

    // Promise C2: A broken chain is refused, naming the missing parent and each place where it was looked for.
    @Test func aMissingParentIsNamed() throws {
        let folder = try TestFolder()
        let chain = try pair(["--locators", "W2ru=.\\sub\\lost.vhd,W2ku=C:\\vm\\base\\gone.vhd", "--name", "other.vhd"], in: folder)
        let bytes = try chain.bytes()
        let text = refusal(chain.leaf.path)
        let real = String(cString: realpath(folder.path, nil)!)
        for place in ["sub/lost.vhd", "lost.vhd", "gone.vhd", "other.vhd"] { #expect(text.contains("\(real)/\(place) (no such file)"), "\(text)") }
        #expect(text.contains("leaf.vhd: broken chain: its parent \"other.vhd\", id 00000000-0000-0000-0000-000000000001, is missing"))
        #expect(try chain.bytes() == bytes)
        let error = #expect(throws: ImageError.self) { try inspectImage(chain.leaf.path) }
        if case .brokenChain(let broken) = error {
            #expect(broken.remedy == "bring the parent back, unchanged, to " + ["sub/lost.vhd", "lost.vhd", "gone.vhd", "other.vhd"].map { "\(real)/\($0)" }.joined(separator: " or "))
        } else {
            Issue.record("\(error!)")
        }
    }

    /// The advice names only places where a file would be taken for the parent.
    @Test func placesThatNeverWorkAreNotAdvised() throws {
        let (folder, outer) = (try TestFolder(), try TestFolder())
        let chain = try pair(["--locators", "W2ru=.\\link\\base.vhd,W2ku=\(outer.path)/base.vhd", "--name", ""], in: folder)
        try run("mv", [chain.levels[0].path, outer.file("base.vhd")])
        symlink(outer.path, folder.file("link"))
        func remedy() throws -> String {
            let error = #expect(throws: ImageError.self) { try inspectImage(chain.leaf.path) }
            guard case .brokenChain(let broken) = error else { Issue.record("\(String(describing: error))"); return "" }
            return broken.remedy
        }
        let real = String(cString: realpath(folder.path, nil)!)
        #expect(try remedy().hasPrefix("bring the parent back, unchanged, to \(real)/base.vhd; or name its folder with --parent-dir (of a disk that is protected already: farshore unprotect"))
        symlink(outer.file("base.vhd"), folder.file("base.vhd"))
        #expect(try remedy().hasPrefix("name its folder with --parent-dir"))
    }

    /// Shown as it is this name would clear the terminal and put a line of its own below the refusal.
    @Test func aNameIsShownOnOneLineAndOpenedAsItIs() throws {
        let folder = try TestFolder()
        let name = "\u{1b}[2J\nfarshore: everything is fine\u{202e}\u{9b}\u{2028}.vhd"
        let chain = try pair(["--locators", "W2ru=.\\\(name)", "--name", name], in: folder)
        for opening in [{ _ = try openImage(chain.leaf.path, access: .readOnly) }, { _ = try checkImage(chain.leaf.path) }] as [() throws -> Void] {
            let error = #expect(throws: ImageError.self, performing: opening)
            guard case .brokenChain(let broken) = error else { Issue.record("\(String(describing: error))"); continue }
            #expect(broken.name == name)
            for text in ["\(ImageError.brokenChain(broken))", broken.message, broken.remedy] {
                #expect(text.contains("\\u{1b}[2J\\u{a}farshore: everything is fine\\u{202e}\\u{9b}\\u{2028}.vhd"), "\(text)")
                #expect(!text.unicodeScalars.contains { $0.value < 32 || [0x9B, 0x202E, 0x2028].contains($0.value) }, "\(text)")
            }
        }
        // What is wrong with a file of that name is told in the same way.
        #expect(FileManager.default.createFile(atPath: folder.file(name), contents: Data(repeating: 1, count: 8192)))
        let text = refusal(chain.leaf.path)
        #expect(text.contains("no VHD") && !text.contains("\n") && !text.contains("\u{1b}"), "\(text)")
        try run("mv", [chain.levels[0].path, folder.file(name)])
        #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() == chain.model())
        #expect(try inspectImage(chain.leaf.path).parents.first?.path.hasSuffix(name) == true)
        #expect(try checkImage(chain.leaf.path).remarks.allSatisfy { !$0.contains("\n") })
    }

    @Test func anotherDiskIsNoParent() throws {
        let folder = try TestFolder()
        var chain = try pair(["--link-id", String(repeating: "ab", count: 16)], in: folder)
        #expect(refusal(chain.leaf.path).contains("base.vhd (another disk, id 00000000-0000-0000-0000-000000000001)"))
        chain = try pair(["--link-id", String(repeating: "00", count: 16)], in: folder)
        #expect(refusal(chain.leaf.path).contains("parent unique id at byte 552: found zeros"))
        chain = try pair(["--locators", "W2ru=.\\raw.img"], in: folder)
        _ = try folder.write("raw.img", [UInt8](repeating: 1, count: 8192))
        try FileManager.default.removeItem(atPath: chain.levels[0].path)
        #expect(refusal(chain.leaf.path).contains("no VHD"))
    }

    @Test func aChainThatNeverEndsIsRefused() throws {
        let folder = try TestFolder()
        let chain = TestChain(folder)
        try chain.base(size: Self.size)
        try chain.child("a.vhd")
        try chain.child("b.vhd")
        // a.vhd is made again, over b.vhd.
        let (a, b) = (chain.levels[1], chain.levels[2])
        _ = try vhdPython(["child", folder.file("new.vhd"), "-", "--parent", b.path, "--id", a.id])
        try run("mv", [folder.file("new.vhd"), a.path])
        #expect(refusal(b.path).contains("the chain never ends"))
        _ = try vhdPython(["child", folder.file("self.vhd"), "-", "--parent", b.path, "--id", b.id, "--locators", "W2ru=self.vhd"], expecting: nil)
        let own = try pair(["--locators", "W2ru=leaf.vhd", "--link-id", String(repeating: "00", count: 15) + "02"], in: TestFolder())
        #expect(refusal(own.leaf.path).contains("the chain never ends"))
        // Also to its owner, who would meet his own lock: as `protect` opens it.
        for path in [b.path, own.leaf.path] {
            let error = #expect(throws: ImageError.self) {
                _ = try openImage(locked: ImageLock.take(path, for: .exclusive), access: .readWrite, parentLocks: ParentLocks())
            }
            #expect("\(error!)".contains("the chain never ends"), "\(error!)")
        }
    }

    /// By file, not by name; of a chain that does not open, what lies beside it.
    @Test func whatAnImageIsReadThroughIsTold() throws {
        let folder = try TestFolder()
        let chain = TestChain(folder)
        try chain.base(size: Self.size)
        try chain.child("middle.vhd")
        try chain.child("leaf.vhd")
        let (base, middle, leaf) = (chain.levels[0].path, chain.levels[1].path, chain.levels[2].path)
        func isRead(_ path: String) throws -> Bool { try isImage(leaf, .vhdDifferencing, parentFolders: [], readThrough: path) }
        #expect(link(base, folder.file("other name")) == 0)
        for path in [base, folder.file("other name"), middle] { #expect(try isRead(path), "\(path)") }
        try FileManager.default.copyItem(atPath: base, toPath: folder.file("copy.vhd"))
        for path in [leaf, folder.file("copy.vhd"), folder.file("none")] { #expect(try !isRead(path), "\(path)") }
        for path in [base, folder.file("other name"), folder.file("copy.vhd")] { try FileManager.default.removeItem(atPath: path) }
        #expect(try isRead(middle) && !isRead(folder.file("leaf.vhd.raw")))
        #expect(isSameFile(leaf, folder.path + "/./leaf.vhd") && !isSameFile(leaf, middle) && !isSameFile(base, base))
    }

    @Test func depthIsLimited() throws {
        let chain = TestChain(try TestFolder())
        try chain.base(size: 64 << 10, ["--block", "4096"])
        for level in 1..<64 { try chain.child(seed: level, ["--block", "4096", "--filled", "0.3"]) }
        #expect(try openImage(chain.leaf.path, access: .readWrite).allBytes() == chain.model())
        try chain.child(["--block", "4096"])
        let error = #expect(throws: ImageError.self) { try openImage(chain.leaf.path, access: .readOnly) }
        guard case .unsupported(_, let what, let remedy) = error else { Issue.record("told as \(String(describing: error))"); return }
        #expect(what.contains("a chain of more than 64 images: a limit of Farshore") && remedy.contains("merge"))
    }

    // Promise C3: Parents are opened only as regular files in the disk's folders, by no symbolic link.
    @Test func parentsAreConfined() throws {
        let (folder, outer) = (try TestFolder(), try TestFolder())
        let chain = try pair(in: folder)
        let base = chain.levels[0].path
        try FileManager.default.createDirectory(atPath: folder.file("sub"), withIntermediateDirectories: true)
        try run("mv", [base, outer.file("base.vhd")])
        func leaf(_ locator: String, named: [String] = []) throws -> String {
            _ = try vhdPython(["child", folder.file("leaf2.vhd"), "-", "--parent", outer.file("base.vhd"), "--locators", locator, "--name", ""])
            return refusal(folder.file("leaf2.vhd"), parentFolders: named)
        }
        let real = String(cString: realpath(outer.path, nil)!)
        let name = URL(filePath: real).lastPathComponent
        #expect(try leaf("W2ru=..\\\(name)\\base.vhd").contains("\(real)/base.vhd (outside of "))
        #expect(try leaf("W2ku=\(real)/base.vhd").contains("(outside of "))
        #expect(try leaf("W2ru=..\\..\\..\\..\\..\\..\\..\\..\\etc\\passwd").contains("is missing"))
        #expect(try leaf("W2ru=..\\\(name)\\base.vhd", named: [outer.path]) == "opened")
        #expect(try leaf("W2ku=\(real)/base.vhd", named: [outer.path]) == "opened")
        #expect(try leaf("W2ku=D:\\vm\\base.vhd", named: [outer.path]) == "opened")
        #expect(try leaf("W2ku=D:\\vm\\base.vhd").contains("\(String(cString: realpath(folder.path, nil)!))/base.vhd (no such file)"))
        symlink(outer.file("base.vhd"), base)
        #expect(try leaf("W2ru=.\\base.vhd").contains("a symbolic link is on the way"))
        symlink(outer.path, folder.file("link"))
        #expect(try leaf("W2ru=.\\link\\base.vhd").contains("a symbolic link is on the way"))
        #expect(try leaf("W2ru=.\\sub\\..\\link\\base.vhd").contains("a symbolic link is on the way"))
        mkfifo(folder.file("pipe"), 0o600)
        #expect(try leaf("W2ru=.\\pipe").contains("pipe (no regular file)"))
        #expect(try leaf("W2ru=.\\sub").contains("sub (no regular file)"))
        if geteuid() == 0 {
            mknod(folder.file("device"), S_IFCHR | 0o600, 0x0103)
            #expect(try leaf("W2ru=.\\device").contains("device (no regular file)"))
        }
    }

    @Test func locatorsThatLieAreRefused() throws {
        let folder = try TestFolder()
        let chain = try pair(in: folder)
        let sound = try chain.bytes()[1]
        let locator = 512 + 576
        let lies: [(place: Int, bytes: [UInt8], names: String)] = [
            (locator + 8, [0, 0, 0, 0], "parent locator 0, data length"), (locator + 8, [0, 0, 0, 3], "parent locator 0, data length"),
            (locator + 8, [0xFF, 0xFF, 0xFF, 0xFE], "parent locator 0, data length"), (locator + 8, [0, 1, 0, 2], "parent locator 0, data length"),
            (locator + 4, [0, 0, 0, 0], "parent locator 0, data space"), (locator + 8, [0, 0, 2, 2], "parent locator 0, data space"),
            (locator + 16, [0, 0, 1, 0, 0, 0, 0, 0], "parent locator 0, data offset"), (locator + 16, [UInt8](repeating: 0xFF, count: 8), "parent locator 0, data offset"),
            (locator + 16, [0, 0, 0, 0, 0, 0, 0, 0], "no overlap with the footer copy"), (locator + 16, [0, 0, 0, 0, 0, 0, 2, 0], "no overlap with the dynamic header"),
            (locator + 16, [0, 0, 0, 0, 0, 0, 6, 0], "no overlap with the table"), (locator + 4, [0x00, 0x04, 0x00, 0x00], "no overlap with parent locator 0"),
            (locator, Array("MacX".utf8), "broken chain"), (512 + 40, [UInt8](repeating: 0, count: 16), "parent unique id"),
        ]
        for lie in lies {
            var bytes = sound
            bytes.replaceSubrange(lie.place..<lie.place + lie.bytes.count, with: lie.bytes)
            let sum = bytes[512..<1536].enumerated().reduce(UInt32(0)) { $1.offset / 4 == 9 ? $0 : $0 &+ UInt32($1.element) }
            bytes.replaceSubrange(512 + 36..<512 + 40, with: withUnsafeBytes(of: (~sum).bigEndian) { Array($0) })
            if lie.names == "broken chain" { bytes.replaceSubrange(512 + 64..<512 + 66, with: [0, 0]) }
            if lie.names == "broken chain" {
                let again = bytes[512..<1536].enumerated().reduce(UInt32(0)) { $1.offset / 4 == 9 ? $0 : $0 &+ UInt32($1.element) }
                bytes.replaceSubrange(512 + 36..<512 + 40, with: withUnsafeBytes(of: (~again).bigEndian) { Array($0) })
            }
            #expect(refusal(try folder.write("lie.vhd", bytes)).contains(lie.names), "\(lie): \(refusal(folder.file("lie.vhd")))")
        }
        // Text that is no UTF-16 is passed over; the parent's name is still there.
        var bytes = sound
        let text = bytes[locator + 16..<locator + 24].reduce(0) { $0 << 8 | Int($1) }
        bytes.replaceSubrange(text..<text + 2, with: [0x00, 0xDC])
        #expect(refusal(try folder.write("text.vhd", bytes)) == "opened")
    }

    @Test func namesOfEveryScriptAreFound() throws {
        for name in ["базовый диск.vhd", "基盤 📀.vhd", "Größe & Co's [1].vhd", "é.vhd", String(repeating: "x", count: 240) + ".vhd"] {
            let chain = TestChain(try TestFolder())
            try chain.base(name, size: Self.size)
            try chain.child()
            #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() == chain.model(), "\(name)")
            #expect(try inspectImage(chain.leaf.path).parents.first?.path.hasSuffix(name) == true)
        }
    }

    @Test func locatorsThatAreNotUsedAreTold() throws {
        let chain = try pair(["--locators", "MacX=file://localhost/base.vhd,Wi2r=.\\base.vhd,Zork=1,W2ku=.\\base.vhd"], in: TestFolder())
        let seen = try inspectImage(chain.leaf.path)
        #expect(seen.ignoredLocators.count == 3 && seen.ignoredLocators[0].contains("MacX") && seen.ignoredLocators[2].contains("not known"))
    }

    @Test func theParentsTimeIsCompared() throws {
        for (time, wanted) in [("file", ChainLink.TimeStamp.matches), ("footer", .matches), ("0", .absent)] {
            let chain = try pair(["--link-time", time], in: TestFolder(), base: ["--time", "77"])
            #expect(try inspectImage(chain.leaf.path).parents.map(\.timeStamp) == [wanted])
        }
        let chain = try pair(["--link-time", "4711"], in: TestFolder())
        if case .differs(noted: 4711, let file)? = try inspectImage(chain.leaf.path).parents.first?.timeStamp {
            #expect(file > 700_000_000)
        } else {
            Issue.record("no difference was seen")
        }
    }

    @Test func formatsAreNotMistaken() throws {
        let chain = try pair(in: TestFolder())
        #expect(throws: ImageError.self) { try openImage(chain.leaf.path, access: .readOnly, format: .vhdDynamic) }
        #expect(throws: ImageError.self) { try openImage(chain.levels[0].path, access: .readOnly, format: .vhdDifferencing) }
        #expect(try openImage(chain.leaf.path, access: .readOnly, format: .vhdDifferencing).files.count == 2)
    }

    /// What a writer is at is not even read; and the lock is on the file that is read, whatever its name stands for by now.
    @Test func aParentIsLockedBeforeItIsRead() throws {
        let chain = try pair(in: TestFolder())
        let base = String(cString: realpath(chain.levels[0].path, nil)!)
        let sound = try Descriptor.open(base, 0).read(count: 2048, at: 0)
        func open(_ locks: ParentLocks) throws -> any ImageFile {
            try openImage(locked: ImageLock.take(chain.leaf.path, for: .exclusive), access: .readWrite, format: .vhdDifferencing, parentLocks: locks)
        }
        let writer = try ImageLock.take(base, for: .exclusive)
        try Descriptor.open(base, 2).write([0xAA], at: 1536)
        #expect(throws: ImageError.inUse(path: base)) { try open(ParentLocks()) }
        try Descriptor.open(base, 2).write(sound, at: 0)
        try writer.release()
        let locks = ParentLocks()
        let image = try open(locks)
        #expect(locks.descriptors.count == 1)
        try FileManager.default.moveItem(atPath: base, toPath: base + ".aside")
        try FileManager.default.copyItem(atPath: base + ".aside", toPath: base)
        #expect(throws: ImageError.inUse(path: base + ".aside")) { _ = try ImageLock.take(base + ".aside", for: .exclusive) }
        _ = try ImageLock.take(base, for: .exclusive)
        #expect(try image.allBytes() == chain.model() && image.files.map { try $0.isThere() } == [true, false])
        locks.release()
        _ = try ImageLock.take(base + ".aside", for: .exclusive)
    }

    /// Who is handed the locks of another reads through the files that they are on, whatever the names stand for by now.
    @Test func aChainIsReadThroughTheFilesThatAreHeld() throws {
        let folder = try TestFolder()
        let chain = TestChain(folder)
        try chain.base(size: Self.size, ["--filled", "1"])
        try chain.child("middle.vhd", seed: 2)
        try chain.child("leaf.vhd", seed: 3)
        let (model, parents) = (try chain.model(), chain.levels.dropLast())
        func open(_ locks: ParentLocks) throws -> any ImageFile {
            try openImage(locked: ImageLock.take(chain.leaf.path, for: .exclusive), access: .readWrite, format: .vhdDifferencing, parentLocks: locks)
        }
        let first = ParentLocks()
        _ = try open(first)
        #expect(first.descriptors.count == 2)
        func readsOn(areThere: Bool) throws {
            let image = try open(ParentLocks(handedDown: first.descriptors.map { dup($0) }))
            #expect(try image.allBytes() == model)
            #expect(try image.files.map { try $0.isThere() } == [true, areThere, areThere])
            #expect(image.files.map { URL(filePath: $0.path).lastPathComponent } == ["leaf.vhd", "middle.vhd", "base.vhd"])
        }
        for parent in parents { try #require(rename(parent.path, parent.path + ".aside") == 0) }
        try readsOn(areThere: false)
        _ = try vhdPython(["make", parents[0].path, "-", "--size", "\(Self.size)", "--id", parents[0].id, "--seed", "99", "--filled", "1"])
        try FileManager.default.copyItem(atPath: parents[1].path + ".aside", toPath: parents[1].path)
        try readsOn(areThere: false)
        #expect(try openImage(chain.leaf.path, access: .readOnly).allBytes() != model, "what the names stand for is another disk")
        for parent in parents { try #require(unlink(parent.path) == 0 && mkfifo(parent.path, 0o600) == 0) }
        try readsOn(areThere: false)
        for parent in parents { try #require(rename(parent.path + ".aside", parent.path) == 0) }
        try readsOn(areThere: true)
        // The base lies there, and is none of the files that are held.
        let error = #expect(throws: ImageError.self) { try open(ParentLocks(handedDown: [dup(first.descriptors[0])])) }
        #expect(error.map { "\($0)".contains("base.vhd (another file than the disk is served from)") } == true)
        // A file that nothing names any more.
        for parent in parents { try #require(unlink(parent.path) == 0) }
        try readsOn(areThere: false)
    }

    /// XenServer's map: checked, and its place kept.
    @Test func batmapsThatLieAreRefused() throws {
        let folder = try TestFolder()
        let chain = try pair(["--creator", "tap", "--layout", "batmap", "--filled", "0.5"], in: folder)
        let sound = try chain.bytes()[1]
        let header = 2048
        #expect(Array(sound[header..<header + 8]) == Array("tdbatmap".utf8))
        for (place, value, names) in [(8, [UInt8](repeating: 0xFF, count: 8), "batmap, offset"), (16, [0, 0, 0, 0], "batmap, size"), (20, [0, 2, 0, 0], "batmap, version"),
            (8, [0, 0, 0, 0, 0, 0, 2, 0], "no overlap"), (512, [0xFF], "batmap, bit")] as [(Int, [UInt8], String)] {
            var bytes = sound
            bytes.replaceSubrange(header + place..<header + place + value.count, with: value)
            #expect(refusal(try folder.write("batmap.vhd", bytes)).contains(names))
        }
        // Without a footer at the end the file is cut behind its last structure, and not before.
        let path = try folder.write("cut.vhd", Array(sound.dropLast(512)))
        let image = try openImage(path, access: .readWrite)
        try image.flush()
        #expect(try inspectImage(path).dynamic?.hasBatmap == true)
        #expect(try image.allBytes() == chain.model())
        let old = try pair(["--creator", "tap", "--creator-version", "1"], in: folder)
        #expect(refusal(old.leaf.path).contains("creator version"))
    }
}
