// Pins: states that retention keeps whatever the policy says. They stand in the group's head and are set and taken away
// by anyone who may write heads, beside the running uploader.

package struct PinnedState: Sendable {
    package let pin: Head.Pin
    package let disk: Catalog.Disk
}

extension Vault {
    /// Pins the state at `sequence` on `disk` and on the disks of its group that have it. A name stands for one moment of the group.
    /// `spanMicros`: how long from `nowMicros` on, counted as retention counts; nil: until it is taken away.
    package func pin(
        _ disk: Catalog.Disk, sequence: UInt64, name: String, reason: String, spanMicros: UInt64?, nowMicros: UInt64 = Vault.nowMicros()
    ) throws(VaultError) -> [PinnedState] {
        guard Catalog.isValidName(name) else { throw .refused("\"\(name)\" is no name for a pin: 1 to 64 of A-Z a-z 0-9 . _ - not starting with . or -") }
        guard reason.utf8.count <= FormatLimits.pinReasonBytesMax else { throw .refused("the reason of a pin has at most \(FormatLimits.pinReasonBytesMax) bytes") }
        var made: [PinnedState] = []
        let catalog = try catalog().document
        try heads(group: disk.group).edit { head throws(VaultError) in
            // Looked up in the head that is changed: retention may have let the point go just now.
            let shared = SharedPoints(self, head: head, catalog: catalog)
            guard let own = shared.history(of: disk.id) else { throw .notFound("nothing of the disk \(disk.name) is in the vault yet") }
            let time = try own.stateTime(at: sequence)
            var until: UInt64?
            if let spanMicros { until = min(try countedMicros(shared, clock: head.clock, at: nowMicros) + min(spanMicros, FormatLimits.integerMax), FormatLimits.integerMax) }
            made = []
            for member in shared.members {
                if member.disk.id != disk.id, try !member.history.hasState(at: sequence) { continue }
                made.append(PinnedState(
                    pin: Head.Pin(name: name, disk: member.disk.id, sequence: sequence, timeMicros: time, reason: reason, untilMicros: until), disk: member.disk))
            }
            let pins = (head.pins ?? []) + made.map(\.pin)
            guard !(head.pins ?? []).contains(where: { $0.name == name }) else { throw .alreadyExists("there is a pin named \(name) already") }
            guard pins.count <= FormatLimits.pinsMax else { throw .refused("there are \(FormatLimits.pinsMax) pins already") }
            head.pins = pins
        }
        guard !made.isEmpty else { throw .notFound("nothing of the disk \(disk.name) is in the vault yet") }
        return made
    }

    /// Takes the pin of that name away, from all disks that have it; from then on retention may let the state go.
    package func unpin(_ disk: Catalog.Disk, name: String) throws(VaultError) -> [PinnedState] {
        var removed: [PinnedState] = []
        let catalog = try catalog().document
        try heads(group: disk.group).edit { head throws(VaultError) in
            let all = head.pins ?? []
            removed = all.filter { $0.name == name }.compactMap { pin in catalog.disks.first { $0.id == pin.disk }.map { PinnedState(pin: pin, disk: $0) } }
            guard !removed.isEmpty else { throw .notFound("the disk \(disk.name) has no pin named \(name)") }
            let left = all.filter { $0.name != name }
            head.pins = left.isEmpty ? nil : left
        }
        guard !removed.isEmpty else { throw .notFound("nothing of the disk \(disk.name) is in the vault yet") }
        return removed
    }
}

extension DiskHistory {
    fileprivate func hasState(at sequence: UInt64) throws(VaultError) -> Bool {
        guard state.movedTo == nil, sequence >= state.since ?? 0, sequence <= newestSequence else { return false }
        if sequence >= state.oldestSequence { return true }
        return try keptPoints().contains { $0.sequence == sequence }
    }

    /// Of the point, or of the newest one before it; throws where the state cannot be read.
    fileprivate func stateTime(at sequence: UInt64) throws(VaultError) -> UInt64 {
        _ = try plan(at: sequence)
        return try points().last { $0.sequence <= sequence }?.timeMicros ?? 0
    }
}
