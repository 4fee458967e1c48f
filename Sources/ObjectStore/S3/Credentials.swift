// Where S3 credentials come from: the environment, or a section of the shared credentials file.

import BlockIO

package struct Credentials: Equatable, Sendable {
    package let accessKeyID: String
    package let secretAccessKey: String
    /// Of temporary credentials.
    package let sessionToken: String?

    package init(accessKeyID: String, secretAccessKey: String, sessionToken: String? = nil) {
        self.accessKeyID = accessKeyID
        self.secretAccessKey = secretAccessKey
        self.sessionToken = sessionToken
    }
}

extension CredentialsSource where Keys == Credentials {
    /// A profile named in the URL wins over the keys of the environment; without one those win over the file.
    package convenience init(environment: [String: String], profile: String?) throws(StoreError) {
        if profile == nil, let keys = try Self.environmentKeys(environment) {
            try self.init { () throws(StoreError) in keys }
        } else {
            let file = try Self.filePath(environment)
            let section = profile ?? environment["AWS_PROFILE"] ?? "default"
            try self.init { () throws(StoreError) in try CredentialsFile.read(file, section: section) }
        }
    }

    private static func environmentKeys(_ environment: [String: String]) throws(StoreError) -> Credentials? {
        let key = environment["AWS_ACCESS_KEY_ID"] ?? ""
        let secret = environment["AWS_SECRET_ACCESS_KEY"] ?? ""
        guard !key.isEmpty || !secret.isEmpty else { return nil }
        guard !key.isEmpty, !secret.isEmpty else {
            throw StoreError(
                .credentialsRefused, "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set", try: "set both, or neither to use ~/.aws/credentials")
        }
        let token = environment["AWS_SESSION_TOKEN"].flatMap { $0.isEmpty ? nil : $0 }
        return try Credentials(accessKeyID: key, secretAccessKey: secret, sessionToken: token).checked(from: "the environment")
    }

    private static func filePath(_ environment: [String: String]) throws(StoreError) -> String {
        if let path = environment["AWS_SHARED_CREDENTIALS_FILE"], !path.isEmpty { return path }
        guard let home = environment["HOME"], !home.isEmpty else {
            throw StoreError(.credentialsRefused, "there are no S3 credentials", try: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        }
        return home + "/.aws/credentials"
    }
}

/// The INI file that AWS tools share: `[profile]` sections with `name = value` lines.
enum CredentialsFile {
    static func read(_ path: String, section: String) throws(StoreError) -> Credentials {
        guard let text = try credentialsText(path) else {
            throw StoreError(
                .credentialsRefused, "there are no S3 credentials: AWS_ACCESS_KEY_ID is not set and \(path) does not exist",
                try: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write that file")
        }
        let values = values(of: section, in: text)
        guard let key = values["aws_access_key_id"], let secret = values["aws_secret_access_key"] else {
            throw StoreError(
                .credentialsRefused, "\(path) has no aws_access_key_id and aws_secret_access_key in its section [\(section)]",
                try: "add them, or name another section with profile= in the URL")
        }
        return try Credentials(accessKeyID: key, secretAccessKey: secret, sessionToken: values["aws_session_token"]).checked(from: path)
    }

    static func values(of section: String, in text: String) -> [String: String] {
        var values: [String: String] = [:]
        var isInside = false
        for line in text.split(whereSeparator: \.isNewline) {
            let line = trimmed(line)
            if line.isEmpty || line.hasPrefix("#") || line.hasPrefix(";") { continue }
            if line.hasPrefix("["), line.hasSuffix("]") {
                isInside = trimmed(line.dropFirst().dropLast()) == section
            } else if isInside, let equals = line.firstIndex(of: "=") {
                let value = trimmed(line[line.index(after: equals)...])
                if !value.isEmpty { values[trimmed(line[..<equals]).lowercased()] = String(value) }
            }
        }
        return values
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop(while: \.isWhitespace)
        while text.last?.isWhitespace == true { text.removeLast() }
        return text
    }
}

extension Credentials {
    fileprivate func checked(from source: String) throws(StoreError) -> Credentials {
        for value in [accessKeyID, secretAccessKey, sessionToken ?? ""] { try checkCredential(value, from: source) }
        return self
    }
}
