// The heads of a group, or the catalogs, as they are copied: the newest one first, then those before it downwards, for each of those between
// leads to objects that may be gone. Who looks for the newest meanwhile finds the one before all of them or the newest one, and both are whole.
// Audit records lead to nothing and none is ever removed: all of them, oldest first.

import ObjectStore

struct ChainCopy<Document: ChainDocument> {
    let from: Chain<Document>
    let to: Chain<Document>

    private var source: Vault { from.vault }
    private var copy: Vault { to.vault }
    /// Up to where this host has put all of the chain, by the copy's memory. What is only seen there may have a gap below it.
    private var doneName: String { "\(copy.id)/copied/\(to.name)" }

    /// The number up to which the copy is known to be whole; 0 when nothing is known of it; that of the copy's newest where another copier brought
    /// it further than `newest`. Throws when the copy is not one of this chain.
    func position(before newest: Published<Document>) throws(VaultError) -> UInt64 {
        let done = try copy.memory.newest(doneName)
        let there: Published<Document>?
        do throws(VaultError) {
            there = try to.newest()
        } catch .damaged(let object, let reason) {
            // Ours, and not kept as it was sent: it is put again.
            guard let number = UInt64(object.suffix(20)), try copy.memory.isUnseen(doneName, number: number) else { throw .damaged(object: object, reason: reason) }
            return done?.number ?? 0
        }
        guard let there else { return 0 }
        let number = there.document.number
        guard number <= newest.document.number else {
            if try hash(at: number, done) == there.hash { return number }
            throw .fenced("\(to.name) of the copy is at number \(number), that of the source at \(newest.document.number): the copy was written by somebody else, or the source is an older state")
        }
        guard let own = number == newest.document.number ? newest.hash : try hash(at: number, done) else {
            throw .refused("\(to.name) of the copy ends at number \(number), which the source does not have any more, so that nothing tells whether they are the same; copy into an empty place")
        }
        guard own == there.hash else {
            throw .fenced("\(to.name) number \(number) of the copy is not that of the source: the copy was written by somebody else")
        }
        return done?.number ?? 0
    }

    private func hash(at number: UInt64, _ done: (number: UInt64, hash: Hash256)?) throws(VaultError) -> Hash256? {
        if let done, done.number == number { return done.hash }
        do throws(VaultError) {
            return try from.read(number).hash
        } catch .missing {
            return nil
        }
    }

    /// Puts `newest` and what a chain keeps before it: the numbers above the last anchor but one, and all anchors.
    func publish(_ newest: Published<Document>, after done: UInt64) throws(VaultError) {
        let interval = FormatLimits.anchorInterval
        let anchor = newest.document.number / interval * interval
        let first = max(done, anchor > interval ? anchor - interval : 0) + 1
        var (number, expected) = (newest.document.number, newest.hash)
        try copy.memory.begin(doneName, number: number)
        while true {
            let (bytes, document) = try fetch(number)
            guard Digest.sha256(bytes) == expected.bytes else { throw .damaged(object: from.place(number).key, reason: "it is not the one that its successor names") }
            if number == newest.document.number {
                // While the data was copied somebody may have adopted the copy and gone on in it. The mark is looked at last: writing begins after it went.
                guard try position(before: newest) < number else { return }
                try CopyMark.require(at: copy.store)
            }
            try put(number, bytes)
            guard number > first, let previous = document.previous else { break }
            number -= 1
            expected = previous
        }
        var earlier = (first - 1) / interval * interval
        while earlier > done {
            try put(earlier, try fetch(earlier).bytes)
            earlier -= interval
        }
        for name in [to.memoryName, doneName] {
            try copy.memory.accept(name, number: newest.document.number, hash: newest.hash, previous: newest.document.previous)
        }
    }

    /// Puts all of a chain that nothing removes anything of. Interrupted, the copy's is an earlier state of it, also when it is adopted then.
    func publishAll(_ newest: Published<Document>, after done: UInt64) throws(VaultError) {
        guard done < newest.document.number else { return }
        var before = done > 0 ? try to.read(done).hash : nil
        for number in done + 1...newest.document.number {
            let (bytes, document) = try fetch(number)
            guard document.previous == before else { throw .damaged(object: from.place(number).key, reason: "it does not follow the one before: one of them was exchanged") }
            if number == done + 1 {
                guard try position(before: newest) < newest.document.number else { return }
                try CopyMark.require(at: copy.store)
            }
            try copy.memory.begin(doneName, number: number)
            try put(number, bytes)
            let hash = Hash256(bytes: Digest.sha256(bytes))!
            try copy.memory.accept(doneName, number: number, hash: hash, previous: before)
            before = hash
        }
        try copy.memory.accept(to.memoryName, number: newest.document.number, hash: newest.hash, previous: newest.document.previous)
    }

    private func fetch(_ number: UInt64) throws(VaultError) -> (bytes: [UInt8], document: Document) {
        let bytes = try source.fetch(from.place(number))
        return (bytes, try from.decode(bytes, number).document)
    }

    private func put(_ number: UInt64, _ bytes: [UInt8]) throws(VaultError) {
        do throws(VaultError) {
            _ = try copy.putVerified(to.place(number), bytes) { stored throws(VaultError) in
                _ = try to.decode(stored, number)
                return false
            }
        } catch .conflict {
            throw .fenced("\(to.name) number \(number) of the copy is not that of the source: the copy was written by somebody else")
        }
    }
}
