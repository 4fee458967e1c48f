// What the room of failovers refuses, with what to do about it. The CLI maps `code` to an exit status.

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
