// The S3 target against real services: the contract on both, and on Ceph's RGW, which checks signatures strictly, what
// it refuses and how we tell the user.

import Foundation
import ObjectStore
import Testing

@Suite(.enabled(if: LiveServer.isInstalled("moto_server"), "moto_server is not installed"))
struct MotoTests {
    @Test(arguments: StoreContract.all) func contract(_ contract: StoreContract) throws {
        try contract.check(try LiveServer.moto.get().freshStore())
    }
}

@Suite(.enabled(if: LiveServer.isInstalled("radosgw"), "radosgw is not installed"))
struct CephTests {
    let server: LiveServer

    init() throws { server = try LiveServer.rgw.get() }

    @Test(arguments: StoreContract.all) func contract(_ contract: StoreContract) throws {
        try contract.check(try server.freshStore())
    }

    @Test func probeFindsConditionsAndChecksums() throws {
        let store = try server.freshStore()
        #expect(store.features == StoreFeatures(conditionalPut: false, checksumTrusted: false))
        try store.put("farshore.json", [1, 2, 3], ifAbsent: true)
        try store.probe(existing: "farshore.json", [1, 2, 3])
        #expect(store.features == StoreFeatures(conditionalPut: true, checksumTrusted: true))
    }

    @Test func clocksAreCompared() throws {
        let store = try server.freshStore()
        #expect(store.clockOffsetSeconds == nil)
        _ = try store.head("k")
        let offset = try #require(store.clockOffsetSeconds)
        #expect(abs(offset) <= 2)
    }

    @Test func objectsInPartsStateNoMD5() throws {
        let store = try server.freshStore()
        try store.put("parts", patternBytes(65 << 20, seed: 5), ifAbsent: false)
        #expect(try store.head("parts") == ObjectInfo(sizeBytes: 65 << 20, md5: nil))
        expectCode(.unsupported) { try store.put("parts", patternBytes(65 << 20, seed: 5), ifAbsent: true) }
    }

    /// The checksum the caller has worked out is what the target is told; a wrong one must not pass for that of the bytes.
    @Test func bytesWithAnotherChecksumAreRefused() throws {
        let store = try server.freshStore()
        expectCode(.corruptResponse) { try store.put("k", [1, 2, 3], ifAbsent: false, md5: Digests.md5([1, 2, 4])) }
        #expect(try store.head("k") == nil)
        try store.put("k", [1, 2, 3], ifAbsent: false, md5: Digests.md5([1, 2, 3]))
        #expect(try store.head("k")?.md5 == Digests.md5([1, 2, 3]))
    }

    // MARK: - Refusals

