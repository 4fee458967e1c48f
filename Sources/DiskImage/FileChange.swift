// The file behind an image, with every change to it announced first when someone listens: the crash tests
// record the changes and replay each prefix and reordering of them.

package import BlockIO

package enum FileChange: Sendable {
    case write(at: UInt64, [UInt8])
    case zero(at: UInt64, length: UInt64)
    case truncate(to: UInt64)
    case sync
}

package typealias FileChangeListener = @Sendable (FileChange) -> Void

package struct ChangedFile: ~Copyable, Sendable {
    package let descriptor: Descriptor
    private let listener: FileChangeListener?
    private let durability = FailStopSync()

    package init(_ descriptor: consuming Descriptor, listener: FileChangeListener?) {
        self.descriptor = descriptor
        self.listener = listener
    }

    func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(SystemError) {
        try durability.check()
        if let listener { listener(.write(at: offset, Array(buffer))) }
        try descriptor.write(buffer, at: offset)
    }

    package func write(_ bytes: [UInt8], at offset: UInt64) throws(SystemError) {
        try durability.check()
        if let listener { listener(.write(at: offset, bytes)) }
        try descriptor.write(bytes, at: offset)
    }

    func zero(at offset: UInt64, length: UInt64) throws(SystemError) {
        try durability.check()
        if let listener { listener(.zero(at: offset, length: length)) }
        try descriptor.makeZero(at: offset, length: length)
    }

    func truncate(to bytes: UInt64) throws(SystemError) {
        try durability.check()
        if let listener { listener(.truncate(to: bytes)) }
        try descriptor.truncate(to: bytes)
    }

    // MARK: Taking back

    /// What a failed change leaves, when `undo` took it back or could not.
    func undone(_ error: SystemError, _ undo: () throws(SystemError) -> Void) -> SystemError {
        do throws(SystemError) { try undo() } catch let second {
            return SystemError(errno: error.errno, operation: "\(error.operation), nor take that back (\(second))", path: error.path)
        }
        return error
    }

    /// Also after a failed sync: nobody uses what is cut off.
    func cutBack(to bytes: UInt64) throws(SystemError) {
        if let listener { listener(.truncate(to: bytes)) }
        try descriptor.truncate(to: bytes)
    }

    /// Also after a failed sync: what lies there need not be durable.
    func putBack(_ bytes: [UInt8], at offset: UInt64) throws(SystemError) {
        if let listener { listener(.write(at: offset, bytes)) }
        try descriptor.write(bytes, at: offset)
    }

    /// Writes what is there over itself, zeros excepted: a page that an earlier, failed sync left clean in the page cache gets
    /// to the disk with the next sync.
    func rewrite(at offset: UInt64, length: UInt64) throws(SystemError) {
        var done: UInt64 = 0
        while done < length {
            let bytes = try descriptor.read(count: Int(min(length - done, 4096)), at: offset + done)
            if bytes.contains(where: { $0 != 0 }) { try write(bytes, at: offset + done) }
            done += UInt64(bytes.count)
        }
    }

    package func sync() throws(SystemError) {
        try durability.sync { () throws(SystemError) in
            if let listener { listener(.sync) }
            try descriptor.syncData()
        }
    }
}
