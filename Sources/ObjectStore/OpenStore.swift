// From a vault's URL to its target; everyone who opens a vault comes through here.

import Foundation

/// Opens the target that `url` names; one that is reached by HTTP comes with its quick retries. `createDirectory` makes a missing
/// directory (only `vault create` asks for it); a missing bucket or container is never made. Credentials come from `environment`
/// or a file, never from the URL. `parallelism` is the number of threads that will use the store at once. A URL with an option
/// `chunks` opens two targets as one.
package func openStore(
    url: String, environment: [String: String] = ProcessInfo.processInfo.environment, createDirectory: Bool = false, parallelism: Int = 16
) throws(StoreError) -> any ObjectStore {
    let places = try SplitURL(url)
    let main = try openPlace(places.main, environment, createDirectory, parallelism)
    guard let chunks = places.chunks else { return main }
    return SplitStore(main: main, chunks: try openPlace(chunks, environment, createDirectory, parallelism))
}

private func openPlace(_ url: String, _ environment: [String: String], _ createDirectory: Bool, _ parallelism: Int) throws(StoreError) -> any ObjectStore {
    switch try StoreLocation(url) {
    case .directory(let path):
        return try DirectoryStore(root: path, create: createDirectory)
    case .s3(let location):
        let credentials = try CredentialsSource(environment: environment, profile: location.profile)
        return RetryingStore(try S3Store(location, credentials: credentials, parallelism: parallelism))
    case .azure(let location):
        let credentials = try CredentialsSource(environment: environment, location)
        return RetryingStore(try AzureBlobStore(location, credentials: credentials, parallelism: parallelism))
    }
}
