// A small state file that several threads replace at the same time.

import BlockIO
import Glibc
import Testing

@Suite struct DurableFileTests {
    @Test func threadsThatReplaceOneFileDoNotHinderEachOther() throws {
        var template = Array("/tmp/farshore-durable-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { rmdir(folder) }
        let path = folder + "/state"
        let writers = try (UInt8(0)..<4).map { writer in
            try OwnThread(name: "writer") {
                for _ in 0..<100 {
                    do { try DurableFile.replace(path, with: [UInt8](repeating: writer, count: 5_000)) } catch { Issue.record(error) }
                }
            }
        }
        for writer in writers { writer.join() }
        let last = try #require(try DurableFile.read(path))
        #expect(last.count == 5_000 && Set(last).count == 1)
        try DurableFile.remove(path)
        // Nothing else was left, or the folder could not be removed.
        #expect(rmdir(folder) == 0)
    }
}
