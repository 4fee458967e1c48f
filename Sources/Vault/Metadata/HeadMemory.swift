// What this client has seen of each chain, so that a target that shows an older state is caught (SEMANTICS: rolled
// back objects are refused). One small file a client; without a path it lasts as long as the process.

import BlockIO
import Synchronization

package final class HeadMemory: Sendable {
    private struct Seen: Codable {
        let number: UInt64
        let hash: Hash256
    }

    private struct Document: Codable {
        var format = FormatLimits.formatVersion
        var chains: [String: Seen] = [:]
    }

    private let path: String?
    /// Guards the document and the file: a write of the file holds what was in memory when it began.
    private let document: Mutex<Document>

    /// `path` need not exist yet; its folder must.
    package init(path: String?) throws(VaultError) {
        self.path = path
        var loaded = Document()
        if let path {
            do throws(SystemError) {
                if let bytes = try DurableFile.read(path) { loaded = try Self.parse(bytes, path) }
            } catch {
                throw .refused("\(error)")
            }
        }
        document = Mutex(loaded)
    }

    private static func parse(_ bytes: [UInt8], _ path: String) throws(SystemError) -> Document {
        do {
            return try CanonicalJSON.decode(Document.self, bytes, object: path)
        } catch {
            throw SystemError(errno: 22, operation: "understand what was remembered of the vault (\(error))", path: path)
        }
    }

    func newest(_ chain: String) -> (number: UInt64, hash: Hash256)? {
        document.withLock { document in document.chains[chain].map { ($0.number, $0.hash) } }
    }

    /// Checks what the target shows as newest against what was seen before, then remembers it.
    func accept(_ chain: String, number: UInt64, hash: Hash256, previous: Hash256?) throws(VaultError) {
        try document.withLock { document throws(VaultError) in
            if let seen = document.chains[chain] {
                guard number >= seen.number else {
                    throw VaultError.rolledBack("\(chain) ends at \(number), but this host has seen number \(seen.number): the target was rolled back or lost objects")
                }
                let fits = number == seen.number ? hash == seen.hash : number > seen.number + 1 || previous == seen.hash
                guard fits else {
                    throw VaultError.rolledBack("\(chain) number \(number) is not what this host has seen: the chain was forked")
                }
                if number == seen.number { return }
            }
            document.chains[chain] = Seen(number: number, hash: hash)
            try save(document)
        }
    }

    /// Another vault lies at the same place now, or a forgotten disk's chain is gone.
    package func forget(_ chain: String) throws(VaultError) {
        try document.withLock { document throws(VaultError) in
            guard document.chains.removeValue(forKey: chain) != nil else { return }
            try save(document)
        }
    }

    private func save(_ document: Document) throws(VaultError) {
        guard let path else { return }
        let bytes = try CanonicalJSON.encode(document)
        do {
            try DurableFile.replace(path, with: bytes)
        } catch {
            throw .refused("cannot remember what was seen of the vault: \(error)")
        }
    }
}
