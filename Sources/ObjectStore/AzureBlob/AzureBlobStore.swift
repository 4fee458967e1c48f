// A target in a container of Azure Blob Storage, below a prefix, as block blobs.
//
// - A blob of up to `wholeBytesMax` is put at once: the service compares Content-MD5 with what arrived, and HEAD states the MD5
//   it worked out. A larger one goes up in blocks; its MD5 would be whatever the client states, so none is stated.
// - A block's id holds the hash of the whole object: a block list can only ever take blocks of these very bytes, whoever
//   else uploads the same key. Blocks that are never committed are removed by the service after a week.
// - The service has markers, and no "start after": the marker behind a page is remembered, so that paging costs one request a page.
//   Who starts somewhere else pays for the pages before (`list`).
// - A request that is refused for its credentials is repeated once when the credentials file holds others now.

import BlockIO
import Foundation
import Synchronization

package final class AzureBlobStore: ObjectStore {
    static let serviceVersion = "2021-12-02"
    static let wholeBytesMax = 32 << 20
    static let blockBytes = 16 << 20
    /// Deletions at a time: the service takes one blob a request (in a batch each is signed and charged like one).
    static let deletionThreads = 16

    let place: AzureLocation
    let errors: AzureErrors
    private let connection: TargetConnection
    private let credentials: CredentialsSource<AzureCredentials>
    private let clock: @Sendable () -> Int
    private let learned = Mutex(Learned())

    private struct Learned {
        var features = StoreFeatures(conditionalPut: false, checksumTrusted: false)
        /// The target was seen to ignore conditions: no PUT may rely on one.
        var conditionsFail = false
        var clockOffsetSeconds: Int?
        var markers = ListMarkers()
    }

    /// `clock` gives seconds since 1970; only tests pass another.
    package init(
        _ place: AzureLocation, credentials: CredentialsSource<AzureCredentials>, parallelism: Int, deadlines: TargetDeadlines = TargetDeadlines(),
        clock: @escaping @Sendable () -> Int = { Int(Clock.wallNanoseconds() / 1_000_000_000) }
    ) throws(StoreError) {
        self.place = place
        self.credentials = credentials
        self.clock = clock
        connection = try TargetConnection(
            endpoint: place.endpoint, authoritiesFile: place.authoritiesFile, parallelism: parallelism, deadlines: deadlines)
        errors = AzureErrors(location: "azblob://\(place.account)/\(place.container)/\(place.prefix)", account: place.account, container: place.container)
    }

    package var location: String {
        "azblob://\(place.account)/\(place.container)/\(percentEncodedPath(place.prefix))?endpoint=\(place.endpoint)\(place.accountPath)"
    }

    package var features: StoreFeatures { learned.withLock { $0.features } }

    package var clockOffsetSeconds: Int? { learned.withLock { $0.clockOffsetSeconds } }

    // MARK: - Objects

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        try ObjectKey.check(key)
        try checkSize(of: key, bytes.count, ifAbsent: ifAbsent)
        guard !ifAbsent || !learned.withLock({ $0.conditionsFail }) else {
            throw StoreError(.unsupported, "\(errors.location): the target cannot refuse to replace an object", try: "use put without the condition")
        }
        let condition = ifAbsent ? [(name: "if-none-match", value: "*")] : []
        if bytes.count > Self.wholeBytesMax { return try putInBlocks(key, bytes, condition) }
        let headers = condition + [(name: "content-type", value: "application/octet-stream"), (name: "x-ms-blob-type", value: "BlockBlob")]
        try succeed(TargetRequest(.put, path: path(key), headers: headers, body: bytes, bodyMD5: md5), "PUT of \(key)")
    }

    private func putInBlocks(_ key: String, _ bytes: [UInt8], _ condition: [(name: String, value: String)]) throws(StoreError) {
        let hash = Digests.sha256(bytes)
        var ids: [String] = []
        for offset in stride(from: 0, to: bytes.count, by: Self.blockBytes) {
            let id = base64([UInt8(ids.count >> 8), UInt8(ids.count & 0xFF)] + hash)
            let block = Array(bytes[offset..<min(offset + Self.blockBytes, bytes.count)])
            let query = [(name: "comp", value: "block"), (name: "blockid", value: id)]
            try succeed(TargetRequest(.put, path: path(key), query: query, body: block), "PUT of block \(ids.count) of \(key)")
            ids.append(id)
        }
        let list = TargetRequest(
            .put, path: path(key), query: [("comp", "blocklist")], headers: condition + [("content-type", "application/xml")],
            body: AzureDocuments.blockList(ids))
        try succeed(list, "PUT of the block list of \(key)")
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        try ObjectKey.check(key)
        guard let range else {
            return try succeed(TargetRequest(.get, path: path(key), answerBytesMax: ObjectLimits.objectBytesMax), "GET of \(key)").body
        }
        if range.isEmpty { return [] }
        guard range.count <= ObjectLimits.objectBytesMax else {
            throw StoreError(.unsupported, "\(errors.location): \(range.count) bytes of \(key) at once are too many", try: "report this")
        }
        let header = (name: "x-ms-range", value: "bytes=\(range.lowerBound)-\(range.upperBound - 1)")
        let request = TargetRequest(.get, path: path(key), headers: [header], answerBytesMax: range.count)
        return try succeed(request, "GET of \(range) of \(key)").bytes(of: range, of: key, at: errors.location)
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        try ObjectKey.check(key)
        do throws(StoreError) {
            let request = TargetRequest(.get, path: path(key), headers: [("x-ms-range", "bytes=0-\(count - 1)")], answerBytesMax: count)
            return try succeed(request, "GET of the start of \(key)").start(count, of: key, at: errors.location)
        } catch where error.code == .outOfRange {
            // An empty blob has no first byte.
            return try get(key, range: nil)
        }
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        try ObjectKey.check(key)
        let answer: TargetAnswer
        do throws(StoreError) {
            answer = try succeed(TargetRequest(.head, path: path(key)), "HEAD of \(key)")
        } catch where error.code == .notFound {
            return nil
        }
        guard let size = answer.headers["content-length"].flatMap({ UInt64($0) }) else {
            throw StoreError(.corruptResponse, "\(errors.location): HEAD of \(key) states no size", try: "look at proxies on the way")
        }
        let md5 = answer.headers["content-md5"].flatMap { Data(base64Encoded: $0) }.map { Array($0) }
        // A blob that was made of blocks states what its writer said: of ours, none does.
        return ObjectInfo(sizeBytes: size, md5: md5?.count == 16 ? md5 : nil)
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        for key in keys { try ObjectKey.check(key) }
        let failure = Mutex<StoreError?>(nil)
        forEachInParallel(keys, threads: Self.deletionThreads) { key in
            guard failure.withLock({ $0 == nil }) else { return }
            do throws(StoreError) {
                try self.succeed(TargetRequest(.delete, path: self.path(key)), "deletion of \(key)")
            } catch where error.code == .notFound {
                return
            } catch {
                failure.withLock { $0 = $0 ?? error }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure }
    }

    // MARK: - Lists

    /// One request a page for who goes on after the last key of a page; one for every 1,000 keys before `startAfter` for who
    /// starts elsewhere. A page of the service may be short, even empty, and more follow.
    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try ObjectKey.checkPrefix(prefix)
        var marker = startAfter.flatMap { after in learned.withLock { $0.markers.marker(prefix: prefix, after: after) } }
        while true {
            var (objects, next) = try page(prefix: prefix, marker: marker)
            if let startAfter { objects.removeAll { !ObjectKey.isBefore(startAfter, $0.key) } }
            marker = next
            if let last = objects.last, let next { learned.withLock { $0.markers.remember(next, prefix: prefix, after: last.key) } }
            if next == nil || !objects.isEmpty { return ListPage(objects: objects, isTruncated: next != nil) }
        }
    }

    private func page(prefix: String, marker: String?) throws(StoreError) -> (objects: [ListedObject], next: String?) {
        var query = [
            (name: "restype", value: "container"), (name: "comp", value: "list"), (name: "prefix", value: place.prefix + prefix),
            (name: "maxresults", value: "\(ObjectLimits.listPageKeys)"),
        ]
        if let marker { query.append((name: "marker", value: marker)) }
        let answer = try succeed(TargetRequest(.get, path: containerPath, query: query, answerBytesMax: 8 << 20), "list of \(prefix)")
        guard let body = XMLDocument.read(AzureListBody.self, answer.body) else { throw damagedList("cannot be read") }
        var objects: [ListedObject] = []
        for blob in body.Blobs.Blob ?? [] {
            guard blob.Properties.resourceType != "directory" else {
                throw StoreError(
                    .unsupported, "\(errors.location): the account has a hierarchical namespace, where folders are objects", try: "use an account without one")
            }
            guard let name = blob.Name.decoded, name.utf8.starts(with: (place.prefix + prefix).utf8) else { throw damagedList("names what was not asked for") }
            let key = String(decoding: name.utf8.dropFirst(place.prefix.utf8.count), as: UTF8.self)
            guard objects.last.map({ ObjectKey.isBefore($0.key, key) }) != false else { throw damagedList("is not in the order of names") }
            objects.append(ListedObject(key: key, sizeBytes: blob.Properties.sizeBytes))
        }
        let next = body.NextMarker.flatMap { $0.isEmpty ? nil : $0 }
        guard next == nil || next != marker else { throw damagedList("does not go on") }
        return (objects, next)
    }

    private func damagedList(_ reason: String) -> StoreError {
        StoreError(.corruptResponse, "\(errors.location): the answer to a list \(reason)", try: "check that the endpoint is Azure Blob Storage")
    }

    // MARK: - What the target can do

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {
        do throws(StoreError) {
            try put(key, bytes, ifAbsent: true)
            // Accepted over an existing object: the header was ignored. The bytes are the same, so nothing is lost.
            learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (false, true) }
        } catch {
            switch error.code {
            case .alreadyExists: learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (true, false) }
            case .unsupported: learned.withLock { ($0.features.conditionalPut, $0.conditionsFail) = (false, true) }
            default: throw error
            }
        }
        let stated = try head(key)?.md5
        learned.withLock { $0.features.checksumTrusted = stated == Digests.md5(bytes) }
    }

    // MARK: - Exchanges

    private var containerPath: String { "\(place.accountPath)/\(place.container)" }

    private func path(_ key: String) -> String { containerPath + "/" + percentEncodedPath(place.prefix + key) }

    @discardableResult
    private func succeed(_ request: TargetRequest, _ what: String) throws(StoreError) -> TargetAnswer {
        var used = credentials.current
        var answer = try send(request, used)
        if [401, 403].contains(answer.status), try credentials.renew(after: used) {
            used = credentials.current
            answer = try send(request, used)
        }
        guard (200..<300).contains(answer.status) else { throw errors.error(answer, for: what, ourClock: clock(), used) }
        return answer
    }

    private func send(_ request: TargetRequest, _ credentials: AzureCredentials) throws(StoreError) -> TargetAnswer {
        var request = request
        request.headers += [("host", place.endpoint.authority), ("x-ms-date", HTTPDate(secondsSince1970: clock()).header), ("x-ms-version", Self.serviceVersion)]
        switch credentials {
        case .sharedKey(let key): request.headers.append(("authorization", AzureSignature(account: place.account, key: key).authorization(request)))
        case .sharedAccessSignature(let signature): request.query += signature.query.map { (name: $0.key, value: $0.value) }
        }
        let answer = try connection.exchange(request)
        if let theirs = answer.date {
            learned.withLock { $0.clockOffsetSeconds = theirs.secondsSince1970 - clock() }
        }
        return answer
    }
}

/// The markers behind the newest pages. A handful is enough: few lists are under way at a time.
private struct ListMarkers {
    private static let countMax = 32
    private var entries: [(prefix: String, after: String, marker: String)] = []

    func marker(prefix: String, after: String) -> String? {
        entries.last { $0.prefix.utf8.elementsEqual(prefix.utf8) && $0.after.utf8.elementsEqual(after.utf8) }?.marker
    }

    mutating func remember(_ marker: String, prefix: String, after: String) {
        entries.append((prefix, after, marker))
        if entries.count > Self.countMax { entries.removeFirst() }
    }
}
