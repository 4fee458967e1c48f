// A target in an S3 bucket, below a prefix, addressed by path. Requests are signed with SigV4, their payloads with
// SHA-256 and Content-MD5, so a PUT that was answered well was received as sent.
//
// - A request that the target refuses for its credentials is repeated once when the credentials file holds others now.
// - `head` cannot learn why it was refused, as its answers have no body; a GET of one byte asks again for the reason.
// - 404 for an object does not say whether the bucket is there. Before "no such object" is believed the bucket must have
//   been seen within `bucketSeenSecondsMax`: a deleted bucket must not look like an empty vault.

import BlockIO
import Synchronization

package final class S3Store: ObjectStore {
    static let bucketSeenSecondsMax = 30

    let place: S3Location
    let errors: S3Errors
    private let connection: TargetConnection
    private let credentials: CredentialsSource<Credentials>
    private let clock: @Sendable () -> Int
    private let learned = Mutex(Learned())

    private struct Learned {
        var features = StoreFeatures(conditionalPut: false, checksumTrusted: false)
        /// The target was seen to ignore or refuse conditions: no PUT may rely on one.
        var conditionsFail = false
        var clockOffsetSeconds: Int?
        var bucketSeenNanoseconds: UInt64?
    }

    /// `clock` gives seconds since 1970; only tests pass another.
    package init(
        _ place: S3Location, credentials: CredentialsSource<Credentials>, parallelism: Int, deadlines: TargetDeadlines = TargetDeadlines(),
        clock: @escaping @Sendable () -> Int = { Int(Clock.wallNanoseconds() / 1_000_000_000) }
    ) throws(StoreError) {
        self.place = place
        self.credentials = credentials
        self.clock = clock
        connection = try TargetConnection(endpoint: place.endpoint, authoritiesFile: place.authoritiesFile, parallelism: parallelism, deadlines: deadlines)
        errors = S3Errors(location: "s3://\(place.bucket)/\(place.prefix)", bucket: place.bucket, endpoint: place.endpoint.description, region: place.region)
    }

    package var location: String { "s3://\(place.bucket)/\(percentEncodedPath(place.prefix))?endpoint=\(place.endpoint)&region=\(place.region)" }

    package var features: StoreFeatures { learned.withLock { $0.features } }

    package var clockOffsetSeconds: Int? { learned.withLock { $0.clockOffsetSeconds } }

    // MARK: - Objects

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try ObjectKey.check(key)
        try checkSize(of: key, bytes.count, ifAbsent: ifAbsent)
        if bytes.count > ObjectLimits.conditionalBytesMax { return try putInParts(key, bytes) }
        guard ifAbsent else { return try putWhole(key, bytes, md5, headers: []) }
        guard !learned.withLock({ $0.conditionsFail }) else { throw conditionsUnsupported() }
        do throws(StoreError) {
            try putWhole(key, bytes, md5, headers: [("if-none-match", "*")])
        } catch {
            guard error.code == .unsupported else { throw error }
            learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (false, true) }
            throw conditionsUnsupported()
        }
    }

    private func putWhole(_ key: String, _ bytes: [UInt8], _ md5: [UInt8]?, headers: [(name: String, value: String)]) throws(StoreError) {
        let type = [(name: "content-type", value: "application/octet-stream")]
        try succeed(TargetRequest(.put, path: path(key), headers: headers + type, body: bytes, bodyMD5: md5), "PUT of \(key)")
    }

    private func conditionsUnsupported() -> StoreError {
        StoreError(.unsupported, "\(errors.location): the target cannot refuse to replace an object", try: "use put without the condition")
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        try ObjectKey.check(key)
        guard let range else {
            return try succeed(TargetRequest(.get, path: path(key), answerBytesMax: ObjectLimits.objectBytesMax), "GET of \(key)").body
        }
        if range.isEmpty { return [] }
        guard range.count <= ObjectLimits.objectBytesMax else {
            throw StoreError(.unsupported, "\(errors.location): \(range.count) bytes of \(key) at once are too many", try: "report this")
        }
        let header = (name: "range", value: "bytes=\(range.lowerBound)-\(range.upperBound - 1)")
        let request = TargetRequest(.get, path: path(key), headers: [header], answerBytesMax: range.count)
        return try succeed(request, "GET of \(range) of \(key)").bytes(of: range, of: key, at: errors.location)
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        try ObjectKey.check(key)
        do throws(StoreError) {
            let request = TargetRequest(.get, path: path(key), headers: [("range", "bytes=0-\(count - 1)")], answerBytesMax: count)
            return try succeed(request, "GET of the start of \(key)").start(count, of: key, at: errors.location)
        } catch where error.code == .outOfRange {
            // An empty object has no first byte.
            return try get(key, range: nil)
        }
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try ObjectKey.check(key)
        let answer = try exchange(TargetRequest(.head, path: path(key)))
        switch answer.status {
        case 200:
            guard let size = answer.headers["content-length"].flatMap({ UInt64($0) }) else {
                throw StoreError(.corruptResponse, "\(errors.location): HEAD of \(key) states no size", try: "look at proxies on the way")
            }
            return ObjectInfo(sizeBytes: size, md5: Self.contentMD5(answer))
        case 404:
            try seeBucket()
            return nil
        case 500...:
            throw failure(answer, "HEAD of \(key)")
        default:
            let asked = try exchange(TargetRequest(.get, path: path(key), headers: [("range", "bytes=0-0")]))
            // What refused the first is over, and the second says what the first was asked.
            if asked.status == 404, S3ErrorBody(asked.body)?.Code == "NoSuchKey" {
                try seeBucket()
                return nil
            }
            throw failure(asked.status >= 300 ? asked : answer, "HEAD of \(key)")
        }
    }

    /// An ETag is the content's MD5 unless the object went up in parts or the target encrypts it with a key of its own.
    private static func contentMD5(_ answer: TargetAnswer) -> [UInt8]? {
        let isEncrypted = answer.headers["x-amz-server-side-encryption"]?.hasPrefix("aws:kms") == true
            || answer.headers["x-amz-server-side-encryption-customer-algorithm"] != nil
        let digits = (answer.headers["etag"] ?? "").utf8.filter { $0 != UInt8(ascii: "\"") }
        let values = digits.compactMap(hexValue)
        guard !isEncrypted, digits.count == 32, values.count == 32 else { return nil }
        return stride(from: 0, to: 32, by: 2).map { values[$0] << 4 | values[$0 + 1] }
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        for key in keys { try ObjectKey.check(key) }
        var rest = keys[...]
        while !rest.isEmpty {
            try delete(rest.prefix(ObjectLimits.listPageKeys).map { ($0, nil) })
            rest = rest.dropFirst(ObjectLimits.listPageKeys)
        }
    }

    /// At most a page of them.
    func delete(_ keys: [(key: String, version: String?)]) throws(StoreError) {
        let body = S3Documents.deletion(of: keys.map { (place.prefix + $0.key, $0.version) })
        let request = TargetRequest(
            .post, path: bucketPath, query: [("delete", "")], headers: [("content-type", "application/xml")], body: body, answerBytesMax: 4 << 20)
        let answer = try succeed(request, "deletion of \(keys.count) objects")
        guard let result = XMLDocument.read(S3DeleteBody.self, answer.body) else { throw damaged("deletion") }
        let failures = (result.Error ?? []).filter { $0.Code != "NoSuchKey" && $0.Code != "NoSuchVersion" }
        guard let first = failures.first else { return }
        let xml = "<Error><Code>\(first.Code ?? "InternalError")</Code></Error>"
        throw failure(TargetAnswer(status: 500, headers: [:], body: Array(xml.utf8)), "deletion of \(failures.count) of \(keys.count) objects, \(first.Key ?? "?") first,")
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try ObjectKey.checkPrefix(prefix)
        var query = [
            (name: "list-type", value: "2"), (name: "prefix", value: place.prefix + prefix), (name: "max-keys", value: "\(ObjectLimits.listPageKeys)"),
            (name: "encoding-type", value: "url"),
        ]
        if let startAfter { query.append((name: "start-after", value: place.prefix + startAfter)) }
        let answer = try succeed(TargetRequest(.get, path: bucketPath, query: query, answerBytesMax: 8 << 20), "list of \(prefix)")
        guard let page = XMLDocument.read(S3ListBody.self, answer.body) else { throw damaged("list") }
        var objects: [ListedObject] = []
        for object in page.Contents ?? [] {
            guard let key = page.EncodingType == "url" ? formDecoded(object.Key) : object.Key, key.utf8.starts(with: (place.prefix + prefix).utf8) else {
                throw damaged("list")
            }
            objects.append(ListedObject(key: String(decoding: key.utf8.dropFirst(place.prefix.utf8.count), as: UTF8.self), sizeBytes: object.Size))
        }
        return ListPage(objects: objects, isTruncated: page.IsTruncated)
    }

    func damaged(_ what: String) -> StoreError {
        StoreError(.corruptResponse, "\(errors.location): the answer to a \(what) cannot be read", try: "check that the endpoint is an S3 service")
    }

    // MARK: - What the target can do

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        do throws(StoreError) {
            try put(key, bytes, ifAbsent: true)
            // Accepted over an existing object: the header was ignored. The bytes are the same, so nothing is lost.
            learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (false, true) }
        } catch {
            switch error.code {
            case .alreadyExists: learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (true, false) }
            case .unsupported: break
            default: throw error
            }
        }
        let stated = try head(key)?.md5
        learned.withLock { $0.features.checksumTrusted = stated == Digests.md5(bytes) }
    }

    private func seeBucket() throws(StoreError) {
        let seen = learned.withLock { $0.bucketSeenNanoseconds }
        // After that one: other threads write theirs meanwhile.
        let now = Clock.monotonicNanoseconds()
        if let seen, now - seen < UInt64(Self.bucketSeenSecondsMax) * 1_000_000_000 { return }
        let answer = try exchange(TargetRequest(.head, path: bucketPath))
        switch answer.status {
        case 404: throw failure(TargetAnswer(status: 404, headers: [:], body: Array("<Error><Code>NoSuchBucket</Code></Error>".utf8)), "HEAD of the bucket")
        // 403: who may only read objects may not ask for the bucket, but it is there.
        case 200..<300, 403: learned.withLock { $0.bucketSeenNanoseconds = now }
        default: throw failure(answer, "HEAD of the bucket")
        }
    }

    // MARK: - Exchanges

    var bucketPath: String { "/" + place.bucket }

    func path(_ key: String) -> String { bucketPath + "/" + percentEncodedPath(place.prefix + key) }

    func failure(_ answer: TargetAnswer, _ what: String) -> StoreError {
        errors.error(answer, for: what, ourClock: clock(), isTemporary: credentials.current.sessionToken != nil)
    }

    @discardableResult
    func succeed(_ request: TargetRequest, _ what: String) throws(StoreError) -> TargetAnswer {
        let answer = try exchange(request)
        guard (200..<300).contains(answer.status) else { throw failure(answer, what) }
        learned.withLock { $0.bucketSeenNanoseconds = Clock.monotonicNanoseconds() }
        return answer
    }

    /// Signed with the credentials in use; once more when they are refused and the source has others by now.
    private func exchange(_ request: TargetRequest) throws(StoreError) -> TargetAnswer {
        let used = credentials.current
        let answer = try send(request, used)
        guard [400, 401, 403].contains(answer.status), try credentials.renew(after: used) else { return answer }
        return try send(request, credentials.current)
    }

    private func send(_ request: TargetRequest, _ credentials: Credentials) throws(StoreError) -> TargetAnswer {
        let signature = Signature(credentials: credentials, region: place.region, date: HTTPDate(secondsSince1970: clock()))
        let answer = try connection.exchange(signature.signed(request, host: place.endpoint.authority))
        if let theirs = answer.date {
            learned.withLock { $0.clockOffsetSeconds = theirs.secondsSince1970 - clock() }
        }
        return answer
    }
}
