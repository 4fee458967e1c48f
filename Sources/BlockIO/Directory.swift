// Directories: made, listed and made durable. A file's name survives a power loss only after its directory was synced.

import CLinux
import Glibc

package enum Directory {
    /// Makes `path` and its missing parents.
    package static func create(_ path: String, mode: UInt32 = 0o755) throws(SystemError) {
        if mkdir(path, mode) == 0 || errno == EEXIST { return }
        guard errno == ENOENT, let parent = parent(of: path), parent != path else {
            throw SystemError(errno: errno, operation: "make the directory", path: path)
        }
        try create(parent, mode: mode)
        guard mkdir(path, mode) == 0 || errno == EEXIST else {
            throw SystemError(errno: errno, operation: "make the directory", path: path)
        }
    }

    /// Names in `path` without `.` and `..`, sorted.
    package static func list(_ path: String) throws(SystemError) -> [String] {
        guard let stream = opendir(path) else { throw SystemError(errno: errno, operation: "list", path: path) }
        defer { closedir(stream) }
        var names: [String] = []
        errno = 0
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
            errno = 0
        }
        guard errno == 0 else { throw SystemError(errno: errno, operation: "list", path: path) }
        return names.sorted()
    }

    /// Names created, renamed or removed in `path` are on stable storage when this returns.
    package static func sync(_ path: String) throws(SystemError) {
        let directory = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
        try directory.sync()
    }

    package static func parent(of path: String) -> String? {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
