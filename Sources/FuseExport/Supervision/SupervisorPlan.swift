// What a supervisor is told: how to make workers, what to watch them by, and whom to tell.

package struct SupervisorPlan: Sendable {
    /// How long a worker may stand still with requests in hand before it counts as hung.
    package static let hangSecondsDefault = 30

    /// Arguments of the program that make it the worker; the held locks follow, each as `NAME:COUNT`. It
    /// inherits device, slots and link as descriptors 3, 4 and 5, and the locks from 6 on.
    package var workerArguments: [String]
    /// Arguments that make a program say whether it can take the slots over, which are its descriptor 3: its version on
    /// standard output and exit status 0.
    package var trialArguments: [String]
    /// This program's version.
    package var version: String
    /// Where an upgrade looks for the new program: the path this one was started from.
    package var programPath: String
    /// Nil: a worker is never taken for hung.
    package var hangSeconds: Int?
    /// Where the worker's standard error goes; ours when nil.
    package var workerStandardError: Int32?
    package var log: @Sendable (String) -> Void
    /// Called once, when the first worker serves.
    package var onReady: @Sendable () -> Void
    /// What else should be known outside of the log. May be called at any time; must not wait for storage.
    package var onNotice: @Sendable (SupervisorNotice) -> Void

    package init(
        workerArguments: [String], trialArguments: [String], version: String, programPath: String, hangSeconds: Int?,
        workerStandardError: Int32?, log: @escaping @Sendable (String) -> Void, onReady: @escaping @Sendable () -> Void,
        onNotice: @escaping @Sendable (SupervisorNotice) -> Void
    ) {
        self.workerArguments = workerArguments
        self.trialArguments = trialArguments
        self.version = version
        self.programPath = programPath
        self.hangSeconds = hangSeconds
        self.workerStandardError = workerStandardError
        self.log = log
        self.onReady = onReady
        self.onNotice = onNotice
    }
}

package enum SupervisorNotice: Equatable, Sendable {
    /// A worker stood still and was ended.
    case hung(String)
    /// The worker stands still because something it needs does: storage, or a debugger.
    case waits(String)
    case movesAgain
    case upgraded(UpgradeOutcome)
}
