// AWS Signature Version 4 in the Authorization header, the payload's SHA-256 signed. Pure: time and keys are given.
// Specification: docs.aws.amazon.com, "Create a signed AWS API request".

package struct Signature {
    let credentials: Credentials
    let region: String
    let date: HTTPDate
    private let service = "s3"

    package init(credentials: Credentials, region: String, date: HTTPDate) {
        (self.credentials, self.region, self.date) = (credentials, region, date)
    }

    /// The request with `host`, the `x-amz-…` headers and `authorization` added.
    package func signed(_ request: TargetRequest, host: String) -> TargetRequest {
        var signed = request
        let payloadHash = hexString(Digests.sha256(request.body))
        signed.headers.append(("host", host))
        signed.headers.append(("x-amz-content-sha256", payloadHash))
        signed.headers.append(("x-amz-date", date.stamp))
        if let token = credentials.sessionToken { signed.headers.append(("x-amz-security-token", token)) }
        signed.headers.sort { $0.name < $1.name }

        let names = signed.headers.map(\.name).joined(separator: ";")
        let scope = "\(date.day8)/\(region)/\(service)/aws4_request"
        let canonical = canonicalRequest(signed, names: names, payloadHash: payloadHash)
        let text = "AWS4-HMAC-SHA256\n\(date.stamp)\n\(scope)\n\(hexString(Digests.sha256(Array(canonical.utf8))))"
        let proof = hexString(Digests.hmacSHA256(key: signingKey(), Array(text.utf8)))
        let authorization = "AWS4-HMAC-SHA256 Credential=\(credentials.accessKeyID)/\(scope), SignedHeaders=\(names), Signature=\(proof)"
        signed.headers.append(("authorization", authorization))
        return signed
    }

    private func canonicalRequest(_ request: TargetRequest, names: String, payloadHash: String) -> String {
        let headers = request.headers.map { "\($0.name):\($0.value)\n" }.joined()
        return "\(request.method.rawValue)\n\(request.path)\n\(request.encodedQuery)\n\(headers)\n\(names)\n\(payloadHash)"
    }

    private func signingKey() -> [UInt8] {
        [date.day8, region, service, "aws4_request"].reduce(Array("AWS4\(credentials.secretAccessKey)".utf8)) {
            Digests.hmacSHA256(key: $0, Array($1.utf8))
        }
    }
}
