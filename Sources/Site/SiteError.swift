// What the site's room refuses, with what to do about it. The CLI maps `code` to an exit status.

package struct SiteError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case catalogueNewer, catalogueDamaged, catalogueFailed, diskExists, diskNotFound, diskBusy, jobNotFound, machineNotFound, groupNotFound, groupExists
        case policyNotFound, policyExists, policyInUse, policyWrong, targetNotFound
        case lockHeld, mountAway, controlGarbled, controlTimedOut, refused, noSpace, system
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
