// azblob://account/container/prefix?endpoint=…&ca=FILE&credentials=FILE

package struct AzureLocation: Equatable, Sendable {
    package let account: String
    package let container: String
    /// Ends with `/` unless it is empty.
    package let prefix: String
    package let endpoint: TargetEndpoint
    /// `/account` at an endpoint that addresses accounts by path, else empty.
    package let accountPath: String
    /// A PEM file with the authorities to trust instead of the system's.
    package let authoritiesFile: String?
    /// A file with a connection string.
    package let credentialsFile: String?

    init(_ rest: Substring, of url: String) throws(StoreError) {
        let parts = rest.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let place = parts[0].split(separator: "/", maxSplits: 2, omittingEmptySubsequences: false)
        let query = parts.count > 1 ? parts[1] : ""
        // A blob's URL is often copied with its shared access signature.
        guard !parts[0].contains("@"), !query.split(separator: "&").contains(where: { $0.hasPrefix("sig=") }) else {
            throw StoreError(
                .badLocation, "the vault URL holds credentials",
                try: "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or add credentials=FILE with a connection string")
        }
        account = String(place[0])
        container = place.count > 1 ? String(place[1]) : ""
        guard Self.isAccountName(account) else { throw StoreLocation.refusal(url, "\(account.debugDescription) is no name of a storage account") }
        guard Self.isContainerName(container) else { throw StoreLocation.refusal(url, "\(container.debugDescription) is no name of a container") }
        prefix = try StoreLocation.prefix(place.count > 2 ? place[2] : "", of: url)
        guard !prefix.contains("./"), !prefix.contains("\\") else {
            throw StoreLocation.refusal(url, "Azure does not keep names with a backslash or a part that ends with a dot")
        }
        let options = try StoreLocation.options(query, known: ["endpoint", "ca", "credentials"], of: url)
        let stated = options["endpoint"] ?? "https://\(account).blob.core.windows.net"
        let byPath = "/" + account
        accountPath = stated.hasSuffix(byPath) && !stated.hasSuffix("/" + byPath) ? byPath : ""
        endpoint = try TargetEndpoint(String(stated.dropLast(accountPath.count)), of: url)
        authoritiesFile = options["ca"]
        credentialsFile = options["credentials"]
    }

    private static func isAccountName(_ name: String) -> Bool {
        (3...24).contains(name.utf8.count) && name.allSatisfy { $0.isASCII && ($0.isLowercase || $0.isNumber) }
    }

    private static func isContainerName(_ name: String) -> Bool {
        (3...63).contains(name.utf8.count) && name.first != "-" && name.last != "-" && !name.contains("--")
            && name.allSatisfy { $0.isASCII && ($0.isLowercase || $0.isNumber || $0 == "-") }
    }
}
