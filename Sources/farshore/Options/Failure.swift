// An error as the person at the terminal gets it: what happened, what it means, what to do, and the exit status.

import Glibc

/// Exit statuses; the table in docs/reference/exit-statuses.md is checked against this list.
enum ExitStatus: Int32, CaseIterable {
    case done = 0
    case failed = 1
    case usage = 2
    case targetUnreachable = 3
    case credentialsRefused = 4
    case wrongKey = 5
    case integrityDamage = 6
    case fenced = 7
    case notEnoughSpace = 8
    case inUse = 9
    case notFound = 10
    case badImage = 11
    case notNow = 12
    case badVerdict = 13
}

struct Failure: Error, CustomStringConvertible {
    let status: ExitStatus
    let message: String
    /// What the reader can do about it; printed after `Try: `.
    let remedy: String

    init(_ status: ExitStatus, _ message: String, try remedy: String) {
        self.status = status
        self.message = message
        self.remedy = remedy
    }

    var description: String { "\(message)\nTry: \(remedy)" }
}

func printError(_ text: String) {
    let line = Array((text + "\n").utf8)
    _ = write(STDERR_FILENO, line, line.count)
}
