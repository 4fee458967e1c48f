// From an S3 answer to a StoreError: the one table. The error code in the XML decides; without one (HEAD has no body)
// the status does. Remedies say what a person can do; nothing here repeats a key or a signature.

struct S3Errors {
    /// For messages: the vault's URL.
    let location: String
    let bucket: String
    let endpoint: String
    let region: String

    /// `isTemporary`: the credentials in use have a session token. Some targets (Ceph 16) answer AccessDenied when it expired.
    func error(_ answer: S3Answer, for what: String, ourClock: Int, isTemporary: Bool) -> StoreError {
        let body = S3ErrorBody(answer.body)
        let name = body?.Code ?? ""
        let code = Self.codes[name] ?? Self.code(status: answer.status)
        let told = name.isEmpty ? "HTTP status \(answer.status)" : name + (body?.Message.map { ": \(Self.printable($0))" } ?? "")
        let message = "\(location): \(what) was answered with \(told)"
        switch code {
        case .clockSkew: return clockSkew(answer, ourClock: ourClock)
        case .redirected: return redirected(answer, body)
        case .credentialsRefused where name == "AuthorizationHeaderMalformed" && body?.Region.map { $0 != region } == true:
            return StoreError(code, message, try: "write region=\(Self.printable(body?.Region ?? "")) in the vault URL")
        case .accessDenied where isTemporary:
            return StoreError(code, message, try: "get new temporary credentials if these have expired; else " + remedy(code, name))
        default: return StoreError(code, message, try: remedy(code, name))
        }
    }

    private static let codes: [String: StoreError.Code] = [
        "NoSuchKey": .notFound, "NoSuchUpload": .serverFault, "NoSuchBucket": .bucketMissing, "InvalidBucketName": .badLocation,
        "InvalidRange": .outOfRange,
        "PreconditionFailed": .alreadyExists, "ConditionalRequestConflict": .serverFault, "OperationAborted": .serverFault,
        "InvalidAccessKeyId": .credentialsRefused, "SignatureDoesNotMatch": .credentialsRefused, "AuthorizationHeaderMalformed": .credentialsRefused,
        "InvalidSecurity": .credentialsRefused, "InvalidToken": .credentialsRefused, "MissingSecurityHeader": .credentialsRefused,
        "InvalidClientTokenId": .credentialsRefused, "UnrecognizedClientException": .credentialsRefused, "NotSignedUp": .credentialsRefused,
        "ExpiredToken": .credentialsExpired, "ExpiredTokenException": .credentialsExpired, "TokenRefreshRequired": .credentialsExpired,
        "RequestTimeTooSkewed": .clockSkew, "RequestExpired": .clockSkew,
        "AccessDenied": .accessDenied, "AllAccessDisabled": .accessDenied, "AccountProblem": .accessDenied, "UserSuspended": .accessDenied,
        "InvalidObjectState": .accessDenied, "MethodNotAllowed": .accessDenied,
        "SlowDown": .throttled, "Throttling": .throttled, "ThrottlingException": .throttled, "TooManyRequests": .throttled,
        "RequestLimitExceeded": .throttled, "BandwidthLimitExceeded": .throttled,
        "InternalError": .serverFault, "ServiceUnavailable": .serverFault, "RequestTimeout": .timedOut,
        "PermanentRedirect": .redirected, "TemporaryRedirect": .redirected, "Redirect": .redirected,
        "QuotaExceeded": .notEnoughSpace, "XMinioStorageFull": .notEnoughSpace, "InsufficientStorage": .notEnoughSpace,
        "BadDigest": .corruptResponse, "XAmzContentSHA256Mismatch": .corruptResponse, "IncompleteBody": .corruptResponse, "InvalidDigest": .corruptResponse,
        "NotImplemented": .unsupported, "EntityTooLarge": .unsupported, "KeyTooLongError": .unsupported,
    ]

    private static func code(status: Int) -> StoreError.Code {
        switch status {
        case 300..<400: .redirected
        case 401: .credentialsRefused
        case 403: .accessDenied
        case 404: .notFound
        case 408: .timedOut
        case 412: .alreadyExists
        case 416: .outOfRange
        case 429, 503: .throttled
        case 501: .unsupported
        case 507: .notEnoughSpace
        case 500...: .serverFault
        default: .unsupported
        }
    }

    private func remedy(_ code: StoreError.Code, _ name: String) -> String {
        switch code {
        case .notFound, .outOfRange: "run `farshore vault check` to see what depends on it"
        case .alreadyExists: "look who else writes to this vault"
        case .bucketMissing: "create the bucket \(bucket) with the target's tools, or correct the vault URL"
        case .badLocation: "correct the bucket's name in the vault URL"
        case .credentialsRefused where name == "SignatureDoesNotMatch":
            "check the secret access key (AWS_SECRET_ACCESS_KEY), then region= in the vault URL"
        case .credentialsRefused where name == "InvalidToken": "check the session token (AWS_SESSION_TOKEN); get new temporary credentials"
        case .credentialsRefused: "check the access key (AWS_ACCESS_KEY_ID); the target does not know it"
        case .credentialsExpired: "get new temporary credentials, then set AWS_… again or renew the credentials file"
        case .accessDenied: "let the owner of the bucket \(bucket) allow this request for the access key in use"
        case .throttled, .serverFault, .timedOut: "wait; it is tried again. If it stays, ask the operator of the target"
        case .notEnoughSpace: "raise the quota of the bucket \(bucket), or make space at the target"
        case .corruptResponse: "it is tried again. If it stays, look at proxies and memory on the way to the target"
        default: "check that the endpoint in the vault URL is an S3 service that can do this"
        }
    }

    private func clockSkew(_ answer: S3Answer, ourClock: Int) -> StoreError {
        let ours = HTTPDate(secondsSince1970: ourClock).readable
        let theirs = answer.headers["date"].flatMap(HTTPDate.init(header:))?.readable ?? "unknown"
        return StoreError(
            .clockSkew, "\(location): the target refuses this host's clock: ours says \(ours), the target's \(theirs)",
            try: "set the clock right (timedatectl set-ntp true)")
    }

    private func redirected(_ answer: S3Answer, _ body: S3ErrorBody?) -> StoreError {
        let elsewhere = [answer.headers["x-amz-bucket-region"].map { "region \($0)" }, (body?.Endpoint ?? answer.headers["location"]).map { "endpoint \($0)" }]
            .compactMap { $0 }.map(Self.printable).joined(separator: ", ")
        return StoreError(
            .redirected, "\(location): the bucket \(bucket) is not at \(endpoint)" + (elsewhere.isEmpty ? "" : " but at \(elsewhere)"),
            try: "write the endpoint= and region= of the bucket in the vault URL")
    }

    /// A hostile target must not reach the terminal with escape sequences or floods.
    private static func printable(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.prefix(300).filter { $0.value >= 0x20 && $0.value != 0x7F && !(0x80..<0xA0).contains($0.value) }))
    }
}
