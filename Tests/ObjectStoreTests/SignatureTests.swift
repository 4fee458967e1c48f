// The signature against the examples of Amazon's documentation ("Authenticating Requests: Using the Authorization
// Header"), and the dates in it.

import ObjectStore
import Testing

@Suite struct SignatureTests {
    private let signature = Signature(
        credentials: Credentials(accessKeyID: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), region: "us-east-1",
        date: HTTPDate(secondsSince1970: 1_369_353_600))

    private func proof(_ request: TargetRequest) -> String {
        let headers = signature.signed(request, host: "examplebucket.s3.amazonaws.com").headers
        return headers.last { $0.name == "authorization" }.map { String($0.value.split(separator: "=").last ?? "") } ?? ""
    }

    @Test func getObject() {
        let request = TargetRequest(.get, path: "/test.txt", headers: [("range", "bytes=0-9")])
        #expect(proof(request) == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    }

    @Test func getBucketLifecycle() {
        #expect(proof(TargetRequest(.get, path: "/", query: [("lifecycle", "")])) == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
    }

    @Test func listObjects() {
        let request = TargetRequest(.get, path: "/", query: [("prefix", "J"), ("max-keys", "2")])
        #expect(proof(request) == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
    }

    @Test func sessionTokensAreSigned() {
        let temporary = Signature(
            credentials: Credentials(accessKeyID: "A", secretAccessKey: "B", sessionToken: "tok"), region: "r", date: HTTPDate(secondsSince1970: 0))
        let headers = temporary.signed(TargetRequest(.get, path: "/"), host: "h").headers
        #expect(headers.contains { $0 == ("x-amz-security-token", "tok") })
        #expect(headers.contains { $0.name == "authorization" && $0.value.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,") })
    }

    @Test func dates() throws {
        #expect(HTTPDate(secondsSince1970: 1_369_353_600).stamp == "20130524T000000Z")
        #expect(HTTPDate(secondsSince1970: 951_868_799).readable == "2000-02-29 23:59:59 UTC")
        #expect(HTTPDate(secondsSince1970: 1_795_255_021).header == "Sat, 21 Nov 2026 09:57:01 GMT")
        #expect(HTTPDate(secondsSince1970: 0).header == "Thu, 01 Jan 1970 00:00:00 GMT")
        #expect(HTTPDate(secondsSince1970: -1).stamp == "19691231T235959Z")
        #expect(try #require(HTTPDate(header: "Thu, 29 Feb 2024 12:34:56 GMT")).secondsSince1970 == 1_709_210_096)
        for second in stride(from: 0, to: 4_000_000_000, by: 86_399 * 37) {
            #expect(HTTPDate(secondsSince1970: second).secondsSince1970 == second)
        }
        for wrong in ["", "now", "Thu, 29 Feb 2024 12:34:56", "Thu, 32 Feb 2024 12:34:56 GMT", "Thu, 29 Foo 2024 12:34:56 GMT", "Thu, 29 Feb 2024 25:34:56 GMT"] {
            #expect(HTTPDate(header: wrong) == nil)
        }
    }
}
