// A request as it is signed and sent, and its answer. The path is already encoded, so what the signature covers is what
// goes over the wire. Of answers: what both kinds of target tell in the same way.

package struct TargetRequest {
    package enum Method: String { case get = "GET", put = "PUT", head = "HEAD", post = "POST", delete = "DELETE" }

    package let method: Method
    /// `/bucket/key` or `/container/key`, percent-encoded but for `/`.
    let path: String
    /// Names and values, not encoded.
    package var query: [(name: String, value: String)]
    /// Lower-case names.
    package var headers: [(name: String, value: String)]
    let body: [UInt8]
    /// An answer with a larger body is refused.
    let answerBytesMax: Int

    package init(
        _ method: Method, path: String, query: [(name: String, value: String)] = [], headers: [(name: String, value: String)] = [], body: [UInt8] = [],
        bodyMD5: [UInt8]? = nil, answerBytesMax: Int = 256 << 10
    ) {
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.answerBytesMax = max(answerBytesMax, 256 << 10)
        if method == .put || method == .post { self.headers.append(("content-md5", base64(bodyMD5 ?? Digests.md5(body)))) }
    }

    /// Sorted by encoded name, as S3's signature wants it.
    var encodedQuery: String {
        query.map { (percentEncoded($0.name, keepingSlash: false), percentEncoded($0.value, keepingSlash: false)) }
            .sorted { $0 < $1 }
            .map { "\($0)=\($1)" }
            .joined(separator: "&")
    }

    var target: String { query.isEmpty ? path : "\(path)?\(encodedQuery)" }
}

struct TargetAnswer {
    let status: Int
    /// Lower-case names; of repeated headers the first.
    let headers: [String: String]
    let body: [UInt8]
}

extension TargetAnswer {
    var date: HTTPDate? { headers["date"].flatMap(HTTPDate.init(header:)) }

    /// A throttling target's own wish. The form with a date is not used by any target known.
    var retryAfterSeconds: Int? { headers["retry-after"].flatMap { Int($0) } }

    /// The target must have sent this very range: `Content-Range` states what it sent and the object's size.
    func bytes(of range: Range<UInt64>, of key: String, at location: String) throws(StoreError) -> [UInt8] {
        let stated = headers["content-range"] ?? ""
        if status == 206, stated.hasPrefix("bytes \(range.lowerBound)-\(range.upperBound - 1)/"), body.count == range.count { return body }
        let size = stated.split(separator: "/").last.flatMap { UInt64($0) }
        if status == 206, let size, size < range.upperBound {
            throw StoreError(
                .outOfRange, "\(location): \(key) has \(size) bytes, asked for were \(range)", try: "run `farshore vault check` to see what depends on it")
        }
        throw StoreError(
            .corruptResponse, "\(location): GET of \(range) of \(key) was answered with status \(status), \(body.count) bytes",
            try: "check that the target supports ranges")
    }

    /// The first `count` bytes of the object, or all of it: a target may answer with the whole of a smaller one.
    func start(_ count: Int, of key: String, at location: String) throws(StoreError) -> [UInt8] {
        let stated = headers["content-range"] ?? ""
        let size = stated.split(separator: "/").last.flatMap { UInt64($0) }
        if status == 206, let size, UInt64(body.count) == min(size, UInt64(count)), stated.hasPrefix("bytes 0-\(body.count - 1)/") { return body }
        if status == 200, body.count <= count { return body }
        throw StoreError(
            .corruptResponse, "\(location): GET of the first \(count) bytes of \(key) was answered with status \(status), \(body.count) bytes",
            try: "check that the target supports ranges")
    }

    func clockSkew(at location: String, ourClock: Int) -> StoreError {
        let ours = HTTPDate(secondsSince1970: ourClock).readable
        return StoreError(
            .clockSkew, "\(location): the target refuses this host's clock: ours says \(ours), the target's \(date?.readable ?? "unknown")",
            try: "set the clock right (timedatectl set-ntp true)")
    }

    /// A hostile target must not reach the terminal with escape sequences or floods.
    static func printable(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.prefix(300).filter { $0.value >= 0x20 && $0.value != 0x7F && !(0x80..<0xA0).contains($0.value) }))
    }
}

extension StoreError.Code {
    /// For an answer without an error code that is known.
    init(status: Int) {
        self = switch status {
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
}
