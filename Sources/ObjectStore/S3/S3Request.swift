// A request as it is signed and sent: every header here is signed, and the path and query are already encoded, so what
// the signature covers is what goes over the wire.

package struct S3Request {
    package enum Method: String { case get = "GET", put = "PUT", head = "HEAD", post = "POST", delete = "DELETE" }

    package let method: Method
    /// `/bucket/key`, percent-encoded but for `/`.
    let path: String
    /// Names and values, not encoded.
    let query: [(name: String, value: String)]
    /// Lower-case names.
    package var headers: [(name: String, value: String)]
    let body: [UInt8]
    /// An answer with a larger body is refused.
    let answerBytesMax: Int

    package init(
        _ method: Method, path: String, query: [(name: String, value: String)] = [], headers: [(name: String, value: String)] = [], body: [UInt8] = [],
        answerBytesMax: Int = 256 << 10
    ) {
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.answerBytesMax = max(answerBytesMax, 256 << 10)
        if method == .put || method == .post { self.headers.append(("content-md5", base64(Digests.md5(body)))) }
    }

    /// Sorted by encoded name, as the signature wants it.
    var encodedQuery: String {
        query.map { (percentEncoded($0.name, keepingSlash: false), percentEncoded($0.value, keepingSlash: false)) }
            .sorted { $0 < $1 }
            .map { "\($0)=\($1)" }
            .joined(separator: "&")
    }

    var target: String { query.isEmpty ? path : "\(path)?\(encodedQuery)" }
}

struct S3Answer {
    let status: Int
    /// Lower-case names; of repeated headers the first.
    let headers: [String: String]
    let body: [UInt8]
}