    private func store(key: String, secret: String, url: String? = nil) throws -> any ObjectStore {
        try openStore(url: url ?? server.url(), environment: ["AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret])
    }

    @Test func wrongSecret() throws {
        expectRefusal(.credentialsRefused, try store(key: server["ACCESS_KEY"], secret: "wrongsecret"), secret: "wrongsecret", remedy: "AWS_SECRET_ACCESS_KEY")
    }

    @Test func unknownKey() throws {
        expectRefusal(.credentialsRefused, try store(key: "NOSUCHKEY", secret: "wrongsecret"), secret: "wrongsecret", remedy: "AWS_ACCESS_KEY_ID")
    }

    @Test func keyWithoutRights() throws {
        let secret = server["STRANGER_SECRET_KEY"]
        expectRefusal(.accessDenied, try store(key: server["STRANGER_ACCESS_KEY"], secret: secret), secret: secret, remedy: "owner of the bucket")
    }

    @Test(arguments: [-3600, 3600]) func clockSkew(_ offset: Int) throws {
        guard case .s3(let place) = try StoreLocation(server.url()) else { return }
        let credentials = try CredentialsSource(environment: server.environment, profile: nil)
        let store = try S3Store(place, credentials: credentials, parallelism: 2, clock: { Int(Date().timeIntervalSince1970) + offset })
        expectRefusal(.clockSkew, store, secret: server["SECRET_KEY"], remedy: "clock")
        let error = expectCode(.clockSkew) { _ = try store.get("k") }
        let theirs = HTTPDate(secondsSince1970: Int(Date().timeIntervalSince1970)).readable.prefix(13)
        #expect(error.map { $0.message.contains("ours says") && $0.message.contains(theirs) } == true, "\(error?.message ?? "")")
        #expect(abs((store.clockOffsetSeconds ?? 0) + offset) <= 2)
    }

    @Test func missingBucketIsNoEmptyVault() throws {
        let store = try openStore(url: server.url(bucket: "no-such-bucket"), environment: server.environment)
        expectCode(.bucketMissing) { _ = try store.head("k") }
        expectCode(.bucketMissing) { _ = try store.get("k") }
        expectCode(.bucketMissing) { _ = try store.list(prefix: "", startAfter: nil) }
        expectCode(.bucketMissing) { try store.put("k", [1], ifAbsent: true) }
    }

    // MARK: - Temporary credentials

    /// Ceph answers AccessDenied to an expired token, so the remedy must name both causes.
    @Test func temporaryCredentialsExpire() throws {
        let url = server.url(endpoint: server["STS_ENDPOINT"])
        let store = try openStore(url: url, environment: try server.temporaryEnvironment(seconds: 5))
        try store.put("k", [1], ifAbsent: true)
        Thread.sleep(forTimeInterval: 6)
        let error = expectCode(.accessDenied) { _ = try store.get("k") }
        #expect(error?.remedy.contains("expired") == true)
    }

    @Test func renewedCredentialsFileIsTakenUp() throws {
        try withScratchDirectory { directory in
            let file = directory + "/credentials"
            func write(_ keys: [String: String]) throws {
                let lines = keys.map { "\($0.key.lowercased()) = \($0.value)" }.joined(separator: "\n")
                try Data("[other]\naws_access_key_id = x\n[vault]\n\(lines)\n".utf8).write(to: URL(fileURLWithPath: file), options: .atomic)
            }
            try write(try server.temporaryEnvironment(seconds: 4))
            let url = server.url(endpoint: server["STS_ENDPOINT"], more: "&profile=vault")
            let store = try openStore(url: url, environment: ["AWS_SHARED_CREDENTIALS_FILE": file])
            try store.put("k", [1], ifAbsent: true)
            Thread.sleep(forTimeInterval: 5)
            try write(try server.temporaryEnvironment(seconds: 600))
            #expect(try store.get("k") == [1])
        }
    }

    // MARK: - TLS

    @Test func trustedAuthority() throws {
        let url = server.url(endpoint: server["TLS_ENDPOINT"], more: "&ca=\(server["CA"])")
        let store = try openStore(url: url, environment: server.environment)
        try store.put("k", patternBytes(100_000, seed: 1), ifAbsent: true)
        #expect(try store.get("k") == patternBytes(100_000, seed: 1))
    }

    @Test func untrustedAuthorities() throws {
        let urls = [
            server.url(endpoint: server["TLS_ENDPOINT"]), server.url(endpoint: server["TLS_ENDPOINT"], more: "&ca=\(server["OTHER_CA"])"),
            // Its certificate is for another name.
            server.url(endpoint: server["ELSEWHERE_ENDPOINT"], more: "&ca=\(server["CA"])"),
        ]
        for url in urls {
            let error = expectCode(.untrusted) { _ = try openStore(url: url, environment: server.environment).get("k") }
            #expect(error?.isRecoverable == false)
        }
    }

    @Test func authoritiesThatCannotBeRead() throws {
        for file in ["/nonexistent/ca.pem", "/etc/hostname"] {
            expectCode(.badLocation) { _ = try openStore(url: server.url(more: "&ca=\(file)"), environment: server.environment) }
        }
    }

    @Test func oneProtocolOnThePortOfTheOther() throws {
        let plain = server["ENDPOINT"].replacing("http://", with: "https://")
        let secure = server["TLS_ENDPOINT"].replacing("https://", with: "http://")
        for endpoint in [plain, secure] {
            let store = try openStore(url: server.url(endpoint: endpoint), environment: server.environment)
            #expect(throws: StoreError.self) { try store.get("k") }
        }
    }
}
