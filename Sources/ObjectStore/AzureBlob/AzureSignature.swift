// SharedKey, the signature of Azure Storage with a key of the account, as of version 2015-02-21. Pure: time and key are given.
// Specification: learn.microsoft.com, "Authorize with Shared Key".

package struct AzureSignature {
    let account: String
    let key: [UInt8]

    package init(account: String, key: [UInt8]) { (self.account, self.key) = (account, key) }

    package func authorization(_ request: TargetRequest) -> String {
        "SharedKey \(account):\(base64(Digests.hmacSHA256(key: key, Array(stringToSign(request).utf8))))"
    }

    /// Every request has `x-ms-date`, so the place of `Date` stays empty.
    package func stringToSign(_ request: TargetRequest) -> String {
        let headers = Dictionary(request.headers) { first, _ in first }
        func value(_ name: String) -> String { headers[name] ?? "" }
        let length = request.body.isEmpty ? "" : "\(request.body.count)"
        let lines = [
            request.method.rawValue, value("content-encoding"), value("content-language"), length, value("content-md5"), value("content-type"), "",
            value("if-modified-since"), value("if-match"), value("if-none-match"), value("if-unmodified-since"), value("range"),
        ]
        let own = headers.keys.filter { $0.hasPrefix("x-ms-") }.sorted().map { "\($0):\(value($0))" }
        // Each name is there once in all requests of ours.
        let query = request.query.map { (name: $0.name.lowercased(), value: $0.value) }.sorted { $0.name < $1.name }.map { "\n\($0.name):\($0.value)" }
        return (lines + own + ["/\(account)\(request.path)\(query.joined())"]).joined(separator: "\n")
    }
}
