// Chunks: up to 1 MiB of disk content, named by its keyed hash (docs/formats/vault.md section 5). The same content is
// stored once; who wants to know whether it is there keeps a local index and verifies a found chunk at its first use.

import ObjectStore

extension Vault {
    /// The name this content has when it is uploaded in `epoch`.
    package func chunkRef(of plaintext: UnsafeRawBufferPointer, epoch: UInt32) -> ChunkRef {
        ChunkRef(id: keys.contentID(plaintext), epoch: epoch)
    }

    /// Stores a chunk and verifies it. A chunk that is there already is opened and compared instead. Returns the stored bytes.
    @discardableResult
    package func putChunk(_ plaintext: UnsafeRawBufferPointer, as ref: ChunkRef) throws(VaultError) -> Int {
        guard plaintext.count > 0, plaintext.count <= FormatLimits.chunkBytes else { throw .refused("a chunk has 1 byte to 1 MiB, not \(plaintext.count)") }
        let place = ObjectPlace.chunk(ref)
        let bytes = try seal(plaintext, place: place)
        let stored = try putVerified(place, bytes) { stored throws(VaultError) in
            try withKeys { keys throws(VaultError) in try SealedObject.open(stored, place: place, keys: keys) }.elementsEqual(plaintext)
        }
        return stored.count
    }

    /// Whether the chunk is there and sound. For chunks whose PUT was never answered: one that is damaged is sent again.
    /// Asks for the name alone: what was verified when it was put, and is there, is taken for what it was.
    package func hasChunk(_ ref: ChunkRef) throws(VaultError) -> Bool {
        try fromStore(nil) { () throws(StoreError) in try store.head(ObjectPlace.chunk(ref).key) } != nil
    }

    package func holdsChunk(_ ref: ChunkRef) throws(VaultError) -> Bool {
        do {
            _ = try readChunk(ref)
            return true
        } catch .missing, .damaged {
            return false
        }
    }

    /// The whole chunk, its id verified.
    package func readChunk(_ ref: ChunkRef) throws(VaultError) -> [UInt8] {
        let place = ObjectPlace.chunk(ref)
        let plaintext = try read(place)
        guard plaintext.withUnsafeBytes({ keys.contentID($0) }) == ref.id else { throw .damaged(object: place.key, reason: "its content does not have its id") }
        return plaintext
    }
}
