// heads/<group>/<n>: the state of a group of disks (docs/formats/vault.md section 8). What the newest head does not
// lead to does not exist. Written by the group's one uploader (and by a failover's pin); read by everyone.

/// Names a manifest: its sequence and the hash of its object; the lineage where it is not the obvious one.
package struct ManifestRef: Codable, Equatable, Hashable, Sendable {
    package let lineage: VaultID?
    package let sequence: UInt64
    package let hash: Hash256

    package init(lineage: VaultID?, sequence: UInt64, hash: Hash256) {
        self.lineage = lineage
        self.sequence = sequence
        self.hash = hash
    }
}

package struct LineageState: Codable, Equatable, Sendable {
    package let id: VaultID
    package let parent: VaultID?
    package let branchSequence: UInt64?
    /// All of this lineage up to here is in the vault.
    package var sequence: UInt64
    /// The newest full manifest, and the roll-ups and deltas from there to `sequence`.
    package var full: ManifestRef
    package var tail: [ManifestRef]

    package var newest: ManifestRef { tail.last ?? full }

    package init(id: VaultID, parent: VaultID? = nil, branchSequence: UInt64? = nil, sequence: UInt64, full: ManifestRef, tail: [ManifestRef] = []) {
        self.id = id
        self.parent = parent
        self.branchSequence = branchSequence
        self.sequence = sequence
        self.full = full
        self.tail = tail
    }
}

/// The disk had `sizeBytes` in all states up to `through`, and after the entry before.
package struct GrownSize: Codable, Equatable, Sendable {
    package let through: UInt64
    package let sizeBytes: UInt64

    package init(through: UInt64, sizeBytes: UInt64) {
        self.through = through
        self.sizeBytes = sizeBytes
    }
}

package struct DiskState: Codable, Equatable, Sendable {
    package let disk: VaultID
    package var sizeBytes: UInt64
    /// Its sizes before, oldest first; nil: it never had another one.
    package var grown: [GrownSize]?
    package var oldestSequence: UInt64
    /// Oldest first; the last one is written to.
    package var lineages: [LineageState]
    /// Points of the group from here on need this disk; nil: all do. `notYet` while it catches up after it joined.
    package var since: UInt64?
    /// The group the disk goes on in. Until the catalog says so too, this state is its newest; nobody adds to it.
    package var movedTo: VaultID?
    /// The points below `oldestSequence` that can be read.
    package var kept: Hash256?
    /// Lineages that were listed and are no longer; nobody writes under them.
    package var ended: [VaultID]?

    package static let notYet = FormatLimits.integerMax

    package init(disk: VaultID, sizeBytes: UInt64, oldestSequence: UInt64, lineages: [LineageState]) {
        self.disk = disk
        self.sizeBytes = sizeBytes
        self.oldestSequence = oldestSequence
        self.lineages = lineages
    }

    /// The size of the disk as it was at `sequence`.
    package func sizeBytes(at sequence: UInt64) -> UInt64 { grown?.first { $0.through >= sequence }?.sizeBytes ?? sizeBytes }

    /// What follows the states that are there has `earlier` and then `sizeBytes`, as the disk's log says.
    package mutating func noteSize(_ sizeBytes: UInt64, after earlier: [GrownSize]) {
        var all = grown ?? []
        // Where another disk was put in its place, nothing tells up to when the size held: up to here.
        let newest = highestSequence
        if self.sizeBytes != earlier.first?.sizeBytes ?? sizeBytes, newest > all.last?.through ?? 0 {
            all.append(GrownSize(through: newest, sizeBytes: self.sizeBytes))
        }
        let known = all.last?.through ?? 0
        all += earlier.filter { $0.through > known }
        self.sizeBytes = sizeBytes
        grown = all.isEmpty ? nil : all
    }

    package var current: LineageState? { lineages.last }
    package var newestSequence: UInt64 { current?.sequence ?? 0 }
    /// No number up to here may be given again, also where the current lineage began below one that was left.
    package var highestSequence: UInt64 { lineages.map(\.sequence).max() ?? 0 }

    /// Takes the lineages out of the list that `isOver` says.
    mutating func end(_ isOver: (LineageState) -> Bool) {
        let over = lineages.filter(isOver).map(\.id)
        guard !over.isEmpty else { return }
        lineages.removeAll { over.contains($0.id) }
        ended = (ended ?? []) + over
    }

    /// Takes over the history that `next` went on with; the window and what is below it stay as they are here, where
    /// retention may have changed them meanwhile.
    package mutating func follow(_ next: DiskState) {
        let left = lineages.map(\.id).filter { id in !next.lineages.contains { $0.id == id } }
        let known = Set(lineages.map(\.id) + [next.current?.id].compactMap { $0 })
        sizeBytes = next.sizeBytes
        grown = next.grown
        lineages = next.lineages.filter { known.contains($0.id) }
        if !left.isEmpty { ended = (ended ?? []) + left }
    }

    /// Whether a moment of the group at `sequence` is one of this disk as well.
    package func takesPart(at sequence: UInt64) -> Bool { movedTo == nil && since ?? 0 <= sequence && oldestSequence <= sequence }

    /// Whether a point of the group at `sequence` waits for this disk.
    func isAwaited(at sequence: UInt64) -> Bool { takesPart(at: sequence) && newestSequence < sequence }
}

