// The small text files of a log's folder and of a site. Input: the texts of `log.state`, a target's mark, the freeze and the sequences, each
// ended by a zero byte. The state's last line is made to fit, as somebody would who edits it.

import BlockIO
import ChangeLog
import Glibc
import VirtualDisk

struct LogFilesInput {
    static func run(_ input: [UInt8]) throws {
        let texts = input.split(separator: 0, maxSplits: 3, omittingEmptySubsequences: false).map(Array.init)
        let place = try LogPlace()
        defer { place.remove() }
        let paths = [place.folder.stateFile, place.folder.markFile(target: "target"), place.folder.freezeFile, place.sequences]
        for (path, text) in zip(paths, texts) where !text.isEmpty {
            try DurableFile.replace(path, with: path == place.folder.stateFile ? withSum(text) : text)
        }
        do {
            let disk = try place.open(boot: LogPlace.boot)
            var bytes = [UInt8](repeating: 0xA5, count: 4096)
            try bytes.withUnsafeMutableBytes { try disk.read(into: $0, at: 0) }
            disk.abandon()
        } catch {
            require(!"\(error)".isEmpty, "a refusal says why")
        }
        _ = try? LogReader(place.folder).points()
    }

    private static func withSum(_ text: [UInt8]) -> [UInt8] { text + Array("crc32c \(String(crc32c(text), radix: 16))\n".utf8) }

    static func seeds() throws -> [[UInt8]] {
        let place = try LogPlace()
        defer { place.remove() }
        guard let state = try DurableFile.read(place.folder.stateFile) else { return [] }
        let lines = String(decoding: state, as: UTF8.self).split(separator: "\n").dropLast().map { $0 + "\n" }.joined()
        try place.folder.storeMark(ReplicatedMark(sequence: 5, lineage: try place.folder.readState().lineage), target: "target")
        let mark = String(decoding: try DurableFile.read(place.folder.markFile(target: "target")) ?? [], as: UTF8.self)
        let grown = lines.replacing("segment-bytes", with: "grown 1 65536\ngrowing 262144\nsegment-bytes")
        let stopped = lines + "parents 9\nclean-stop 1 131072 7\n"
        return [lines, grown, stopped].map { Array("\($0)\0\(mark)\0farshore freeze 1\nsequence 3\n\0".utf8) }
    }
}
