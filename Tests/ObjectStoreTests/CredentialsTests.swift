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

    @Test(arguments: ["two words", "line\nfeed", "café"]) func strayCharactersAreRefusedAndNotRepeated(_ secret: String) {
        let error = expectCode(.credentialsRefused) { try open(["AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": secret]) }
        #expect(error.map { !$0.message.contains(secret) && !$0.remedy.contains(secret) } == true)
    }
}
