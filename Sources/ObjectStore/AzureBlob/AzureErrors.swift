// From an answer of Azure Blob Storage to a StoreError: the one table. The service states its error code in a header too,
// so a HEAD says why it was refused. Nothing here repeats a key or a signature.

struct AzureErrors {
    static let skewSecondsMax = 15 * 60

    /// For messages: the vault's URL.
    let location: String
    let account: String
    let container: String

    func error(_ answer: TargetAnswer, for what: String, ourClock: Int, _ credentials: AzureCredentials) -> StoreError {
        let body = XMLDocument.read(AzureErrorBody.self, answer.body)
        let name = TargetAnswer.printable(answer.headers["x-ms-error-code"] ?? body?.Code ?? "")
        let code = Self.codes[name] ?? Self.code(status: answer.status)
        // The lines after the first are the request's id and time.
        let reason = body?.Message?.split(whereSeparator: \.isNewline).first.map { ": \(TargetAnswer.printable(String($0)))" } ?? ""
        let message = "\(location): \(what) was answered with \(name.isEmpty ? "HTTP status \(answer.status)" : name + reason)"
        guard name == "AuthenticationFailed" else { return StoreError(code, message, try: remedy(code, name), retryAfterSeconds: answer.retryAfterSeconds) }
        return unauthenticated(answer, message, ourClock: ourClock, credentials)
    }

    /// One code for a wrong key, a wrong clock and an expired signature: what we know tells them apart.
    private func unauthenticated(_ answer: TargetAnswer, _ message: String, ourClock: Int, _ credentials: AzureCredentials) -> StoreError {
        let theirs = answer.date ?? HTTPDate(secondsSince1970: ourClock)
        switch credentials {
        case .sharedKey where abs(theirs.secondsSince1970 - ourClock) > Self.skewSecondsMax:
            return answer.clockSkew(at: location, ourClock: ourClock)
        case .sharedKey:
            return StoreError(.credentialsRefused, message, try: "check the key (AZURE_STORAGE_KEY): it is none of the account \(account)")
        case .sharedAccessSignature(let signature) where signature.isExpired(at: theirs):
            return StoreError(
                .credentialsExpired, "\(message); the shared access signature has expired", try: "set a new AZURE_STORAGE_SAS_TOKEN, or renew the credentials file")
        case .sharedAccessSignature:
            return StoreError(
                .credentialsRefused, message,
                try: "check the token (AZURE_STORAGE_SAS_TOKEN): is it whole, for the container \(container), and has its time begun?")
        }
    }

    private static let codes: [String: StoreError.Code] = [
        "BlobNotFound": .notFound, "ContainerNotFound": .bucketMissing, "ContainerBeingDeleted": .bucketMissing, "ResourceNotFound": .bucketMissing,
        "InvalidResourceName": .badLocation, "InvalidUri": .badLocation,
        "InvalidRange": .outOfRange,
        "BlobAlreadyExists": .alreadyExists, "ConditionNotMet": .alreadyExists,
        "AuthenticationFailed": .credentialsRefused, "InvalidAuthenticationInfo": .credentialsRefused, "NoAuthenticationInformation": .credentialsRefused,
        "AuthorizationFailure": .accessDenied, "AuthorizationPermissionMismatch": .accessDenied, "AuthorizationProtocolMismatch": .accessDenied,
        "AuthorizationResourceTypeMismatch": .accessDenied, "AuthorizationServiceMismatch": .accessDenied, "AuthorizationSourceIPMismatch": .accessDenied,
        "InsufficientAccountPermissions": .accessDenied, "KeyBasedAuthenticationNotPermitted": .accessDenied, "AccountIsDisabled": .accessDenied,
        "ContainerDisabled": .accessDenied, "BlobImmutableDueToPolicy": .accessDenied, "LeaseIdMissing": .accessDenied, "SnapshotsPresent": .accessDenied,
        "BlobArchived": .accessDenied, "BlobBeingRehydrated": .accessDenied,
        "ServerBusy": .throttled, "InternalError": .serverFault, "OperationTimedOut": .timedOut,
        // Another upload of this blob was committed while ours was under way, and took our blocks away.
        "InvalidBlockList": .serverFault,
        "Md5Mismatch": .corruptResponse, "InvalidMd5": .corruptResponse,
    ]

    /// The service names every "not found"; one without a name is somebody else's.
    private static func code(status: Int) -> StoreError.Code { status == 404 ? .corruptResponse : StoreError.Code(status: status) }

    private func remedy(_ code: StoreError.Code, _ name: String) -> String {
        switch code {
        case .notFound, .outOfRange: "run `farshore vault check` to see what depends on it"
        case .alreadyExists: "look who else writes to this vault"
        case .bucketMissing: "create the container \(container) with Azure's tools, or correct the vault URL"
        case .badLocation: "correct the names in the vault URL"
        case .credentialsRefused, .credentialsExpired: "check AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"
        case .accessDenied where name == "KeyBasedAuthenticationNotPermitted": "allow access with keys for the account \(account), or use a shared access signature"
        case .accessDenied where name == "BlobImmutableDueToPolicy": "wait until the container's immutability policy lets this blob go"
        case .accessDenied where name == "BlobArchived" || name == "BlobBeingRehydrated": "move the blob back to an online tier (hot, cool or cold)"
        case .accessDenied where name == "SnapshotsPresent": "remove the snapshots of the vault's blobs, and make none: the vault has points of its own"
        case .accessDenied: "allow this request: the rights of the shared access signature, the account's network rules, its state"
        case .throttled, .serverFault, .timedOut: "wait; it is tried again. If it stays, look at the limits and the health of the account \(account)"
        case .notEnoughSpace: "make space in the account \(account)"
        case .corruptResponse: "it is tried again. If it stays, check that the endpoint is Azure Blob Storage, and look at proxies on the way"
        case .redirected: "write the endpoint= of the account in the vault URL"
        default: "check that the endpoint in the vault URL is Azure Blob Storage that can do this"
        }
    }
}
