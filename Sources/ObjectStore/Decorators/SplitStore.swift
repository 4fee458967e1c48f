// Two targets as one: keys under `chunks/`, most of what a vault holds, go to one, all others (logs, maps, heads) to the other. So data
// may lie at a cheap or a large place, and what is written each interval at a quick one, in accounts of their own.

package final class SplitStore: ObjectStore {
    static let apartPrefix = "chunks/"

    private let main: any ObjectStore
    private let chunks: any ObjectStore

    package init(main: any ObjectStore, chunks: any ObjectStore) {
        self.main = main
        self.chunks = chunks
    }

    package var location: String { SplitURL.joined(main.location, chunks: chunks.location) }
    package var keepsChunksApart: Bool { true }
    package var features: StoreFeatures {
        let (one, other) = (main.features, chunks.features)
        return StoreFeatures(conditionalPut: one.conditionalPut && other.conditionalPut, checksumTrusted: one.checksumTrusted && other.checksumTrusted)
    }
    /// Of the clock that is farther off.
    package var clockOffsetSeconds: Int? {
        [main.clockOffsetSeconds, chunks.clockOffsetSeconds].compactMap(\.self).max { abs($0) < abs($1) }
    }

    package var versions: (any ObjectVersions)? {
        guard let one = main.versions, let other = chunks.versions else { return nil }
        return SplitVersions(main: one, chunks: other)
    }

    private func place(of key: String) -> any ObjectStore { key.utf8.starts(with: Self.apartPrefix.utf8) ? chunks : main }

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) { try place(of: key).put(key, bytes, ifAbsent: ifAbsent, md5: md5) }
    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] { try place(of: key).get(key, range: range) }
    package func head(_ key: String) throws(StoreError) -> ObjectInfo? { try place(of: key).head(key) }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        guard Self.apartPrefix.hasPrefix(prefix), prefix != Self.apartPrefix else { return try place(of: prefix).list(prefix: prefix, startAfter: startAfter) }
        let pages = [try main.list(prefix: prefix, startAfter: startAfter), try chunks.list(prefix: prefix, startAfter: startAfter)]
        var all = pages.flatMap(\.objects).sorted { ObjectKey.isBefore($0.key, $1.key) }
        // Beyond the last key of a page that goes on, keys of the other one would come too early.
        if let end = pages.filter(\.isTruncated).compactMap(\.objects.last?.key).min(by: ObjectKey.isBefore) { all.removeAll { ObjectKey.isBefore(end, $0.key) } }
        let page = all.prefix(ObjectLimits.listPageKeys)
        return ListPage(objects: Array(page), isTruncated: page.count < all.count || pages.contains(where: \.isTruncated))
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        let apart = keys.filter { $0.utf8.starts(with: Self.apartPrefix.utf8) }
        if !apart.isEmpty { try chunks.delete(apart) }
        if apart.count < keys.count { try main.delete(keys.filter { !$0.utf8.starts(with: Self.apartPrefix.utf8) }) }
    }

    /// The object is there under its key at one target, and under `chunks/` and its key at the other.
    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        try main.probe(existing: key, bytes)
        try chunks.probe(existing: Self.apartPrefix + key, bytes)
    }
}

/// A vault's URL that names a second place for chunks: an option `chunks=` in it, percent-encoded.
package struct SplitURL: Equatable, Sendable {
    package let main: String
    package let chunks: String?

    package init(_ url: String) throws(StoreError) {
        guard let mark = url.firstIndex(of: "?") else {
            (main, chunks) = (url, nil)
            return
        }
        let items = url[url.index(after: mark)...].split(separator: "&", omittingEmptySubsequences: false)
        let named = items.filter { $0.hasPrefix("chunks=") }
        guard let first = named.first else {
            (main, chunks) = (url, nil)
            return
        }
        guard named.count == 1, let place = percentDecoded(first.dropFirst("chunks=".count)), !place.isEmpty else {
            throw StoreLocation.refusal(url, "its option chunks is there twice or holds no URL")
        }
        guard try Self(place).chunks == nil else { throw StoreLocation.refusal(url, "the place of the chunks has an option chunks itself") }
        let rest = items.filter { !$0.hasPrefix("chunks=") }.joined(separator: "&")
        main = url[..<mark] + (rest.isEmpty ? "" : "?" + rest)
        chunks = place
        guard try StoreLocation(main) != StoreLocation(place) else { throw StoreLocation.refusal(url, "it names one place twice") }
    }

    package static func joined(_ main: String, chunks: String) -> String {
        main + (main.contains("?") ? "&" : "?") + "chunks=" + percentEncoded(chunks, keepingSlash: true)
    }
}