package struct Head: ChainDocument, Equatable {
    package struct Writer: Codable, Equatable, Sendable {
        package let epoch: UInt64
        package let host: String
        /// Of the host; nil in heads of writers that had none.
        package var id: VaultID?
        /// 1: it will not write again, and collections do not wait for it; absent otherwise.
        package var isReleased: UInt32?

        private enum CodingKeys: String, CodingKey {
            case epoch, host, id
            case isReleased = "released"
        }

        init(epoch: UInt64, host: String, id: VaultID? = nil) {
            self.epoch = epoch
            self.host = host
            self.id = id
        }
    }

    /// Of failovers that have ended.
    package mutating func removeFailoverPins() {
        let left = (pins ?? []).filter { !$0.name.hasPrefix(Pin.failoverPrefix) }
        pins = left.isEmpty ? nil : left
    }

    package struct Pin: Codable, Equatable, Sendable {
        /// Of those that keep what a failover's disks are filled from.
        package static let failoverPrefix = "failover-"

        package let name: String
        package let disk: VaultID
        package let sequence: UInt64
        /// Of the state it names; a label.
        package let timeMicros: UInt64
        package let reason: String
        package let untilMicros: UInt64?

        package init(name: String, disk: VaultID, sequence: UInt64, timeMicros: UInt64, reason: String, untilMicros: UInt64?) {
            self.name = name
            self.disk = disk
            self.sequence = sequence
            self.timeMicros = timeMicros
            self.reason = reason
            self.untilMicros = untilMicros
        }
    }

    /// How far retention has counted time.
    package struct Clock: Codable, Equatable, Sendable {
        package let sequence: UInt64
        package let timeMicros: UInt64
        package let elapsedMicros: UInt64
    }

    package struct Verdict: Codable, Equatable, Sendable {
        package let disk: VaultID
        package let sequence: UInt64
        package let check: String
        package let good: UInt64
        package let note: String
        package let timeMicros: UInt64

        package init(disk: VaultID, sequence: UInt64, check: String, isGood: Bool, note: String, timeMicros: UInt64) {
            self.disk = disk
            self.sequence = sequence
            self.check = check
            good = isGood ? 1 : 0
            self.note = note
            self.timeMicros = timeMicros
        }

        package var isGood: Bool { good == 1 }
    }

    package private(set) var format = FormatLimits.formatVersion
    package let vault: VaultID
    package let group: VaultID
    package var number: UInt64 = 0
    package var previous: Hash256?
    package var timeMicros: UInt64 = 0
    package var writer: Writer
    package var collectionEpoch: UInt32
    package var disks: [DiskState] = []
    package var pins: [Pin]?
    package var verdicts: [Verdict]?
    package var clock: Clock?
    package var lifeCycle: LifeCycle?

    package func state(of disk: VaultID) -> DiskState? { disks.first { $0.disk == disk } }

    /// Replaces the state of `disk`, or adds it.
    package mutating func set(_ state: DiskState) {
        if let index = disks.firstIndex(where: { $0.disk == state.disk }) { disks[index] = state } else { disks.append(state) }
    }

    package mutating func mark(_ disk: VaultID, movedTo group: VaultID?) {
        if let index = disks.firstIndex(where: { $0.disk == disk }) { disks[index].movedTo = group }
    }

    /// Takes everything of the disk out.
    package mutating func remove(_ disk: VaultID) {
        disks.removeAll { $0.disk == disk }
        pins = pins.map { $0.filter { $0.disk != disk } }
        verdicts = verdicts.map { $0.filter { $0.disk != disk } }
    }

    /// As many as a head can have.
    static func newest(_ verdicts: [Verdict]) -> [Verdict] { Array(verdicts.sorted { $0.timeMicros < $1.timeMicros }.suffix(FormatLimits.verdictsMax)) }

    /// Takes over what another group's head has of the disk; it catches up before the points of this group need it.
    package mutating func take(_ disk: VaultID, from other: Head) {
        guard var state = other.state(of: disk) else { return }
        state.movedTo = nil
        state.since = group == disk ? nil : DiskState.notYet
        remove(disk)
        set(state)
        let moved = (other.pins ?? []).filter { $0.disk == disk }
        if !moved.isEmpty { pins = (pins ?? []) + moved }
        let judged = (other.verdicts ?? []).filter { $0.disk == disk }
        if !judged.isEmpty { verdicts = Self.newest((verdicts ?? []) + judged) }
        // Else a host that was left could go on in the other group.
        if lifeCycle == nil { lifeCycle = other.lifeCycle }
    }

    /// The disk takes part in all points of the group from now on, after every one that may be listed already.
    package mutating func join(_ disk: VaultID) {
        guard let index = disks.firstIndex(where: { $0.disk == disk }), disks[index].since == DiskState.notYet else { return }
        let newest = disks.filter { $0.movedTo == nil }.map(\.newestSequence).max() ?? 0
        disks[index].since = newest + 1
    }
}

