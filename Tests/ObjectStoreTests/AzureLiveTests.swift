// The Azure target against the double in Tests/servers, which first has to satisfy Microsoft's own client; against the
// service itself where the environment names an account and a container (FARSHORE_TEST_AZURE_CONTAINER).

import Foundation
import ObjectStore
import Testing

/// What the contract runs on. The service is one of them only where there are credentials for it.
struct AzureTarget: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let url: @Sendable (_ prefix: String) throws -> String
    let environment: @Sendable () throws -> [String: String]

    static let all: [AzureTarget] = {
        let double = AzureTarget(
            testDescription: "the double", url: { try LiveServer.azure.get().azureURL(prefix: $0) }, environment: { try LiveServer.azure.get().azureEnvironment })
        let environment = ProcessInfo.processInfo.environment
        guard let account = environment["AZURE_STORAGE_ACCOUNT"], let container = environment["FARSHORE_TEST_AZURE_CONTAINER"] else { return [double] }
        return [double, AzureTarget(testDescription: "Azure", url: { "azblob://\(account)/\(container)/\($0)" }, environment: { environment })]
    }()

    /// A store below a prefix of its own, emptied afterwards.
    func withStore(_ body: (any ObjectStore) throws -> Void) throws {
        let store = try openStore(url: try url("test-\(UUID().uuidString)"), environment: try environment())
        do {
            try body(store)
            try store.delete(store.listAll(prefix: "").map(\.key))
        } catch {
            try store.delete(store.listAll(prefix: "").map(\.key))
            throw error
        }
    }
}

extension LiveServer {
    static let hasAzureClient = ProcessInfo.processInfo.environment["CI"] == "true" || (try? output("azure-client", ["installed"])) != nil

    var azureEnvironment: [String: String] { ["AZURE_STORAGE_ACCOUNT": self["ACCOUNT"], "AZURE_STORAGE_KEY": self["KEY"]] }

    func azureURL(prefix: String = "test-\(UUID().uuidString)", container: String? = nil, endpoint: String? = nil, more: String = "") -> String {
        "azblob://\(self["ACCOUNT"])/\(container ?? self["CONTAINER"])/\(prefix)?endpoint=\(endpoint ?? self["ENDPOINT"])\(more)"
    }

    /// Microsoft's client with the account's key.
    func azureClient(_ verb: String, _ arguments: String...) throws -> [String] {
        try Self.output("azure-client", [verb, self["ENDPOINT"], self["ACCOUNT"], self["KEY"]] + arguments)
    }

    /// A shared access signature of the container, by Microsoft's client.
    func azureToken(_ rights: String, seconds: Int) throws -> [String: String] {
        let made = try Self.run("azure-client", ["sas", self["ACCOUNT"], self["KEY"], self["CONTAINER"], rights, "\(seconds)"])
        return ["AZURE_STORAGE_SAS_TOKEN": made["SAS"] ?? ""]
    }
}

@Suite(.enabled(if: LiveServer.isInstalled("openssl"), "openssl is not installed"))
struct AzureTests {
    let server: LiveServer

    init() throws { server = try LiveServer.azure.get() }

    private func freshStore(_ environment: [String: String]? = nil) throws -> any ObjectStore {
        try openStore(url: server.azureURL(), environment: environment ?? server.azureEnvironment)
    }

    @Test(arguments: AzureTarget.all, StoreContract.all) func contract(_ target: AzureTarget, _ contract: StoreContract) throws {
        try target.withStore { try contract.check($0) }
    }

    @Test(arguments: AzureTarget.all) func probeFindsConditionsAndChecksums(_ target: AzureTarget) throws {
        try target.withStore { store in
            try store.put("farshore.json", [1, 2, 3], ifAbsent: true)
            try store.probe(existing: "farshore.json", [1, 2, 3])
            #expect(store.features == StoreFeatures(conditionalPut: true, checksumTrusted: true))
            #expect(abs(store.clockOffsetSeconds ?? 99) <= 2)
        }
    }

