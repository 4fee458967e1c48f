// What an Azure target is asked with: a key of the account, or a shared access signature (SAS). From a file with a
// connection string where the URL names one, else from the environment.

import Foundation

package enum AzureCredentials: Equatable, Sendable {
    case sharedKey([UInt8])
    case sharedAccessSignature(SharedAccessSignature)
}

package struct SharedAccessSignature: Equatable, Sendable {
    /// Names and values, not encoded.
    let query: [String: String]

    /// True when it has ended at `date`. Its times have the form of RFC 3339, at times without the seconds or the time of day.
    func isExpired(at date: HTTPDate) -> Bool {
        query["se"].map { $0.utf8.lexicographicallyPrecedes(date.rfc3339.utf8) } ?? false
    }
}

extension CredentialsSource where Keys == AzureCredentials {
    package convenience init(environment: [String: String], _ place: AzureLocation) throws(StoreError) {
        if let file = place.credentialsFile {
            try self.init { () throws(StoreError) in try AzureCredentials(connectionStringFile: file, place) }
        } else {
            let keys = try AzureCredentials(environment: environment, place)
            try self.init { () throws(StoreError) in keys }
        }
    }
}

extension AzureCredentials {
    private static let remedy = "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or add credentials=FILE with a connection string to the vault URL"

    init(environment: [String: String], _ place: AzureLocation) throws(StoreError) {
        let source = "the environment"
        try Self.check(account: environment["AZURE_STORAGE_ACCOUNT"], from: source, place)
        let key = environment["AZURE_STORAGE_KEY"], token = environment["AZURE_STORAGE_SAS_TOKEN"]
        self = try Self.make(key: key, token: token, names: "AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN", from: source, place)
    }

    /// Of a connection string the account's name and its key or signature count; where the account is, the URL says.
    init(connectionStringFile path: String, _ place: AzureLocation) throws(StoreError) {
        guard let text = try credentialsText(path) else {
            throw StoreError(.credentialsRefused, "\(path) does not exist", try: "write the connection string of the account \(place.account) into it")
        }
        var values: [String: String] = [:]
        for item in text.trimmingCharacters(in: .whitespacesAndNewlines).split(separator: ";") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2 { values[pair[0].lowercased()] = String(pair[1]) }
        }
        try Self.check(account: values["accountname"], from: path, place)
        self = try Self.make(
            key: values["accountkey"], token: values["sharedaccesssignature"], names: "AccountKey and SharedAccessSignature", from: path, place)
    }

    private static func check(account: String?, from source: String, _ place: AzureLocation) throws(StoreError) {
        guard let account, !account.isEmpty, account != place.account else { return }
        throw StoreError(
            .credentialsRefused, "the credentials from \(source) are of the account \(account.debugDescription), the vault is in \(place.account)",
            try: Self.remedy)
    }

    private static func make(key: String?, token: String?, names: String, from source: String, _ place: AzureLocation) throws(StoreError) -> AzureCredentials {
        let key = key ?? "", token = token ?? ""
        for value in [key, token] { try checkCredential(value, from: source) }
        switch (key.isEmpty, token.isEmpty) {
        case (true, true):
            throw StoreError(.credentialsRefused, "there are no credentials for the storage account \(place.account) in \(source)", try: Self.remedy)
        case (false, false):
            throw StoreError(.credentialsRefused, "\(source) holds both \(names)", try: "leave only one of them")
        case (false, true):
            guard let bytes = Data(base64Encoded: key), !bytes.isEmpty else {
                throw StoreError(.credentialsRefused, "the account key from \(source) is no base64", try: "copy it again from the account's access keys")
            }
            return .sharedKey(Array(bytes))
        case (true, false):
            return .sharedAccessSignature(try signature(token, from: source, place))
        }
    }

    private static func signature(_ token: String, from source: String, _ place: AzureLocation) throws(StoreError) -> SharedAccessSignature {
        var query: [String: String] = [:]
        for item in token.drop(while: { $0 == "?" }).split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2, let value = percentDecoded(pair[1]) { query[String(pair[0])] = value }
        }
        guard query["sig"] != nil, query["sv"] != nil else {
            throw StoreError(
                .credentialsRefused, "the shared access signature from \(source) has no sv= and sig=", try: "copy the whole token, from sv= to the end of sig=")
        }
        // The target would refuse it, but by then everyone on the way has read it.
        guard query["spr"] != "https" || place.endpoint.usesTLS else {
            throw StoreError(
                .credentialsRefused, "the shared access signature from \(source) must not be sent over http", try: "write endpoint=https://… in the vault URL")
        }
        return SharedAccessSignature(query: query)
    }
}
