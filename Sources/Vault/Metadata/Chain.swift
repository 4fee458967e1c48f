// A chain of numbered objects, each with the hash of the one before: the catalog and the heads of a group
// (docs/formats/vault.md section 7). Finding the newest needs no LIST; publishing loses cleanly against another writer.

import Glibc
import ObjectStore

/// What the objects of a chain have in common.
package protocol ChainDocument: Codable, Sendable {
    var vault: VaultID { get }
    var number: UInt64 { get set }
    var previous: Hash256? { get set }
    var timeMicros: UInt64 { get set }
    /// The key generation it is to be sealed with; nil: that of the newest catalog.
    var sealingGeneration: UInt32? { get }
}

extension ChainDocument {
    package var sealingGeneration: UInt32? { nil }
}

/// A document as it stands in the vault.
package struct Published<Document: ChainDocument>: Sendable {
    package let document: Document
    /// SHA-256 of the stored object.
    package let hash: Hash256
}

struct Chain<Document: ChainDocument>: Sendable {
    let vault: Vault
    /// `catalog`, `heads/<group>`: its name in messages and in the client's memory.
    let name: String
    let place: @Sendable (UInt64) -> ObjectPlace

    /// Of a change that others are faster with: as many hosts as that may change a chain at once, for one of them wins each time.
    static var triesMax: Int { 64 }

    /// Who lost waits a little, a different time each: the more others there are, the longer.
    func giveWay(before attempt: Int) {
        if attempt > 0 { usleep(UInt32.random(in: 0..<UInt32(10_000 * min(attempt, 20)))) }
    }

    /// The newest document, or nil for a chain that has none. `passingDamage`: the newest that opens, for a chain that nothing depends on; what is
    /// published after it takes the place of what does not open.
    func newest(passingDamage: Bool = false) throws(VaultError) -> Published<Document>? {
        while true {
            let remembered = try vault.memory.newest(memoryName)
            do throws(VaultError) {
                return try newest(remembered?.number, passingDamage)
            } catch .rolledBack(let reason) {
                // Another thread or program of this host may have seen a later one since: that is no older state of the target.
                guard try vault.memory.newest(memoryName)?.number ?? 0 > remembered?.number ?? 0 else { throw .rolledBack(reason) }
            }
        }
    }

    private func newest(_ remembered: UInt64?, _ passingDamage: Bool) throws(VaultError) -> Published<Document>? {
        var number = if let remembered { try newestNumber(guess: remembered) } else { try newestNumber() }
        guard number > 0 else {
            guard let remembered else { return nil }
            throw .rolledBack("\(name) is gone from the target, but this host has seen number \(remembered)")
        }
        var found: Published<Document>?
        while found == nil {
            do throws(VaultError) {
                found = try read(number)
            } catch .damaged(let object, let reason) {
                // Ours, and not kept as we sent it: nobody counts on it, and the next to publish puts a sound one there.
                guard try vault.memory.isUnseen(memoryName, number: number) || passingDamage else { throw .damaged(object: object, reason: reason) }
                number -= 1
                guard number > 0 else { return nil }
            }
        }
        guard let found else { return nil }
        try vault.memory.accept(memoryName, number: number, hash: found.hash, previous: found.document.previous)
        return found
    }

    func read(_ number: UInt64) throws(VaultError) -> Published<Document> {
        try decode(try vault.fetch(place(number)), number)
    }

    func decode(_ bytes: [UInt8], _ number: UInt64) throws(VaultError) -> Published<Document> {
        let place = place(number)
        let plaintext = try vault.withKeys { keys throws(VaultError) in try SealedObject.open(bytes, place: place, keys: keys) }
        let document = try CanonicalJSON.decode(Document.self, plaintext, object: place.key)
        guard document.number == number, document.vault == vault.id, (number == 1) == (document.previous == nil) else {
            throw .damaged(object: place.key, reason: "its number, vault or previous hash do not fit its place")
        }
        return Published(document: document, hash: Hash256(bytes: Digest.sha256(bytes))!)
    }

    /// Publishes `document` behind `previous`; `.conflict` when another one was faster.
    func publish(_ document: Document, after previous: Published<Document>?) throws(VaultError) -> Published<Document> {
        var next = document
        next.number = (previous?.document.number ?? 0) + 1
        next.previous = previous?.hash
        next.timeMicros = Vault.nowMicros()
        let place = place(next.number)
        let bytes = try vault.seal(try CanonicalJSON.encode(next), place: place, generation: next.sealingGeneration)
        try vault.memory.begin(memoryName, number: next.number)
        try create(bytes, next.number)
        let hash = Hash256(bytes: Digest.sha256(bytes))!
        do throws(VaultError) {
            try vault.memory.accept(memoryName, number: next.number, hash: hash, previous: next.previous)
        } catch .rolledBack(let reason) {
            // Another program of this host may have built upon it already.
            guard try vault.memory.newest(memoryName)?.number ?? 0 > next.number, try vault.fetch(place) == bytes else { throw .rolledBack(reason) }
        }
        return Published(document: next, hash: hash)
    }

