// What Azure does only on bad days, played by a scripted server. Hangs and cut answers meet the connection that S3 has too:
// S3BadDaysTests.

import Foundation
import ObjectStore
import Testing

@Suite(.timeLimit(.minutes(1))) struct AzureBadDaysTests {
    static let environment = ["AZURE_STORAGE_KEY": Data("topsecret".utf8).base64EncodedString()]

    /// A store without retries against a server that answers as given.
    private func withServer(
        _ answer: @escaping @Sendable (Int, ScriptedServer.Request) -> ScriptedServer.Answer, _ body: (AzureBlobStore, ScriptedServer) throws -> Void
    ) throws {
        let server = try ScriptedServer(answer)
        defer { server.end() }
        guard case .azure(let place) = try StoreLocation("azblob://account/container/p?endpoint=\(server.endpoint)/account") else { return }
        try body(try AzureBlobStore(place, credentials: CredentialsSource(environment: Self.environment, place), parallelism: 2), server)
    }

    private static func refusal(_ status: Int, _ code: String, _ more: [String: String] = [:]) -> ScriptedServer.Answer {
        .reply(status, headers: more.merging(["x-ms-error-code": code]) { $1 }, body: "<Error><Code>\(code)</Code><Message>Told.\nRequestId:1</Message></Error>")
    }

    static let refusals: [(Int, String, StoreError.Code, String)] = [
        (503, "ServerBusy", .throttled, "wait"), (500, "InternalError", .serverFault, "wait"), (500, "OperationTimedOut", .timedOut, "wait"),
        (403, "AuthenticationFailed", .credentialsRefused, "AZURE_STORAGE_KEY"), (403, "AuthorizationFailure", .accessDenied, "network rules"),
        (403, "KeyBasedAuthenticationNotPermitted", .accessDenied, "shared access signature"), (409, "BlobImmutableDueToPolicy", .accessDenied, "immutability"),
        (412, "LeaseIdMissing", .accessDenied, "allow"), (409, "BlobArchived", .accessDenied, "online tier"), (409, "ContainerBeingDeleted", .bucketMissing, "create the container"),
        (404, "ContainerNotFound", .bucketMissing, "create the container"), (400, "Md5Mismatch", .corruptResponse, "tried again"),
        (400, "InvalidHeaderValue", .unsupported, "Azure Blob Storage"), (307, "", .redirected, "endpoint="), (400, "InvalidBlockList", .serverFault, "wait"),
    ]

    @Test(arguments: refusals.indices) func refusalsAreExplained(_ index: Int) throws {
        let (status, name, code, remedy) = Self.refusals[index]
        try withServer({ _, _ in Self.refusal(status, name) }) { store, _ in
            let requests: [() throws -> Void] = [
                { _ = try store.get("k") }, { _ = try store.head("k") }, { try store.put("k", [1], ifAbsent: false) }, { try store.delete(["k"]) },
            ]
            for request in requests {
                guard let error = expectCode(code, request) else { continue }
                #expect(error.remedy.contains(remedy), "\(error.remedy)")
                #expect(!error.message.contains("topsecret") && !error.message.contains("RequestId"))
            }
        }
    }

    @Test func aBusyServiceSaysHowLong() throws {
        try withServer({ _, _ in Self.refusal(503, "ServerBusy", ["Retry-After": "7"]) }) { store, _ in
            let error = expectCode(.throttled) { _ = try store.get("k") }
            #expect(error?.retryAfterSeconds == 7)
        }
    }

    /// A proxy's or another service's 404 is no word on the blob.
    @Test func onlyTheServiceCanSayThatABlobIsNotThere() throws {
        try withServer({ _, _ in .reply(404, body: "<html>not here</html>") }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.head("k") }
            expectCode(.corruptResponse) { _ = try store.get("k") }
            expectCode(.corruptResponse) { try store.delete(["k"]) }
        }
        try withServer({ _, _ in Self.refusal(404, "BlobNotFound") }) { store, _ in
            #expect(try store.head("k") == nil)
            expectCode(.notFound) { _ = try store.get("k") }
            try store.delete(["k", "l"])
        }
    }

    @Test func ignoredConditionsAreFound() throws {
        try withServer({ _, request in request.method == "HEAD" ? .reply(200, headers: ["Content-Length": "1"]) : .reply(201) }) { store, server in
            try store.probe(existing: "farshore.json", [1])
            #expect(store.features == StoreFeatures(conditionalPut: false, checksumTrusted: false))
            let sent = server.requests.count
            expectCode(.unsupported) { try store.put("heads/1", [1], ifAbsent: true) }
            #expect(server.requests.count == sent)
        }
    }

    @Test func putsCarryChecksumAndCondition() throws {
        try withServer({ _, _ in .reply(201) }) { store, server in
            try store.put("a b/k", Array("hello".utf8), ifAbsent: true)
            let request = try #require(server.requests.first)
            #expect((request.method, request.target) == ("PUT", "/account/container/p/a%20b/k"))
            #expect(request.headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg==")
            #expect(request.headers["if-none-match"] == "*" && request.headers["x-ms-blob-type"] == "BlockBlob")
            #expect(request.headers["x-ms-version"] == "2021-12-02" && request.headers["authorization"]?.hasPrefix("SharedKey account:") == true)
        }
    }

    /// The ids depend on nothing but the bytes, and the list is where the condition is.
    @Test func blocksAreNamedByContent() throws {
        let bytes = patternBytes((32 << 20) + 1, seed: 3)
        try withServer({ _, _ in .reply(201) }) { store, server in
            for _ in 0..<2 { try store.put("k", bytes, ifAbsent: true) }
            let sent = server.requests
            #expect(sent.count == 8 && sent[0..<4].map(\.target) == sent[4..<8].map(\.target))
            #expect(Set(sent[0..<3].map(\.target)).count == 3 && sent[0..<3].allSatisfy { $0.headers["if-none-match"] == nil })
            #expect(sent[3].target == "/account/container/p/k?comp=blocklist" && sent[3].headers["if-none-match"] == "*")
            try store.put("k", bytes.dropLast() + [bytes[bytes.count - 1] ^ 1], ifAbsent: true)
            #expect(Set(server.requests[8..<11].map(\.target)).isDisjoint(with: sent.map(\.target)))
        }
    }

    // MARK: - Lists

    private static func list(_ names: [String], next: String = "") -> ScriptedServer.Answer {
        let blobs = names.map { "<Blob><Name>\($0)</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>" }.joined()
        let body = "<EnumerationResults><Blobs>\(blobs)</Blobs><NextMarker>\(next)</NextMarker></EnumerationResults>"
        return .reply(200, body: "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?>" + body)
    }

    /// Pages: a, b | (none) | c | d. The marker of a page names the page.
    private static func pages(_ request: ScriptedServer.Request) -> ScriptedServer.Answer {
        for (marker, answer) in [("m1", list([], next: "m2")), ("m2", list(["p/c"], next: "m3")), ("m3", list(["p/d"]))]
        where request.target.contains("marker=\(marker)&") { return answer }
        return list(["p/a", "p/b"], next: "m1")
    }

    @Test func whoGoesOnPaysOneRequestAPage() throws {
        try withServer({ _, request in Self.pages(request) }) { store, server in
            let all = try store.listAll(prefix: "").map(\.key)
            #expect(all == ["a", "b", "c", "d"])
            #expect(server.requests.count == 4)
            // Again, as RetryingStore does after a lost answer: the marker is still known.
            let last = try store.list(prefix: "", startAfter: "c")
            #expect(last.objects.map(\.key) == ["d"])
            #expect(server.requests.count == 5)
        }
    }

    @Test func whoStartsElsewhereStartsThere() throws {
        try withServer({ _, request in Self.pages(request) }) { store, server in
            let page = try store.list(prefix: "", startAfter: "bb")
            #expect(page.objects.map(\.key) == ["c"] && page.isTruncated)
            #expect(server.requests.count == 3)
            let second = try store.list(prefix: "", startAfter: "a")
            #expect(second.objects.map(\.key) == ["b"])
            let none = try store.list(prefix: "", startAfter: "zz")
            #expect(none == ListPage(objects: [], isTruncated: false))
        }
    }

    static let damagedLists = [
        "", "<", "<EnumerationResults>", "not xml at all", "<EnumerationResults><Blobs><Blob><Name>p/k</Name></Blob></Blobs></EnumerationResults>",
        "<EnumerationResults><Blobs><Blob><Name>elsewhere/k</Name><Properties><Content-Length>1</Content-Length></Properties></Blob></Blobs></EnumerationResults>",
        "<EnumerationResults><Blobs><Blob><Name>p/k</Name><Properties><Content-Length>-1</Content-Length></Properties></Blob></Blobs></EnumerationResults>",
        "<EnumerationResults><Blobs><Blob><Name Encoded=\"true\">p/%FF</Name><Properties><Content-Length>1</Content-Length></Properties></Blob></Blobs></EnumerationResults>",
        String(repeating: "<a>", count: 100_000),
    ]

    @Test(arguments: damagedLists.indices) func damagedListsAreRefused(_ index: Int) throws {
        try withServer({ _, _ in .reply(200, body: Self.damagedLists[index]) }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.list(prefix: "", startAfter: nil) }
        }
    }

    @Test func listsMustBeInOrderAndGoOn() throws {
        try withServer({ _, _ in Self.list(["p/b", "p/a"]) }) { store, _ in
            expectCode(.corruptResponse) { _ = try store.list(prefix: "", startAfter: nil) }
        }
        try withServer({ _, _ in Self.list([], next: "same") }) { store, server in
            expectCode(.corruptResponse) { _ = try store.list(prefix: "", startAfter: nil) }
            #expect(server.requests.count == 2)
        }
    }

    @Test func hierarchicalNamespacesAreRefused() throws {
        let folder = "<Blob><Name>p/f</Name><Properties><ResourceType>directory</ResourceType><Content-Length>0</Content-Length></Properties></Blob>"
        try withServer({ _, _ in .reply(200, body: "<EnumerationResults><Blobs>\(folder)</Blobs><NextMarker /></EnumerationResults>") }) { store, _ in
            let error = expectCode(.unsupported) { _ = try store.list(prefix: "", startAfter: nil) }
            #expect(error?.message.contains("hierarchical") == true)
        }
    }
}
