// Names that say nothing, calls that hide a loss, and marks of unfinished work are refused.

import Foundation
import Testing

@Suite struct NameTests {
    @Test func fileNamesSayWhatIsInside() throws {
        let banned = ["Util", "Helper", "Manager", "Common", "Misc", "Handler", "Coordinator", "Impl", "V2"]
        for file in try SourceTree().files {
            let name = file.path.split(separator: "/").last.map(String.init) ?? ""
            for word in banned { #expect(!name.contains(word), "\(file.path)") }
        }
    }

    @Test func noErrorIsSwallowedOnTheWayToDisk() throws {
        let calls = ["write", "sync", "rename", "close", "unlink", "truncate", "publish", "put"]
        try forEachCodeLine { file, number, line in
            guard let at = line.range(of: "try?") else { return }
            let rest = line[at.upperBound...].lowercased()
            for call in calls { #expect(!rest.contains(call), "\(file.path):\(number): \(line)") }
        }
    }

    @Test func nothingIsUnfinished() throws {
        let marks = ["TODO", "FIXME", "XXX", "fatalError(", "preconditionFailure("]
        try forEachCodeLine { file, number, line in
            for mark in marks { #expect(!line.contains(mark), "\(file.path):\(number): \(line)") }
        }
    }

    @Test func nothingIsPublicAndNoTestLooksBehindTheDoor() throws {
        for file in try SourceTree().files where file.room != "TidyTests" {
            for (index, line) in file.lines.enumerated() {
                let text = line.drop { $0 == " " }
                #expect(!text.hasPrefix("public ") && !text.hasPrefix("open class") && !line.contains("@testable"), "\(file.path):\(index + 1)")
            }
        }
    }

    private func forEachCodeLine(_ body: (SourceFile, Int, String) -> Void) throws {
        for file in try SourceTree().files where !file.isTest {
            for (index, line) in file.lines.enumerated() where !line.drop(while: { $0 == " " }).hasPrefix("//") {
                body(file, index + 1, line)
            }
        }
    }
}
