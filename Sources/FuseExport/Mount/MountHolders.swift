// Who keeps a mount busy: processes with open files, mappings or a working directory below it, and loop devices. Only
// names are compared (readlink), so asking never sends a request to the mount itself. The asking process is left out.

import BlockIO
import Glibc

package enum MountHolders {
    static let namedMax = 10

    /// `qemu-system-x86 (pid 812)`, `/dev/loop3`: at most `namedMax` of them.
    package static func of(_ directory: String) -> [String] {
        var holders = loopDevices(below: directory)
        for entry in (try? Directory.list("/proc")) ?? [] where holders.count < namedMax {
            guard let pid = pid_t(entry), pid != getpid() else { continue }
            guard uses(entry, directory) else { continue }
            let name = (try? MountedExport.readAll("/proc/\(entry)/comm")).map { String(decoding: $0.dropLast(), as: UTF8.self) }
            holders.append("\(name ?? "process") (pid \(entry))")
        }
        return holders
    }

    private static func uses(_ process: String, _ directory: String) -> Bool {
        let folder = "/proc/\(process)"
        if isBelow(link("\(folder)/cwd"), directory) || isBelow(link("\(folder)/root"), directory) { return true }
        let descriptors = (try? Directory.list("\(folder)/fd")) ?? []
        if descriptors.contains(where: { isBelow(link("\(folder)/fd/\($0)"), directory) }) { return true }
        let mappings = (try? MountedExport.readAll("\(folder)/maps")) ?? []
        return String(decoding: mappings, as: UTF8.self).contains(" \(directory)/")
    }

    private static func loopDevices(below directory: String) -> [String] {
        ((try? Directory.list("/sys/block")) ?? []).filter { $0.hasPrefix("loop") }.compactMap { device in
            guard let path = try? MountedExport.readAll("/sys/block/\(device)/loop/backing_file") else { return nil }
            return isBelow(String(decoding: path.dropLast(), as: UTF8.self), directory) ? "/dev/\(device)" : nil
        }
    }

    private static func isBelow(_ path: String?, _ directory: String) -> Bool {
        guard let path else { return false }
        return path == directory || path.hasPrefix(directory + "/")
    }

    private static func link(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = buffer.withUnsafeMutableBytes { readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
        return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
    }
}
