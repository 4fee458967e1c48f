// The directory target: the contract, and what only a directory can do wrong.

import Foundation
import ObjectStore
import Testing

@Suite struct DirectoryStoreTests {
    @Test(arguments: StoreContract.all) func contract(_ contract: StoreContract) throws {
        try withScratchDirectory { try contract.check(try openStore(url: "file://\($0)")) }
    }

    /// Two directories as one target are like any other.
    @Test(arguments: StoreContract.all) func contractOfTwoPlaces(_ contract: StoreContract) throws {
        try withScratchDirectory { main in
            try withScratchDirectory { chunks in try contract.check(try openStore(url: SplitURL.joined("file://\(main)", chunks: "file://\(chunks)"))) }
        }
    }

    @Test func twoPlacesAreListedAsOne() throws {
        try withScratchDirectory { main in
            try withScratchDirectory { chunks in
                let store = try openStore(url: SplitURL.joined("file://\(main)", chunks: "file://\(chunks)"))
                var keys: [String] = []
                for number in 0..<700 { keys += ["chunks/\(number)", "b/\(number)", "d/\(number)"] }
                for key in keys { try store.put(key, [1], ifAbsent: false) }
                #expect(try store.listAll(prefix: "").map(\.key) == keys.sorted(by: ObjectKey.isBefore))
                #expect(try store.listAll(prefix: "ch").count == 700 && store.listAll(prefix: "chunks/").count == 700 && store.listAll(prefix: "d").count == 700)
                #expect(try FileManager.default.contentsOfDirectory(atPath: chunks) == ["chunks"])
                try store.delete(keys)
                #expect(try store.listAll(prefix: "") == [])
            }
        }
    }

    @Test func objectsArePlainPrivateFiles() throws {
        try withScratchDirectory { root in
            let store = try openStore(url: "file://\(root)")
            try store.put("chunks/ab/abcd.1", [1, 2, 3], ifAbsent: true)
            let path = root + "/chunks/ab/abcd.1"
            #expect(FileManager.default.contents(atPath: path) == Data([1, 2, 3]))
            let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
            #expect(mode == 0o600)
            #expect(try FileManager.default.contentsOfDirectory(atPath: root + "/chunks/ab") == ["abcd.1"])
            try store.delete(["chunks/ab/abcd.1"])
            #expect(try FileManager.default.contentsOfDirectory(atPath: root) == [])
        }
    }

    @Test func linksInsideAreNotFollowed() throws {
        try withScratchDirectory { outside in
            try withScratchDirectory { root in
                let store = try openStore(url: "file://\(root)")
                try Data([9]).write(to: URL(fileURLWithPath: outside + "/secret"))
                try FileManager.default.createSymbolicLink(atPath: root + "/folder", withDestinationPath: outside)
                try FileManager.default.createSymbolicLink(atPath: root + "/file", withDestinationPath: outside + "/secret")
                for key in ["folder/secret", "file"] { #expect(throws: StoreError.self) { try store.get(key) } }
                #expect(throws: StoreError.self) { try store.put("folder/new", [1], ifAbsent: false) }
                expectCode(.alreadyExists) { try store.put("file", [1], ifAbsent: true) }
                try store.put("file", [1], ifAbsent: false)
                #expect(FileManager.default.contents(atPath: outside + "/secret") == Data([9]))
                #expect(try FileManager.default.contentsOfDirectory(atPath: outside) == ["secret"])
                #expect(try store.listAll(prefix: "").map(\.key) == ["file"])
            }
        }
    }

    @Test func unfinishedFilesAreNoObjects() throws {
        try withScratchDirectory { root in
            let store = try openStore(url: "file://\(root)")
            try Data([1]).write(to: URL(fileURLWithPath: root + "/.farshore-put.1.1"))
            #expect(try store.listAll(prefix: "").isEmpty)
            expectCode(.badLocation) { _ = try store.get(".farshore-put.1.1") }
        }
    }

    /// A FIFO in the tree must not block the reader for ever.
    @Test(.timeLimit(.minutes(1))) func specialFilesAreNoObjects() throws {
        try withScratchDirectory { root in
            let store = try openStore(url: "file://\(root)")
            #expect(mkfifo(root + "/fifo", 0o600) == 0)
            expectCode(.notFound) { _ = try store.get("fifo") }
            #expect(try store.listAll(prefix: "").isEmpty)
        }
    }

    @Test func missingRoot() throws {
        try withScratchDirectory { root in
            expectCode(.bucketMissing) { _ = try openStore(url: "file://\(root)/none") }
            _ = try openStore(url: "file://\(root)/made/here", createDirectory: true)
            let store = try openStore(url: "file://\(root)/made/here")
            try store.put("k", [1], ifAbsent: true)
        }
    }

    @Test func rootThatWentAwayIsNotWrittenBeneath() throws {
        try withScratchDirectory { root in
            let store = try openStore(url: "file://\(root)/disk", createDirectory: true)
            try store.put("k", [1], ifAbsent: true)
            try FileManager.default.moveItem(atPath: root + "/disk", toPath: root + "/moved")
            expectCode(.bucketMissing) { _ = try store.get("k") }
            expectCode(.bucketMissing) { _ = try store.head("k") }
            try FileManager.default.createDirectory(atPath: root + "/disk", withIntermediateDirectories: false)
            expectCode(.unreachable) { _ = try store.get("k") }
            expectCode(.unreachable) { try store.put("k2", [1], ifAbsent: true) }
            expectCode(.unreachable) { try store.delete(["k"]) }
            expectCode(.unreachable) { _ = try store.list(prefix: "", startAfter: nil) }
            #expect(try FileManager.default.contentsOfDirectory(atPath: root + "/disk") == [])
        }
    }

    @Test func locationEscapesThePath() throws {
        try withScratchDirectory { root in
            _ = try openStore(url: "file://\(root)/a%20b%3Fc", createDirectory: true)
            let store = try openStore(url: "file://\(root)/a%20b%3Fc")
            #expect(store.location == "file://\(root)/a%20b%3Fc")
            #expect(FileManager.default.fileExists(atPath: root + "/a b?c"))
        }
    }
}
