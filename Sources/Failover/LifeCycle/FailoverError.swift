// What the room of failovers refuses, with what to do about it. The CLI maps `code` to an exit status.

import Foundation

package struct FailoverError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The table of the life cycle says no.
        case notNow
        case notFound
        /// Something that a failover needs is not as it has to be.
        case prerequisite
        /// A command of the administrator failed or took too long.
        case commandFailed
        /// It went on for the other machines.
        case incomplete
        case inUse
    }

    package let code: Code
    package let message: String
    package let remedy: String

    package init(_ code: Code, _ message: String, remedy: String) {
        self.code = code
        self.message = message
        self.remedy = remedy
    }

    package var description: String { message }
}

/// What stopped a failover after its claim: the source publishes nothing meanwhile, and that does not end by itself.
package struct FencedFailure: Error, CustomStringConvertible {
    package let cause: any Error
    let unit: String
    let sinceMicros: UInt64

    /// To be said beside what the cause says.
    package var meaning: String {
        let time = Date(timeIntervalSince1970: Double(sinceMicros) / 1e6).formatted(.iso8601)
        return "the source of \(unit) is fenced (failingOver since \(time)): what it writes stays in its log"
    }
    package var remedy: String { "farshore failover run \(unit) goes on, farshore failover cancel \(unit) takes it back" }
    package var description: String { "\(cause); \(meaning)" }
}
