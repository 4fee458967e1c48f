// Where credentials come from, and what is said when they cannot be had.

import Foundation
import ObjectStore
import Testing

@Suite struct CredentialsTests {
    private func open(_ environment: [String: String], profile: String? = nil) throws {
        _ = try openStore(url: "s3://bucket?endpoint=http://127.0.0.1:1" + (profile.map { "&profile=\($0)" } ?? ""), environment: environment)
    }

    @Test func environmentOrFile() throws {
        try withScratchDirectory { home in
            try FileManager.default.createDirectory(atPath: home + "/.aws", withIntermediateDirectories: false)
            let text = "# comment\n[default]\naws_access_key_id=A\naws_secret_access_key = B=B\n\n[ vault ]\nAWS_ACCESS_KEY_ID = C\naws_secret_access_key = D\naws_session_token = E\n"
            try Data(text.utf8).write(to: URL(fileURLWithPath: home + "/.aws/credentials"))
            try open(["AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"])
            try open(["HOME": home])
            try open(["HOME": home], profile: "vault")
            try open(["HOME": home, "AWS_PROFILE": "vault"])
            expectCode(.credentialsRefused) { try open(["HOME": home], profile: "none") }
            expectCode(.credentialsRefused) { try open(["HOME": home, "AWS_ACCESS_KEY_ID": "A"]) }
            expectCode(.credentialsRefused) { try open(["HOME": home + "/nowhere"]) }
            expectCode(.credentialsRefused) { try open([:]) }
        }
    }

    // MARK: - Azure

    private static let key = Data([UInt8](repeating: 7, count: 64)).base64EncodedString()

    private func openAzure(_ environment: [String: String], _ more: String = "?endpoint=http://127.0.0.1:1/account") throws {
        _ = try openStore(url: "azblob://account/container" + more, environment: environment)
    }

    @Test func azureEnvironment() throws {
        try openAzure(["AZURE_STORAGE_KEY": Self.key])
        try openAzure(["AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_KEY": Self.key])
        for token in ["sv=2022-11-02&sig=abc%3D", "?sv=2022-11-02&spr=https,http&sig=abc%3D"] { try openAzure(["AZURE_STORAGE_SAS_TOKEN": token]) }
        expectCode(.credentialsRefused) { try openAzure([:]) }
        expectCode(.credentialsRefused) { try openAzure(["AZURE_STORAGE_ACCOUNT": "other", "AZURE_STORAGE_KEY": Self.key]) }
        for secret in ["no base64!", "cut", "s\u{E9}cret", Self.key + "\n"] {
            let error = expectCode(.credentialsRefused) { try openAzure(["AZURE_STORAGE_KEY": secret]) }
            #expect(error.map { !$0.message.contains(secret) && !$0.remedy.contains(secret) } == true)
        }
        let both = expectCode(.credentialsRefused) { try openAzure(["AZURE_STORAGE_KEY": Self.key, "AZURE_STORAGE_SAS_TOKEN": "sv=2022-11-02&sig=a"]) }
        #expect(both?.message.contains("AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN") == true)
        expectCode(.credentialsRefused) { try openAzure(["AZURE_STORAGE_SAS_TOKEN": "sv=2022-11-02"]) }
    }

    @Test func signaturesForTLSOnlyAreNotSentInTheClear() throws {
        let token = ["AZURE_STORAGE_SAS_TOKEN": "sv=2022-11-02&spr=https&sig=a"]
        let error = expectCode(.credentialsRefused) { try openAzure(token) }
        #expect(error?.remedy.contains("https://") == true)
        try openAzure(token, "?endpoint=https://127.0.0.1:1/account")
    }

    @Test func azureConnectionStrings() throws {
        try withScratchDirectory { directory in
            let file = directory + "/azure"
            func open(_ text: String) throws {
                try Data(text.utf8).write(to: URL(fileURLWithPath: file))
                try openAzure(["AZURE_STORAGE_KEY": "not used"], "?endpoint=http://127.0.0.1:1/account&credentials=\(file)")
            }
            try open("DefaultEndpointsProtocol=https;AccountName=account;AccountKey=\(Self.key);EndpointSuffix=core.windows.net\n")
            try open("BlobEndpoint=https://account.blob.core.windows.net/;SharedAccessSignature=sv=2022-11-02&sp=rwdl&sig=a%2Bb%3D")
            expectCode(.credentialsRefused) { try open("AccountName=other;AccountKey=\(Self.key)") }
            expectCode(.credentialsRefused) { try open("AccountName=account") }
            expectCode(.credentialsRefused) { try open("AccountName=account;AccountKey=\(Self.key);SharedAccessSignature=sv=1&sig=2") }
            try FileManager.default.removeItem(atPath: file)
            expectCode(.credentialsRefused) { try openAzure([:], "?credentials=\(file)") }
        }
    }

    @Test(arguments: ["two words", "line\nfeed", "café"]) func strayCharactersAreRefusedAndNotRepeated(_ secret: String) {
        let error = expectCode(.credentialsRefused) { try open(["AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": secret]) }
        #expect(error.map { !$0.message.contains(secret) && !$0.remedy.contains(secret) } == true)
    }
}
