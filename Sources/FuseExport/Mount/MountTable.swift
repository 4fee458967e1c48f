// What the kernel's mount table says of our mounts: /proc/self/mountinfo, read anew at each question. The source of
// each mount names the process that holds it (`farshore:PID`), so `unmount` needs no state of its own.

package import BlockIO
import Glibc

package struct MountedExport: Equatable, Sendable {
    package static let fileSystemType = "fuse.farshore"

    package let directory: String
    /// The process that holds the mount: the supervisor, or the one that serves recovery points.
    package let pid: Int32

    static func source(pid: Int32) -> String { "farshore:\(pid)" }

    /// The topmost of our mounts at `directory` (an absolute path without links), or nil.
    package static func at(_ directory: String) throws(SystemError) -> MountedExport? {
        try all().last { $0.directory == directory }
    }

    package static func all() throws(SystemError) -> [MountedExport] {
        let table = String(decoding: try readAll("/proc/self/mountinfo"), as: UTF8.self)
        return table.split(separator: "\n").compactMap(parse)
    }

    /// `36 35 98:0 /root /directory options - type source superoptions`
    static func parse(_ line: Substring) -> MountedExport? {
        let words = line.split(separator: " ")
        guard words.count > 4, let dash = words.firstIndex(of: "-"), dash + 2 < words.count, words[dash + 1] == fileSystemType else { return nil }
        let source = words[dash + 2]
        guard source.hasPrefix("farshore:"), let pid = Int32(source.dropFirst("farshore:".count)) else { return nil }
        return MountedExport(directory: unescape(words[4]), pid: pid)
    }

    /// Spaces and the like are written as `\040`.
    private static func unescape(_ word: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(word.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            guard byte == 0x5c, digits.count == 3, let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8) else {
                bytes.append(byte)
                continue
            }
            bytes.append(value)
            rest = rest.dropFirst(3)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Files of /proc have no size.
    package static func readAll(_ path: String) throws(SystemError) -> [UInt8] {
        let file = try Descriptor.open(path, O_RDONLY)
        var bytes: [UInt8] = []
        let buffer = AlignedBuffer(count: 64 << 10)
        while true {
            let count = Glibc.read(file.raw, buffer.bytes.baseAddress, buffer.bytes.count)
            if count == 0 { return bytes }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw SystemError(errno: errno, operation: "read", path: path)
            }
            bytes.append(contentsOf: buffer.bytes[..<count])
        }
    }
}
