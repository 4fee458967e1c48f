// What this client has seen of each chain, so that a target that shows an older state is caught. One small file a
// chain in a folder that several programs may share; without a folder it lasts as long as the process.

import BlockIO
import Glibc
import Synchronization

package final class HeadMemory: Sendable {
    private struct Seen: Codable {
        var format = FormatLimits.formatVersion
        let number: UInt64
        let hash: Hash256
    }

    private struct Begun: Codable {
        var format = FormatLimits.formatVersion
        let number: UInt64
    }

    /// For another's write of a small file. Who takes longer was stopped with the lock.
    private static let lockMillisecondsMax = 5_000

    private let folder: String?
    /// Guards what was seen. Other memories of this process and other processes share the files: those have a lock of their own (`withFiles`).
    private let chains = Mutex<[String: Seen]>([:])
    private let begun = Mutex<[String: UInt64]>([:])

    /// `folder` must exist.
    package init(folder: String?) {
        self.folder = folder
    }

    package func newest(_ chain: String) throws(VaultError) -> (number: UInt64, hash: Hash256)? {
        try chains.withLock { chains throws(VaultError) in try recall(chain, &chains).map { ($0.number, $0.hash) } }
    }

    /// Checks what the target shows as newest against what was seen before, then remembers it.
    package func accept(_ chain: String, number: UInt64, hash: Hash256, previous: Hash256?) throws(VaultError) {
        try chains.withLock { chains throws(VaultError) in
            guard try isNew(chain, number, hash, previous, &chains) else { return }
            try withFiles { () throws(VaultError) in
                // Another may have seen more since: what is remembered must never go back.
                guard try isNew(chain, number, hash, previous, &chains) else { return }
                let seen = Seen(number: number, hash: hash)
                chains[chain] = seen
                try save(chain, seen)
            }
        }
    }

    /// False for what was seen already.
    private func isNew(_ chain: String, _ number: UInt64, _ hash: Hash256, _ previous: Hash256?, _ chains: inout [String: Seen]) throws(VaultError) -> Bool {
        guard let seen = try recall(chain, &chains) else { return true }
        guard number >= seen.number else {
            throw .rolledBack("\(chain) ends at \(number), but this host has seen number \(seen.number): the target was rolled back or lost objects")
        }
        let fits = number == seen.number ? hash == seen.hash : number > seen.number + 1 || previous == seen.hash
        guard fits else { throw .rolledBack("\(chain) number \(number) is not what this host has seen: the chain was forked") }
        return number > seen.number
    }

    /// Alone with the files, as long as nobody keeps the lock for seconds: a memory that may be weaker for a moment is better than none.
    private func withFiles(_ body: () throws(VaultError) -> Void) throws(VaultError) {
        guard let folder else { return try body() }
        let lock = try lock(folder + "/lock")
        let result = Result { () throws(VaultError) in try body() }
        _ = consume lock
        try result.get()
    }

    private func lock(_ path: String) throws(VaultError) -> Descriptor {
        do throws(SystemError) {
            let file = try Descriptor.open(path, O_RDWR | O_CREAT)
            var waited = 0
            while try !file.tryLock(.exclusive), waited < Self.lockMillisecondsMax {
                usleep(1_000)
                waited += 1
            }
            return file
        } catch { throw .memory(error) }
    }

    /// This host is about to put that object of the chain. Should the target not keep it as it was sent, and this program die
    /// before it knew, the next one finds here that nobody ever counted on it.
    func begin(_ chain: String, number: UInt64) throws(VaultError) {
        let seen = try newest(chain)?.number ?? 0
        try begun.withLock { begun throws(VaultError) in
            begun[chain] = number
            guard let path = begunPath(chain) else { return }
            try withFiles { () throws(VaultError) in
                // Another program of this host may be one ahead. What it began must not be forgotten; one that lies further off is of a chain that was
                // rolled back since.
                if let other = try storedBegun(chain), other > number, other <= seen + 1 { return }
                let bytes = try CanonicalJSON.encode(Begun(number: number))
                try onFile { () throws(SystemError) in try DurableFile.replace(path, with: bytes) }
            }
        }
    }

    private func storedBegun(_ chain: String) throws(VaultError) -> UInt64? {
        guard let path = begunPath(chain), let bytes = try onFile({ () throws(SystemError) in try DurableFile.read(path) }) else { return nil }
        return try CanonicalJSON.decode(Begun.self, bytes, object: path).number
    }

    /// Whether this host began to put that object and has not seen it, or a later one, since.
    func isUnseen(_ chain: String, number: UInt64) throws(VaultError) -> Bool {
        if begun.withLock({ $0[chain] }) != number {
            guard try storedBegun(chain) == number else { return false }
        }
        return try newest(chain)?.number ?? 0 < number
    }

    /// The chain is gone for good (`vault forget`).
    package func forget(_ chain: String) throws(VaultError) {
        try chains.withLock { chains throws(VaultError) in
            chains[chain] = nil
            guard let path = path(chain) else { return }
            try onFile { () throws(SystemError) in try DurableFile.remove(path) }
        }
        try begun.withLock { begun throws(VaultError) in
            begun[chain] = nil
            guard let path = begunPath(chain) else { return }
            try onFile { () throws(SystemError) in try DurableFile.remove(path) }
        }
    }

    private func recall(_ chain: String, _ chains: inout [String: Seen]) throws(VaultError) -> Seen? {
        guard let path = path(chain), let bytes = try onFile({ () throws(SystemError) in try DurableFile.read(path) }) else { return chains[chain] }
        let stored = try CanonicalJSON.decode(Seen.self, bytes, object: path)
        if let own = chains[chain], own.number >= stored.number { return own }
        chains[chain] = stored
        return stored
    }

    private func save(_ chain: String, _ seen: Seen) throws(VaultError) {
        guard let path = path(chain) else { return }
        let bytes = try CanonicalJSON.encode(seen)
        try onFile { () throws(SystemError) in try DurableFile.replace(path, with: bytes) }
    }

    private func path(_ chain: String) -> String? {
        folder.map { "\($0)/\(chain.split(separator: "/").joined(separator: "-")).json" }
    }

    private func begunPath(_ chain: String) -> String? { path(chain).map { $0 + ".begun" } }

    private func onFile<Value>(_ call: () throws(SystemError) -> Value) throws(VaultError) -> Value {
        do {
            return try call()
        } catch {
            throw .memory(error)
        }
    }
}
