// What people write by hand: a vault's URL and a credentials file. Input: the URL, a zero byte, the file.

import BlockIO
import Glibc
import ObjectStore

struct ConfigurationInput {
    static func run(_ input: [UInt8]) throws {
        let parts = input.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
        let url = String(decoding: parts.first ?? [], as: UTF8.self)
        do {
            _ = try StoreLocation(url)
        } catch {
            require(!"\(error)".isEmpty, "a refusal says why")
        }
        guard parts.count == 2 else { return }
        let file = try memoryFile()
        try file.write(Array(parts[1]), at: 0)
        for profile in [nil, "default", "other"] as [String?] {
            do {
                _ = try CredentialsSource(environment: ["AWS_SHARED_CREDENTIALS_FILE": "/proc/self/fd/\(file.raw)"], profile: profile)
            } catch {
                require(!"\(error)".contains("SECRET"), "a secret in an error")
            }
        }
    }

    static let seeds: [[UInt8]] = [
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1", "dir:///var/lib/vault", "/relative/../path", "file:///x?y=z",
    ].map { Array("\($0)\0[default]\naws_access_key_id = KEY\naws_secret_access_key = SECRET\n[other]\n# note\naws_session_token=T\n".utf8) }
}
