// What went wrong at a target: a code to act on, what happened, and what a person can do. Holds no secret.

package struct StoreError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: Equatable, Sendable, CaseIterable {
        /// No object under this key.
        case notFound
        /// `put(ifAbsent:)` found an object there.
        case alreadyExists
        /// The object ends before the range asked for.
        case outOfRange
        case unreachable
        case timedOut
        /// A limit of this host held the request back until it was told to stop.
        case heldBack
        case throttled
        /// The target answered that it failed (5xx), or its device did (EIO).
        case serverFault
        case credentialsRefused
        case credentialsExpired
        case accessDenied
        case clockSkew
        /// The target's TLS certificate is not signed by an authority we trust, or is for another name.
        case untrusted
        /// The bucket or the directory is not there.
        case bucketMissing
        case redirected
        case notEnoughSpace
        /// The answer is not what the request can have: wrong length, damaged XML.
        case corruptResponse
        /// The URL, the key or a setting is wrong.
        case badLocation
        case unsupported
    }

    package let code: Code
    package let message: String
    package let remedy: String
    /// How long a throttling target asks to be left alone.
    package let retryAfterSeconds: Int?

    package init(_ code: Code, _ message: String, try remedy: String, retryAfterSeconds: Int? = nil) {
        self.code = code
        self.message = message
        self.remedy = remedy
        self.retryAfterSeconds = retryAfterSeconds
    }

    /// True when the same request may succeed later without anyone doing something about it, or once space was made.
    package var isRecoverable: Bool {
        switch code {
        case .unreachable, .timedOut, .heldBack, .throttled, .serverFault, .notEnoughSpace, .corruptResponse: true
        case .notFound, .alreadyExists, .outOfRange, .credentialsRefused, .credentialsExpired, .accessDenied, .clockSkew, .untrusted,
            .bucketMissing, .redirected, .badLocation, .unsupported:
            false
        }
    }

    package var description: String { message }
}