    @Test(arguments: AzureTarget.all) func blobsInBlocks(_ target: AzureTarget) throws {
        try target.withStore { store in
            let bytes = patternBytes((33 << 20) + 1, seed: 5)
            try store.put("blocks", bytes, ifAbsent: true)
            #expect(try store.head("blocks") == ObjectInfo(sizeBytes: UInt64(bytes.count), md5: nil))
            expectCode(.alreadyExists) { try store.put("blocks", patternBytes(33 << 20, seed: 6), ifAbsent: true) }
            #expect(try store.get("blocks") == bytes)
            expectCode(.unsupported) { try store.put("blocks", patternBytes(65 << 20, seed: 5), ifAbsent: true) }
        }
    }

    @Test func namesThatXMLCannotHold() throws {
        let store = try freshStore()
        for key in ["n/\u{FFFE}", "n/a b%41\u{FFFF}+"] { try store.put(key, [1], ifAbsent: true) }
        #expect(try store.listAll(prefix: "n/").map(\.key) == ["n/a b%41\u{FFFF}+", "n/\u{FFFE}"])
    }

    /// Their blocks lie under one key until one of them commits its list.
    @Test func blocksOfTwoWritersAreNotMixed() throws {
        let store = try freshStore()
        let contents = (0..<2).map { patternBytes(33 << 20, seed: UInt64($0)) }
        let failures = onThreads(2) { index in
            do throws(StoreError) { try store.put("raced", contents[index], ifAbsent: false) } catch { return 1 }
            return 0
        }
        #expect(failures == [0, 0])
        #expect(contents.contains(try store.get("raced")))
    }

    // MARK: - Microsoft's client

    @Test(.enabled(if: LiveServer.hasAzureClient, "azure-storage-blob is not installed")) func theDoubleSatisfiesMicrosoftsClient() throws {
        let shown = try server.azureClient("check").filter { $0.hasPrefix("shown: ") }
        #expect(shown.count >= 29, "\(shown)")
    }

