// The URLs a vault can have: file:///dir, s3://bucket/prefix?endpoint=…&region=…&ca=FILE&profile=NAME, and
// azblob://account/container/prefix?endpoint=…&ca=FILE&credentials=FILE. What `SplitURL` takes is gone from them.

package enum StoreLocation: Equatable, Sendable {
    case directory(path: String)
    case s3(S3Location)
    case azure(AzureLocation)

    package init(_ url: String) throws(StoreError) {
        guard let scheme = url.firstRange(of: "://") else { throw Self.refusal(url, "it has no scheme") }
        let rest = url[scheme.upperBound...]
        switch url[..<scheme.lowerBound] {
        case "file": self = .directory(path: try Self.directoryPath(rest, of: url))
        case "s3": self = .s3(try S3Location(rest, of: url))
        case "azblob": self = .azure(try AzureLocation(rest, of: url))
        default: throw Self.refusal(url, "its scheme is not known")
        }
    }

    private static func directoryPath(_ rest: Substring, of url: String) throws(StoreError) -> String {
        guard rest.first == "/" else { throw refusal(url, "the directory must be absolute, with three slashes") }
        guard !rest.contains("?"), !rest.contains("#") else { throw refusal(url, "a directory takes no option but chunks (write ? as %3F, # as %23)") }
        guard var path = percentDecoded(rest), !path.utf8.contains(0) else { throw refusal(url, "it has a wrong %-sequence") }
        while path.count > 1, path.last == "/" { path.removeLast() }
        return path
    }

    /// Ends with `/` unless it is empty.
    static func prefix(_ text: Substring, of url: String) throws(StoreError) -> String {
        guard var folder = percentDecoded(text) else { throw refusal(url, "it has a wrong %-sequence") }
        while folder.last == "/" { folder.removeLast() }
        if !folder.isEmpty { try ObjectKey.check(folder) }
        return folder.isEmpty ? "" : folder + "/"
    }

    static func options(_ query: Substring, known: Set<String>, of url: String) throws(StoreError) -> [String: String] {
        var options: [String: String] = [:]
        for item in query.split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2, let value = percentDecoded(pair[1]), !value.isEmpty else { throw refusal(url, "\(item) is no option") }
            let name = String(pair[0])
            guard known.contains(name) else { throw refusal(url, "the option \(name) is not known") }
            guard options.updateValue(value, forKey: name) == nil else { throw refusal(url, "the option \(name) is there twice") }
        }
        return options
    }

    static func refusal(_ url: String, _ reason: String) -> StoreError {
        StoreError(.badLocation, "the vault URL \(url) is refused: \(reason)", try: "write file:///dir, s3://bucket/prefix?endpoint=http://host:port&region=r or azblob://account/container/prefix")
    }
}

package struct S3Location: Equatable, Sendable {
    package let bucket: String
    /// Ends with `/` unless it is empty.
    package let prefix: String
    package let endpoint: TargetEndpoint
    package let region: String
    /// A PEM file with the authorities to trust instead of the system's.
    package let authoritiesFile: String?
    /// The section of the credentials file.
    package let profile: String?

    init(_ rest: Substring, of url: String) throws(StoreError) {
        let parts = rest.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let place = parts[0].split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard !place[0].contains("@") else { throw Self.secretRefusal() }
        bucket = String(place[0])
        guard Self.isBucketName(bucket) else { throw StoreLocation.refusal(url, "\(bucket.debugDescription) is no bucket name") }
        prefix = try StoreLocation.prefix(place.count > 1 ? place[1] : "", of: url)

        let options = try StoreLocation.options(parts.count > 1 ? parts[1] : "", known: ["endpoint", "region", "ca", "profile"], of: url)
        region = options["region"] ?? "us-east-1"
        guard !region.isEmpty, region.allSatisfy({ $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") }) else {
            throw StoreLocation.refusal(url, "the region is wrong")
        }
        endpoint = try TargetEndpoint(options["endpoint"] ?? "https://s3.\(region).amazonaws.com", of: url)
        authoritiesFile = options["ca"]
        profile = options["profile"]
    }

    /// What Amazon allows and what older servers allow beyond it.
    private static func isBucketName(_ name: String) -> Bool {
        (3...255).contains(name.utf8.count) && name.utf8.first != UInt8(ascii: ".") && name.allSatisfy { character in
            character.isASCII && (character.isLetter || character.isNumber || "-._".contains(character))
        }
    }

    private static func secretRefusal() -> StoreError {
        StoreError(.badLocation, "the vault URL holds credentials", try: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials")
    }
}