    /// Puts the object where none is, and reads it back: whoever's bytes are there then has won.
    private func create(_ bytes: [UInt8], _ number: UInt64) throws(VaultError) {
        let key = place(number).key
        if try !createIfAbsent(bytes, key), try fromStore(nil, { () throws(StoreError) in try vault.store.head(key) }) == nil {
            try fromStore { () throws(StoreError) in try vault.store.put(key, bytes, ifAbsent: false) }
            vault.settle()
        }
        let stored = try vault.fetchJustPut(place(number))
        if stored == bytes { return }
        guard try !opens(stored, number) else { throw .conflict(chain: name) }
        try replace(stored, by: bytes, number)
    }

    /// False when the target cannot do it.
    private func createIfAbsent(_ bytes: [UInt8], _ key: String) throws(VaultError) -> Bool {
        guard try vault.createsConditionally() else { return false }
        do {
            try vault.store.put(key, bytes, ifAbsent: true)
        } catch where error.code == .alreadyExists {
            // An answer that was lost may have been ours: the caller's comparison tells.
        } catch where error.code == .unsupported && !vault.store.features.conditionalPut {
            // It could when it was asked.
            return false
        } catch {
            throw .store(error)
        }
        return true
    }

    /// Bytes that open as nothing are nobody's object, but one that the target did not keep as it was sent: left there, they
    /// would end the chain for everybody. Two who replace them at the same time see after a while whose bytes stayed.
    private func replace(_ stored: [UInt8], by bytes: [UInt8], _ number: UInt64) throws(VaultError) {
        let place = place(number)
        guard try vault.fetchJustPut(place) == stored else { throw .notKept(object: place.key, reason: "two readings of it differ") }
        try fromStore { () throws(StoreError) in try vault.store.put(place.key, bytes, ifAbsent: false) }
        vault.settle()
        let kept = try vault.fetchJustPut(place)
        if kept == bytes { return }
        guard try !opens(kept, number) else { throw .conflict(chain: name) }
        throw .notKept(object: place.key, reason: "the bytes read back differ")
    }

    private func opens(_ stored: [UInt8], _ number: UInt64) throws(VaultError) -> Bool {
        do throws(VaultError) {
            _ = try decode(stored, number)
            return true
        } catch .damaged {
            return false
        }
    }

    var memoryName: String { "\(vault.id)/\(name)" }

    // MARK: Finding the newest number

    /// From a number that was there once.
    private func newestNumber(guess: UInt64) throws(VaultError) -> UInt64 {
        let interval = FormatLimits.anchorInterval
        let start = guess == 0 ? 0 : try exists(guess) ? guess : 0
        let anchors = try newestAnchor(from: start / interval)
        // Above the newest anchor every number up to the newest is there, so galloping inside the window is safe.
        let end = (anchors + 1) * interval - 1
        let found = try lastPresent(from: max(start, anchors * interval), limit: end) { number throws(VaultError) in try exists(number) }
        return found == end ? try following(found) : found
    }

    /// Who never saw this chain asks LIST: it shows the newest in a page or two, and what lies behind a gap, for without it a lost object looks
    /// like the end. It may be stale and name what is not there, so the numbers are looked for behind it, and where it names too much, without it.
    private func newestNumber() throws(VaultError) -> UInt64 {
        let anchor = try newestAnchor(from: 0) * FormatLimits.anchorInterval
        let listed = try newestListed(after: anchor)
        if listed > anchor, try exists(listed) { return try following(listed) }
        let found = try newestNumber(guess: anchor)
        return found >= listed ? found : try following(listed)
    }

    private func newestAnchor(from anchor: UInt64) throws(VaultError) -> UInt64 {
        let interval = FormatLimits.anchorInterval
        return try lastPresent(from: anchor, limit: FormatLimits.integerMax / interval / 2) { number throws(VaultError) in try exists(number * interval) }
    }

    private func following(_ number: UInt64) throws(VaultError) -> UInt64 {
        var newest = number
        while try exists(newest + 1) { newest += 1 }
        return newest
    }

    /// The highest number listed behind `number`, or that; a target that refuses a LIST tells nothing.
    private func newestListed(after number: UInt64) throws(VaultError) -> UInt64 {
        var highest = number
        var last: String? = number > 0 ? place(number).key : nil
        while true {
            let page: ListPage
            do throws(StoreError) {
                page = try vault.store.list(prefix: name + "/", startAfter: last)
            } catch where error.code == .accessDenied || error.code == .unsupported {
                return highest
            } catch {
                throw .store(error)
            }
            for object in page.objects {
                guard let number = UInt64(object.key.dropFirst(name.count + 1)), number <= FormatLimits.integerMax else { continue }
                highest = max(highest, number)
            }
            last = page.objects.last?.key
            guard page.isTruncated, last != nil else { return highest }
        }
    }

    /// The highest present number, where `from` counts as present and presence has no gaps up to `limit`.
    private func lastPresent(from: UInt64, limit: UInt64, _ present: (UInt64) throws(VaultError) -> Bool) throws(VaultError) -> UInt64 {
        var low = from
        var step: UInt64 = 1
        while low + step <= limit, try present(low + step) {
            low += step
            step *= 2
        }
        var high = min(low + step, limit + 1)
        while high - low > 1 {
            let middle = low + (high - low) / 2
            if try present(middle) { low = middle } else { high = middle }
        }
        return low
    }

    private func exists(_ number: UInt64) throws(VaultError) -> Bool {
        try fromStore { () throws(StoreError) in try vault.store.head(place(number).key) } != nil
    }
}
