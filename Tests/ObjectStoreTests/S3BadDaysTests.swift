// What real services do only on bad days, played by a scripted server: hangs, cut answers, redirects, expired tokens,
// targets that ignore conditions or ranges, hostile XML. Each is a named error with a remedy, none is a wrong byte.

import Foundation
import ObjectStore
import Synchronization
import Testing

@Suite(.timeLimit(.minutes(2))) struct S3BadDaysTests {
    static let environment = ["AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "topsecret"]

    /// A store without retries and with short deadlines against a server that answers as given.
    private func withServer(
        _ answer: @escaping @Sendable (Int, ScriptedServer.Request) -> ScriptedServer.Answer, _ body: (S3Store, ScriptedServer) throws -> Void
    ) throws {
        let server = try ScriptedServer(answer)
        defer { server.end() }
        guard case .s3(let place) = try StoreLocation("s3://bucket/p?endpoint=\(server.endpoint)") else { return }
        var deadlines = TargetDeadlines()
        (deadlines.connectSeconds, deadlines.idleSeconds, deadlines.requestSeconds) = (2, 1, 3)
        deadlines.slowestBytesPerSecond = 10 << 20
        let credentials = try CredentialsSource(environment: Self.environment, profile: nil)
        try body(try S3Store(place, credentials: credentials, parallelism: 2, deadlines: deadlines), server)
    }

    private static func xml(_ code: String, _ more: String = "") -> String {
        "<?xml version=\"1.0\"?><Error><Code>\(code)</Code><Message>Told by the target</Message>\(more)</Error>"
    }

    @Test func hungServerTimesOut() throws {
        try withServer({ _, _ in .hang }) { store, _ in
            let start = ContinuousClock.now
            expectCode(.timedOut) { _ = try store.get("k") }
            expectCode(.timedOut) { try store.put("k", [1], ifAbsent: false) }
            #expect(ContinuousClock.now - start < .seconds(8))
        }
    }

    /// Bytes trickle, so nothing is ever idle: the deadline of the whole request ends it.
    @Test func tricklingServerTimesOut() throws {
        try withServer({ _, _ in .trickle(body: 1000) }) { store, _ in
            let start = ContinuousClock.now
            expectCode(.timedOut) { _ = try store.get("k", range: 0..<1000) }
            #expect(ContinuousClock.now - start < .seconds(8))
        }
    }

    @Test func nobodyListens() throws {
        let server = try ScriptedServer { _, _ in .close }
        server.end()
        let store = try openStore(url: "s3://bucket?endpoint=\(server.endpoint)", environment: Self.environment)
        let error = expectCode(.unreachable) { _ = try store.get("k") }
        #expect(error?.isRecoverable == true)
        #expect(error?.message == "\(server.endpoint) cannot be reached: Connection refused", "\(error?.message ?? "")")
    }

    @Test func unknownHost() throws {
        let store = try openStore(url: "s3://bucket?endpoint=http://no-such-host.invalid", environment: Self.environment)
        expectCode(.unreachable) { _ = try store.get("k") }
    }

    @Test(arguments: ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", "", "gibberish\r\n\r\n"])
    func cutAnswersAreNoObjects(_ answer: String) throws {
        try withServer({ _, _ in .raw(answer) }) { store, _ in
            do {
                let bytes = try store.get("k")
                Issue.record("\(bytes.count) bytes passed as the object")
            } catch let error as StoreError {
                #expect([.unreachable, .corruptResponse].contains(error.code) && error.isRecoverable, "\(error.message)")
            }
        }
    }

    @Test func answersLargerThanAskedForAreRefused() throws {
        let flood = String(repeating: "x", count: 400 << 10)
        try withServer({ _, _ in .reply(206, headers: ["Content-Range": "bytes 0-9/10"], body: flood) }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.get("k", range: 0..<10) }
        }
    }

    @Test func ignoredRangesAreNotTaken() throws {
        try withServer({ _, _ in .reply(200, body: "0123456789") }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.get("k", range: 0..<10) }
        }
        try withServer({ _, _ in .reply(206, headers: ["Content-Range": "bytes 5-9/10"], body: "56789") }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.get("k", range: 0..<5) }
        }
    }

    static let refusals: [(Int, String, StoreError.Code, String)] = [
        (400, xml("ExpiredToken"), .credentialsExpired, "new temporary credentials"), (403, xml("InvalidToken"), .credentialsRefused, "session token"),
        (503, xml("SlowDown"), .throttled, "wait"), (429, "", .throttled, "wait"), (500, xml("InternalError"), .serverFault, "wait"),
        (502, "<html>Bad gateway</html>", .serverFault, "wait"), (403, xml("QuotaExceeded"), .notEnoughSpace, "quota"), (507, "", .notEnoughSpace, "quota"),
        (301, xml("PermanentRedirect", "<Endpoint>other.example</Endpoint>"), .redirected, "endpoint="), (307, "", .redirected, "endpoint="),
        (400, xml("AuthorizationHeaderMalformed", "<Region>eu-south-2</Region>"), .credentialsRefused, "region=eu-south-2"), (400, xml("BadDigest"), .corruptResponse, "tried again"),
        (405, "", .unsupported, "S3 service"), (404, xml("NoSuchBucket"), .bucketMissing, "create the bucket"),
    ]

    @Test(arguments: refusals.indices) func refusalsAreExplained(_ index: Int) throws {
        let (status, body, code, remedy) = Self.refusals[index]
        try withServer({ _, _ in .reply(status, body: body) }) { store, _ in
            for request in [{ _ = try store.get("k") }, { try store.put("k", [1], ifAbsent: false) }] as [() throws -> Void] {
                guard let error = expectCode(code, request) else { continue }
                #expect(error.remedy.contains(remedy), "\(error.remedy)")
                #expect(!error.message.contains("topsecret") && !error.remedy.contains("topsecret"))
            }
        }
    }

    @Test func messagesOfTheTargetCannotReachTheTerminal() throws {
        let hostile = "<Error><Code>InternalError</Code><Message>\u{9B}31m\u{7F}red" + String(repeating: "z", count: 5000) + "</Message></Error>"
        try withServer({ _, _ in .reply(500, body: hostile) }) { store, _ in
            let error = expectCode(.serverFault) { _ = try store.get("k") }
            #expect(error.map { $0.message.unicodeScalars.allSatisfy { $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) } && $0.message.count < 1000 } == true)
        }
    }

    static let hostileLists = [
        "", "<", "<ListBucketResult>", "<ListBucketResult><IsTruncated>maybe</IsTruncated></ListBucketResult>", "not xml at all",
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/k</Key><Size>-1</Size></Contents></ListBucketResult>",
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>elsewhere/k</Key><Size>1</Size></Contents></ListBucketResult>",
        "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents><Key>p/%FF</Key><Size>1</Size></Contents></ListBucketResult>",
        "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;\">]><ListBucketResult>&c;</ListBucketResult>",
        String(repeating: "<a>", count: 100_000),
    ]

    @Test(arguments: hostileLists.indices) func hostileListsAreRefused(_ index: Int) throws {
        try withServer({ _, _ in .reply(200, body: Self.hostileLists[index]) }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.list(prefix: "", startAfter: nil) }
        }
    }

    @Test func headIsExplainedByGet() throws {
        try withServer({ _, request in request.method == "HEAD" ? .reply(403) : .reply(400, body: Self.xml("ExpiredToken")) }) { store, server in
            expectCode(.credentialsExpired) { _ = try store.head("k") }
            #expect(server.requests.map(\.method) == ["HEAD", "GET"])
        }
    }

    @Test func aRefusalThatIsOverIsNoError() throws {
        let answers = Mutex(0)
        try withServer({ _, request in
            if request.method == "GET" { return .reply(404, body: Self.xml("NoSuchKey")) }
            return .reply(answers.withLock { $0 += 1; return $0 } == 1 ? 400 : 200)
        }) { store, _ in
            let found = try store.head("k")
            #expect(found == nil)
        }
    }

    @Test func onlyTrueMD5sAreStated() throws {
        let digits = "5d41402abc4b2a76b9719d911017c592"
        let cases: [([String: String], [UInt8]?)] = [
            (["ETag": "\"\(digits)\""], hex(digits)), (["ETag": digits.uppercased()], hex(digits)), (["ETag": "\"\(digits)-2\""], nil), ([:], nil),
            (["ETag": "\"\(digits)\"", "x-amz-server-side-encryption": "aws:kms"], nil), (["ETag": "\"5d41\""], nil),
            (["ETag": "\"\(digits)\"", "x-amz-server-side-encryption": "AES256"], hex(digits)),
        ]
        for (headers, md5) in cases {
            try withServer({ _, _ in .reply(200, headers: headers.merging(["Content-Length": "5"]) { $1 }) }) { store, _ in
                let info = try store.head("k")
                #expect(info == ObjectInfo(sizeBytes: 5, md5: md5), "\(headers)")
            }
        }
    }

    // MARK: - Conditions

    @Test func ignoredConditionsAreFound() throws {
        try withServer({ _, request in request.method == "HEAD" ? .reply(200, headers: ["Content-Length": "1"]) : .reply(200) }) { store, server in
            try store.probe(existing: "farshore.json", [1])
            #expect(store.features == StoreFeatures(conditionalPut: false, checksumTrusted: false))
            let sent = server.requests.count
            expectCode(.unsupported) { try store.put("heads/1", [1], ifAbsent: true) }
            #expect(server.requests.count == sent)
            try store.put("heads/1", [1], ifAbsent: false)
        }
    }

    @Test func refusedConditionsAreFound() throws {
        try withServer({ _, request in
            if request.method == "HEAD" { return .reply(404) }
            return request.headers["if-none-match"] == nil ? .reply(200) : .reply(501, body: Self.xml("NotImplemented"))
        }) { store, _ in
            expectCode(.unsupported) { try store.put("heads/1", [1], ifAbsent: true) }
            #expect(!store.features.conditionalPut)
            try store.put("heads/1", [1], ifAbsent: false)
        }
    }

    // MARK: - Parts

    private static let large = patternBytes((64 << 20) + 1, seed: 4)

    @Test func failedUploadsAreEnded() throws {
        try withServer({ index, request in
            if request.target.contains("?uploads") { return .reply(200, body: "<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>") }
            if request.target.contains("partNumber=2") { return .reply(500, body: Self.xml("InternalError")) }
            return request.method == "DELETE" ? .reply(204) : .reply(200, headers: ["ETag": "\"e\""])
        }) { store, server in
            expectCode(.serverFault) { try store.put("k", Self.large, ifAbsent: false) }
            #expect(server.requests.map(\.method) == ["POST", "PUT", "PUT", "DELETE"])
            #expect(server.requests.last?.target == "/bucket/p/k?uploadId=u-1")
        }
    }

    @Test func aFailureAfterStatus200IsOne() throws {
        try withServer({ _, request in
            if request.target.contains("?uploads") { return .reply(200, body: "<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>") }
            if request.method == "POST" { return .reply(200, body: Self.xml("InternalError")) }
            return request.method == "DELETE" ? .reply(204) : .reply(200, headers: ["ETag": "\"e\""])
        }) { store, server in
            expectCode(.serverFault) { try store.put("k", Self.large, ifAbsent: false) }
            #expect(server.requests.last?.method == "DELETE")
        }
    }

    @Test func deletionsThatFailInPartAreErrors() throws {
        let body = "<DeleteResult><Error><Key>p/b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
        try withServer({ _, _ in .reply(200, body: body) }) { store, _ in
            expectCode(.accessDenied) { try store.delete(["a", "b"]) }
        }
    }

    @Test func bodiesCarryTheirChecksums() throws {
        try withServer({ _, _ in .reply(200) }) { store, server in
            try store.put("k", Array("hello".utf8), ifAbsent: true)
            let request = try #require(server.requests.first)
            #expect(request.headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg==")
            #expect(request.headers["x-amz-content-sha256"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
            #expect(request.headers["if-none-match"] == "*")
            #expect(request.target == "/bucket/p/k")
        }
    }
}
