// Keys that every target can hold alike: as a path below a directory, as an S3 key and as a blob's name. `/` parts the folders; a key
// must not be a folder of another key, which a directory cannot hold.

package enum ObjectKey {
    /// Names of files that a directory target is still writing start so; no key may.
    static let unfinishedPrefix = ".farshore-put."

    /// Refuses what would leave the target's folder, collide with unfinished files, or not survive XML.
    package static func check(_ key: String) throws(StoreError) {
        let bytes = key.utf8.count
        guard bytes > 0, bytes <= ObjectLimits.keyBytesMax else {
            throw refusal(key, "it has \(bytes) bytes, allowed are 1 to \(ObjectLimits.keyBytesMax)")
        }
        try checkCharacters(key)
        for part in key.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            guard !part.isEmpty else { throw refusal(key, "it has an empty part") }
            guard !part.elementsEqual(".".utf8), !part.elementsEqual("..".utf8) else { throw refusal(key, "it has a part . or ..") }
            guard part.count <= ObjectLimits.keyPartBytesMax else {
                throw refusal(key, "a part has \(part.count) bytes, allowed are \(ObjectLimits.keyPartBytesMax)")
            }
            guard !part.starts(with: unfinishedPrefix.utf8) else { throw refusal(key, "a part starts with \(unfinishedPrefix)") }
        }
    }

    /// A prefix is any start of a key, so its last part may be empty or incomplete.
    static func checkPrefix(_ prefix: String) throws(StoreError) {
        guard prefix.utf8.count <= ObjectLimits.keyBytesMax, prefix.utf8.first != UInt8(ascii: "/") else {
            throw refusal(prefix, "it is no start of a key")
        }
        try checkCharacters(prefix)
        for part in prefix.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).dropLast()
        where part.elementsEqual("..".utf8) || part.elementsEqual(".".utf8) {
            throw refusal(prefix, "it has a part . or ..")
        }
    }

    private static func checkCharacters(_ key: String) throws(StoreError) {
        guard !key.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else { throw refusal(key, "it has a control character") }
    }

    /// The order of targets: by bytes. Swift's own `<` on strings orders by canonical Unicode equivalence.
    package static func isBefore(_ left: String, _ right: String) -> Bool {
        left.utf8.lexicographicallyPrecedes(right.utf8)
    }

    private static func refusal(_ key: String, _ reason: String) -> StoreError {
        StoreError(.badLocation, "the object key \(key.debugDescription) is refused: \(reason)", try: "use another name")
    }
}

extension ObjectStore {
    /// The one size rule of all targets.
    func checkSize(of key: String, _ count: Int, ifAbsent: Bool) throws(StoreError) {
        let limit = ifAbsent ? ObjectLimits.conditionalBytesMax : ObjectLimits.objectBytesMax
        guard count <= limit else {
            throw StoreError(.unsupported, "\(location): \(key) has \(count) bytes, the limit is \(limit)", try: "report this: no object of a vault is so large")
        }
    }
}
