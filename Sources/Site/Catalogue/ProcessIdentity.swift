// Which process runs a job: its id with its start time and boot, so that a recycled process id is not taken for it.

import BlockIO
import Foundation
import Glibc

struct ProcessIdentity: Equatable, Sendable {
    let processID: Int32
    /// Boot id and start time in clock ticks; empty when the process is gone.
    let start: String

    static func current() -> ProcessIdentity { ProcessIdentity(of: getpid()) }

    init(of processID: Int32) { self.init(processID: processID, start: Self.startMark(of: processID)) }

    init(processID: Int32, start: String) {
        self.processID = processID
        self.start = start
    }

    var isAlive: Bool { !start.isEmpty && Self.startMark(of: processID) == start }

    /// Asks it to end; nothing where it is gone.
    func end() throws(SystemError) {
        guard isAlive, kill(processID, SIGTERM) != 0, errno != ESRCH else { return }
        throw SystemError(errno: errno, operation: "end the process", path: "\(processID)")
    }

    /// Field 22 of /proc/PID/stat follows the command name, which may itself hold spaces and parentheses.
    private static func startMark(of processID: Int32) -> String {
        guard let stat = try? String(contentsOfFile: "/proc/\(processID)/stat", encoding: .utf8),
              let nameEnd = stat.lastIndex(of: ")"), let boot = try? Clock.bootID()
        else { return "" }
        let fields = stat[stat.index(after: nameEnd)...].split(separator: " ")
        guard fields.count > 19, fields[0] != "Z" else { return "" }
        return "\(boot)/\(fields[19])"
    }
}