    @Test(.enabled(if: LiveServer.hasAzureClient, "azure-storage-blob is not installed")) func signaturesEqualThoseOfMicrosoftsClient() throws {
        struct Recorded: Decodable {
            let method: String, path: String, query: [[String]], headers: [String: String], signed: String
        }
        let key = try #require(Data(base64Encoded: server["KEY"]))
        let signature = AzureSignature(account: server["ACCOUNT"], key: Array(key))
        let lines = try server.azureClient("record", server["CONTAINER"])
        #expect(lines.count >= 13)
        for line in lines {
            let recorded = try JSONDecoder().decode(Recorded.self, from: Data(line.utf8))
            let body = [UInt8](repeating: 0, count: Int(recorded.headers["content-length"] ?? "") ?? 0)
            var request = TargetRequest(
                try #require(TargetRequest.Method(rawValue: recorded.method)), path: recorded.path, query: recorded.query.map { ($0[0], $0[1]) }, body: body)
            request.headers = recorded.headers.filter { $0.key != "authorization" }.map { ($0.key, $0.value) }
            #expect(signature.stringToSign(request) == recorded.signed)
            #expect(signature.authorization(request) == recorded.headers["authorization"], "\(recorded.method) \(recorded.path)")
        }
    }

    @Test(.enabled(if: LiveServer.hasAzureClient, "azure-storage-blob is not installed")) func blobsAreReadBothWays() throws {
        let prefix = "both-\(UUID().uuidString)"
        let store = try openStore(url: server.azureURL(prefix: prefix), environment: server.azureEnvironment)
        let ours = ["a b/c+d%": patternBytes(5000, seed: 1), "in/blocks": patternBytes((32 << 20) + 7, seed: 2), "empty": []]
        for (key, bytes) in ours { try store.put(key, bytes, ifAbsent: true) }
        let read = try Set(server.azureClient("read", server["CONTAINER"], prefix))
        #expect(read == Set(ours.map { "\($0.key)=\(sha256($0.value))" }))

        let written = try server.azureClient("write", server["CONTAINER"], prefix + "/theirs")
        #expect(try Set(["small", "blocks"].map { "\($0)=\(sha256(try store.get("theirs/" + $0)))" }) == Set(written))
    }

    // MARK: - Refusals

    private static let wrongKey = Data([UInt8](repeating: 1, count: 64)).base64EncodedString()

    @Test func wrongKey() throws {
        let store = try freshStore(["AZURE_STORAGE_KEY": Self.wrongKey])
        expectRefusal(.credentialsRefused, store, secret: Self.wrongKey, remedy: "AZURE_STORAGE_KEY")
    }

    @Test(.enabled(if: LiveServer.hasAzureClient, "azure-storage-blob is not installed")) func sharedAccessSignatures() throws {
        let prefix = UUID().uuidString
        func store(_ token: [String: String]) throws -> any ObjectStore { try openStore(url: server.azureURL(prefix: prefix), environment: token) }
        let full = try store(try server.azureToken("rwdl", seconds: 600))
        try full.put("a b/k", [1, 2], ifAbsent: true)
        #expect(try full.get("a b/k", range: 1..<2) == [2])
        #expect(try full.listAll(prefix: "").map(\.key) == ["a b/k"])

        let reading = try store(try server.azureToken("rl", seconds: 600))
        #expect(try reading.head("a b/k")?.sizeBytes == 2)
        let refused = expectCode(.accessDenied) { try reading.put("k", [1], ifAbsent: false) }
        #expect(refused?.remedy.contains("rights of the shared access signature") == true)
        expectCode(.accessDenied) { try reading.delete(["a b/k"]) }

        let token = try server.azureToken("rwdl", seconds: -60)
        let secret = token.values.first.map { String($0.split(separator: "sig=").last ?? "").prefix(20) } ?? ""
        expectRefusal(.credentialsExpired, try store(token), secret: String(secret), remedy: "AZURE_STORAGE_SAS_TOKEN")
        try full.delete(["a b/k"])
    }

    @Test(arguments: [-3600, 3600]) func clockSkew(_ offset: Int) throws {
        guard case .azure(let place) = try StoreLocation(server.azureURL()) else { return }
        let credentials = try CredentialsSource(environment: server.azureEnvironment, place)
        let store = try AzureBlobStore(place, credentials: credentials, parallelism: 2, clock: { Int(Date().timeIntervalSince1970) + offset })
        expectRefusal(.clockSkew, store, secret: server["KEY"], remedy: "clock")
        #expect(abs((store.clockOffsetSeconds ?? 0) + offset) <= 2)
    }

    @Test func missingContainerIsNoEmptyVault() throws {
        let store = try openStore(url: server.azureURL(container: "no-such-container"), environment: server.azureEnvironment)
        expectRefusal(.bucketMissing, store, secret: server["KEY"], remedy: "create the container")
    }

    @Test func renewedConnectionStringIsTakenUp() throws {
        try withScratchDirectory { directory in
            let file = directory + "/azure"
            func write(_ key: String) throws {
                try Data("AccountName=\(server["ACCOUNT"]);AccountKey=\(key)".utf8).write(to: URL(fileURLWithPath: file), options: .atomic)
            }
            try write(Self.wrongKey)
            let store = try openStore(url: server.azureURL(more: "&credentials=\(file)"), environment: [:])
            expectCode(.credentialsRefused) { try store.put("k", [1], ifAbsent: true) }
            try write(server["KEY"])
            try store.put("k", [1], ifAbsent: true)
            #expect(try store.get("k") == [1])
        }
    }

    @Test func authorities() throws {
        let url = server.azureURL(endpoint: server["TLS_ENDPOINT"])
        let store = try openStore(url: url + "&ca=\(server["CA"])", environment: server.azureEnvironment)
        try store.put("k", patternBytes(100_000, seed: 1), ifAbsent: true)
        #expect(try store.get("k") == patternBytes(100_000, seed: 1))
        for other in [url, url + "&ca=\(server["OTHER_CA"])"] {
            expectCode(.untrusted) { _ = try openStore(url: other, environment: server.azureEnvironment).get("k") }
        }
    }
}
