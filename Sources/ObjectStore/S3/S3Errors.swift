// From an S3 answer to a StoreError: the one table. The error code in the XML decides; without one (HEAD has no body)
// the status does. Remedies say what a person can do; nothing here repeats a key or a signature.

struct S3Errors {
    /// For messages: the vault's URL.
    let location: String
    let bucket: String
    let endpoint: String
    let region: String

    /// `isTemporary`: the credentials in use have a session token. Some targets (Ceph 16) answer AccessDenied when it expired.
    func error(_ answer: TargetAnswer, for what: String, ourClock: Int, isTemporary: Bool) -> StoreError {
        let body = S3ErrorBody(answer.body)
        let name = body?.Code ?? ""
        let code = Self.codes[name] ?? StoreError.Code(status: answer.status)
        let told = name.isEmpty ? "HTTP status \(answer.status)" : name + (body?.Message.map { ": \(TargetAnswer.printable($0))" } ?? "")
        let message = "\(location): \(what) was answered with \(told)"
        switch code {
        case .clockSkew: return answer.clockSkew(at: location, ourClock: ourClock)
        case .redirected: return redirected(answer, body)
        case .credentialsRefused where name == "AuthorizationHeaderMalformed" && body?.Region.map { $0 != region } == true:
            return StoreError(code, message, try: "write region=\(TargetAnswer.printable(body?.Region ?? "")) in the vault URL")
        case .accessDenied where isTemporary:
            return StoreError(code, message, try: "get new temporary credentials if these have expired; else " + remedy(code, name))
        default: return StoreError(code, message, try: remedy(code, name), retryAfterSeconds: answer.retryAfterSeconds)
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

    private func redirected(_ answer: TargetAnswer, _ body: S3ErrorBody?) -> StoreError {
        let elsewhere = [answer.headers["x-amz-bucket-region"].map { "region \($0)" }, (body?.Endpoint ?? answer.headers["location"]).map { "endpoint \($0)" }]
            .compactMap { $0 }.map(TargetAnswer.printable).joined(separator: ", ")
        return StoreError(
            .redirected, "\(location): the bucket \(bucket) is not at \(endpoint)" + (elsewhere.isEmpty ? "" : " but at \(elsewhere)"),
            try: "write the endpoint= and region= of the bucket in the vault URL")
    }
}