/// The chain of one group's heads.
package struct HeadChain: Sendable {
    private let vault: Vault
    package let group: VaultID
    let chain: Chain<Head>

    init(vault: Vault, group: VaultID) {
        self.vault = vault
        self.group = group
        chain = Chain(vault: vault, name: "heads/\(group)") { .head(group: group, $0) }
    }

    /// The newest head, or nil when nothing was replicated yet.
    package func newest() throws(VaultError) -> Published<Head>? {
        guard let newest = try chain.newest() else { return nil }
        try check(newest.document)
        return newest
    }

    package func read(_ number: UInt64) throws(VaultError) -> Published<Head> {
        let head = try chain.read(number)
        try check(head.document)
        return head
    }

    /// Makes the caller the group's uploader: a new head with a higher writer epoch, which fences the uploader before.
    /// What an interrupted move left here of disks that the catalog has in other groups goes.
    ///
    /// The head acknowledges the catalog's collection epoch, or goes on with the one it had (`keepsEpoch`). The catalog is read
    /// again afterwards: a collection either sees this head or is seen here before anything is made.
    ///
    /// `change` gets the head that is there, its writer included, and may refuse; it runs again when another head came in between.
    /// With `isReleased` the caller makes nothing that a head would name, and no collection waits for the group until the next claim.
    package func claim(
        host: String, id: VaultID? = nil, isReleased: Bool = false, keepsEpoch: (UInt32) -> Bool = { _ in false },
        _ change: (inout Head) throws(VaultError) -> Void = { _ in }
    ) throws(VaultError) -> Published<Head> {
        var (claimed, isKept) = try claimOnce(host, id, isReleased, keepsEpoch, change)
        while !isKept {
            let epoch = try vault.catalog().document.collectionEpoch
            guard epoch > claimed.document.collectionEpoch else { break }
            claimed = try update(epoch: claimed.document.writer.epoch) { $0.collectionEpoch = epoch }
        }
        return claimed
    }

    private func claimOnce(
        _ host: String, _ id: VaultID?, _ isReleased: Bool, _ keepsEpoch: (UInt32) -> Bool, _ change: (inout Head) throws(VaultError) -> Void
    ) throws(VaultError) -> (Published<Head>, isKept: Bool) {
        try vault.refuseCopy()
        let catalog = try vault.catalog().document
        let epoch = catalog.collectionEpoch
        let elsewhere = Set(catalog.disks.filter { $0.group != group }.map(\.id))
        for _ in 0..<8 {
            let current = try newest()
            let writer = Head.Writer(epoch: (current?.document.writer.epoch ?? 0) + 1, host: host, id: id)
            var next = current?.document ?? Head(vault: vault.id, group: group, writer: writer, collectionEpoch: epoch)
            try change(&next)
            next.writer = writer
            if isReleased { next.writer.isReleased = 1 }
            // Who let go of the group was waited for by no collection since.
            let isKept = current.map { $0.document.writer.isReleased == nil && keepsEpoch($0.document.collectionEpoch) } ?? false
            if !isKept { next.collectionEpoch = max(epoch, next.collectionEpoch) }
            for state in next.disks where elsewhere.contains(state.disk) { next.remove(state.disk) }
            do {
                return (try chain.publish(next, after: current), isKept)
            } catch .conflict {
                continue
            }
        }
        throw .conflict(chain: chain.name)
    }

    /// Publishes a changed head as the writer of `epoch`; `.fenced` once another epoch is there. `change` runs again on
    /// the newer head when something else (a pin, a verdict) was published in between.
    @discardableResult
    package func update(epoch: UInt64, _ change: (inout Head) throws(VaultError) -> Void) throws(VaultError) -> Published<Head> {
        for attempt in 0..<Chain<Head>.triesMax {
            chain.giveWay(before: attempt)
            guard let current = try newest() else { throw .missing(object: ObjectPlace.head(group: group, 1).key) }
            guard current.document.writer.epoch == epoch else {
                throw .fenced("\(chain.name) has writer epoch \(current.document.writer.epoch) of \(current.document.writer.host); this uploader has epoch \(epoch)")
            }
            var next = current.document
            try change(&next)
            if next == current.document { return current }
            do {
                return try chain.publish(next, after: current)
            } catch .conflict {
                continue
            }
        }
        throw .conflict(chain: chain.name)
    }

    /// Whether this host put a head behind that number and never heard what became of it: it may be there, and name what was put for it.
    package func isUnsettled(after number: UInt64) throws(VaultError) -> Bool {
        try vault.memory.isUnseen(chain.memoryName, number: number + 1)
    }

    /// The newest head, as its writer. Where one of this host's is unsettled, its number is taken first: by it, if it is there after all, else by one
    /// that says what the newest said. Only then may be put again what it would have named.
    package func settled(epoch: UInt64) throws(VaultError) -> Published<Head>? {
        for attempt in 0..<Chain<Head>.triesMax {
            chain.giveWay(before: attempt)
            let current = try newest()
            guard let current, current.document.writer.epoch == epoch, try isUnsettled(after: current.document.number) else { return current }
            do {
                return try chain.publish(current.document, after: current)
            } catch .conflict {
                continue
            }
        }
        throw .conflict(chain: chain.name)
    }

    /// Publishes a changed head as somebody who is not its uploader and does not fence it. Nothing happens where none is.
    package func edit(_ change: (inout Head) throws(VaultError) -> Void) throws(VaultError) {
        try vault.refuseCopy()
        for attempt in 1...8 {
            guard let writer = try newest()?.document.writer else { return }
            do throws(VaultError) {
                try update(epoch: writer.epoch) { (head: inout Head) throws(VaultError) in try change(&head) }
                return
            } catch .fenced(let text) {
                // An uploader began just then, which is nothing to who is none.
                guard attempt < 8 else { throw .fenced(text) }
            }
        }
    }

    private func check(_ head: Head) throws(VaultError) {
        func damaged(_ reason: String) -> VaultError { .damaged(object: ObjectPlace.head(group: group, head.number).key, reason: reason) }
        guard head.group == group else { throw damaged("it belongs to the group \(head.group)") }
        guard head.pins?.count ?? 0 <= FormatLimits.pinsMax, head.pins?.allSatisfy({ $0.sequence <= FormatLimits.integerMax && $0.timeMicros <= FormatLimits.integerMax }) ?? true,
            head.clock.map({ max($0.sequence, $0.timeMicros, $0.elapsedMicros) <= FormatLimits.integerMax }) ?? true
        else { throw damaged("its pins or its clock are beyond the limits of the format") }
        guard head.verdicts?.count ?? 0 <= FormatLimits.verdictsMax, head.verdicts?.allSatisfy({ $0.sequence <= FormatLimits.integerMax && $0.good <= 1 }) ?? true else {
            throw damaged("its verdicts are beyond the limits of the format")
        }
        if let lifeCycle = head.lifeCycle {
            let points = lifeCycle.points ?? []
            guard lifeCycle.timeMicros <= FormatLimits.integerMax, points.allSatisfy({ $0.sequence <= FormatLimits.integerMax }), Set(points.map(\.disk)).count == points.count else {
                throw damaged("its life cycle is beyond the limits of the format")
            }
        }
        guard head.writer.epoch <= FormatLimits.integerMax else { throw damaged("its writer epoch is \(head.writer.epoch)") }
        guard Set(head.disks.map(\.disk)).count == head.disks.count else { throw damaged("a disk stands in it twice") }
        for disk in head.disks {
            guard disk.since ?? 0 <= FormatLimits.integerMax else { throw damaged("a disk takes part from sequence \(disk.since ?? 0)") }
            let grown = disk.grown ?? []
            guard (grown.map(\.sizeBytes) + [disk.sizeBytes]).allSatisfy({ $0 > 0 && $0 % 512 == 0 && $0 <= FormatLimits.diskBytesMax }) else {
                throw damaged("a disk of \(disk.sizeBytes) bytes, or of an impossible size before")
            }
            guard grown.count <= FormatLimits.growthsMax, zip(grown, grown.dropFirst()).allSatisfy({ $0.through < $1.through }) else {
                throw damaged("the sizes a disk had before do not follow each other")
            }
            guard zip(disk.lineages, disk.lineages.dropFirst()).allSatisfy({ $0.sequence <= $1.sequence || $1.parent != nil }) else {
                throw damaged("its lineages do not follow each other")
            }
            guard disk.oldestSequence <= max(disk.newestSequence, 1) else { throw damaged("a disk's window begins behind its newest sequence") }
            for lineage in disk.lineages {
                let sequences = [lineage.full.sequence] + lineage.tail.map(\.sequence)
                guard zip(sequences, sequences.dropFirst()).allSatisfy({ $0 < $1 }), sequences.last == lineage.sequence,
                    lineage.sequence <= FormatLimits.integerMax
                else {
                    throw damaged("the manifests of lineage \(lineage.id) do not rise to its sequence")
                }
            }
        }
    }
}

extension Vault {
    package func heads(group: VaultID) -> HeadChain { HeadChain(vault: self, group: group) }
}
