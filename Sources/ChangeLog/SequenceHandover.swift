// The block of sequence numbers a worker leaves for its successor, so that this one need not wait for a durable
// reservation while guests wait for it. The block itself is reserved durably already; the note of it is not synced: it
// counts only in the boot it was written in, where a kill loses no file. Used by the Sequencer of the site's one mount.

import BlockIO
import Glibc

struct SequenceHandover: Sendable {
    let path: String
    let bootID: String

    /// The block the predecessor left unused, which is the caller's from here on; nil when there is none of this boot.
    /// `reserved` is the highest number that is durably reserved.
    func take(reserved: UInt64) throws(SystemError) -> (after: UInt64, end: UInt64)? {
        guard let bytes = try DurableFile.read(path, limitBytes: 4096) else { return nil }
        try withdraw()
        var lines = StateLines(String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)[...])
        guard lines.value("farshore sequence block") == "1", lines.value("boot") == bootID, let after = lines.number("after"),
            let end = lines.number("end"), lines.isAtEnd, after < end, end <= reserved
        else { return nil }
        return (after, end)
    }

    func leave(_ block: (after: UInt64, end: UInt64)) throws(SystemError) {
        let temporary = path + ".new"
        let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC)
        try file.write(Array("farshore sequence block 1\nboot \(bootID)\nafter \(block.after)\nend \(block.end)\n".utf8), at: 0)
        try file.close()
        guard rename(temporary, path) == 0 else { throw SystemError(errno: errno, operation: "rename into place", path: path) }
    }

    /// Before the block is used: no successor may use it too.
    func withdraw() throws(SystemError) {
        guard unlink(path) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: path) }
    }
}
