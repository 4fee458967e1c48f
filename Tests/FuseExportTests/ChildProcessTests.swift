// Descriptors reach a child at the numbers promised, also when their own numbers are among those.

import FuseExport
import Foundation
import Glibc
import Testing

@Suite struct ChildProcessTests {
    @Test("each descriptor arrives at its number, whatever its own is")
    func descriptors() throws {
        let folder = NSTemporaryDirectory() + "farshore-child-\(UUID().uuidString)"
        mkdir(folder, 0o700)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var opened: [Int32] = []
        defer { for descriptor in opened { close(descriptor) } }
        for name in ["a", "b", "c", "errors"] {
            opened.append(open("\(folder)/\(name)", O_RDWR | O_CREAT | O_CLOEXEC, 0o600))
        }
        // The last opened sits at a number that another one's duplicate takes in the child.
        let child = try ChildProcess.spawn(
            "/bin/sh", ["-c", "echo A >&3; echo B >&4; echo C >&5; echo E >&2"], descriptors: Array(opened[..<3]), standardError: opened[3])
        #expect(child.wait() == .exited(0))
        for (name, text) in [("a", "A\n"), ("b", "B\n"), ("c", "C\n"), ("errors", "E\n")] {
            #expect(try String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8) == text)
        }
    }

    @Test("a program that cannot be started and one that is killed are told apart")
    func endings() throws {
        #expect(throws: (any Error).self) { try ChildProcess.spawn("/nonexistent/program", []) }
        #expect(try ChildProcess.spawn("/bin/sh", ["-c", "exit 7"]).wait() == .exited(7))
        #expect(try ChildProcess.spawn("/bin/sh", ["-c", "kill -9 $$"]).wait() == .killed(signal: 9))
    }
}
