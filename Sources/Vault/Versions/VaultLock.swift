// `vault lock`: what the points of a vault need stays locked at the target. A bucket locks an object for a time when it is written; what is
// needed for longer gets its lock extended here, run after run, by the target's clock. What nothing needs is left to expire.
//
// May be killed at any moment and run again: what is locked for long enough already is only asked for. Deletes nothing.

package import ObjectStore

package struct LockReport: Sendable {
    /// Needed and there, in some version.
    package internal(set) var objects: UInt64 = 0
    package internal(set) var extendedObjects: UInt64 = 0
    /// Their lock ends too early, and was not extended.
    package internal(set) var shortObjects: UInt64 = 0
    /// Of these, those without any.
    package internal(set) var unlockedObjects: UInt64 = 0
    /// Needed, and deleted or written over: their sound version was looked at.
    package internal(set) var hiddenObjects: UInt64 = 0
    /// Needed, and no version is sound or there.
    package internal(set) var missingObjects: UInt64 = 0
    /// What could not be read: what is behind it is not locked.
    package internal(set) var damage: [VaultError] = []

    package var isWhole: Bool { hiddenObjects == 0 && missingObjects == 0 && damage.isEmpty }
}

package struct VaultLock {
    package static let spanSecondsMax = 3_650 * 86_400

    private let sound: SoundVault
    private let spanSeconds: Int
    private let mode: LockMode?
    private let extends: Bool
    private let threads: Int

    /// Everything is to be locked for `spanSeconds` from now on. Without `mode` each object keeps the one it has, and one that has none gets
    /// that of the bucket. Unless it `extends`, it only looks.
    package init(_ sound: SoundVault, spanSeconds: Int, mode: LockMode? = nil, extends: Bool, threads: Int = 16) {
        (self.sound, self.spanSeconds, self.mode, self.extends, self.threads) = (sound, spanSeconds, mode, extends, threads)
    }

    package func run() throws(VaultError) -> LockReport {
        guard 1...Self.spanSecondsMax ~= spanSeconds else { throw .refused("objects can be locked for 1 second to \(Self.spanSecondsMax / 86_400) days") }
        let now = Int(Vault.nowMicros() / 1_000_000) + (sound.store.clockOffsetSeconds ?? 0)
        let work = LockWork(
            sound: sound, endSeconds: now + spanSeconds, extendedSeconds: extends ? now + spanSeconds + spanSeconds / 4 : nil, mode: mode,
            usualMode: mode ?? sound.lockRule?.mode ?? .governance)
        var report = LockReport()
        report.damage = sound.damage
        var known = 0
        for prefix in NeededObjects.prefixes {
            try sound.versions.forEachKey(prefix) { keys throws(VaultError) in
                let wanted = keys.filter { sound.needs($0.key) }
                known += wanted.filter { ObjectName(key: $0.key).map(sound.needed.live.contains) ?? false }.count
                for outcome in try mapInParallel(wanted, threads: threads, { key throws(VaultError) in try work.look(at: key) }) { report.add(outcome) }
            }
        }
        report.missingObjects += UInt64(max(0, sound.needed.live.count - known))
        return report
    }
}

private struct LockWork: Sendable {
    struct Outcome: Sendable {
        var isMissing = false
        var isHidden = false
        var isExtended = false
        var isShort = false
        var isUnlocked = false
    }

    let sound: SoundVault
    /// Locks must last until then.
    let endSeconds: Int
    /// Those that do not are extended so far; nil: they are not. A quarter more than asked for, so that an object is not touched in each run.
    let extendedSeconds: Int?
    let mode: LockMode?
    let usualMode: LockMode

    func look(at key: VersionedKey) throws(VaultError) -> Outcome {
        // A lock on other versions would keep them for nothing.
        guard let version = try sound.version(of: key) else { return Outcome(isMissing: true) }
        do {
            return try look(at: version)
        } catch where error.code == .notFound {
            return Outcome(isMissing: true)
        } catch {
            throw .store(error)
        }
    }

    private func look(at version: ObjectVersion) throws(StoreError) -> Outcome {
        var outcome = Outcome(isHidden: !version.isNewest)
        let lock = try sound.versions.lock(of: version)
        if let lock, lock.untilSeconds >= endSeconds, lock.mode == .compliance || mode != .compliance { return outcome }
        guard let extendedSeconds else {
            (outcome.isShort, outcome.isUnlocked) = (true, lock == nil)
            return outcome
        }
        let strictest = lock?.mode == .compliance ? .compliance : mode ?? lock?.mode ?? usualMode
        try sound.versions.setLock(ObjectLock(mode: strictest, untilSeconds: max(extendedSeconds, lock?.untilSeconds ?? 0)), of: version)
        outcome.isExtended = true
        return outcome
    }
}

extension LockReport {
    fileprivate mutating func add(_ outcome: LockWork.Outcome) {
        guard !outcome.isMissing else {
            missingObjects += 1
            return
        }
        objects += 1
        hiddenObjects += outcome.isHidden ? 1 : 0
        extendedObjects += outcome.isExtended ? 1 : 0
        shortObjects += outcome.isShort ? 1 : 0
        unlockedObjects += outcome.isUnlocked ? 1 : 0
    }
}
