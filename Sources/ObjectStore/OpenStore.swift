// From a vault's URL to its target; everyone who opens a vault comes through here.

import Foundation

/// Opens the target that `url` names. `createDirectory` makes a missing directory (only `vault create` asks for it); a
/// missing bucket is never made. Credentials come from `environment` or the credentials file, never from the URL.
package func openStore(
    url: String, environment: [String: String] = ProcessInfo.processInfo.environment, createDirectory: Bool = false
) throws(StoreError) -> any ObjectStore {
    switch try StoreLocation(url) {
    case .directory(let path):
        return try DirectoryStore(root: path, create: createDirectory)
    case .s3(let location):
        throw StoreError(.unsupported, "s3://\(location.bucket) cannot be opened yet", try: "use file:///dir")
    }
}
