// One list page over a directory tree, in the order of the keys' UTF-8 bytes: a folder sorts as its name with `/`, so
// walking depth first gives that order, and folders that cannot hold a wanted key are never opened.

import BlockIO
import CLinux
import Glibc

struct DirectoryWalk {
    private let prefix: [UInt8]
    private let startAfter: [UInt8]
    private let limit: Int
    private var objects: [ListedObject] = []
    private var isFull = false

    init(prefix: String, startAfter: String?, limit: Int) {
        self.prefix = Array(prefix.utf8)
        self.startAfter = Array((startAfter ?? "").utf8)
        self.limit = limit
    }

    var page: ListPage { ListPage(objects: objects, isTruncated: isFull) }

    /// `path` is the key of the folder with its `/`, empty for the root.
    mutating func visit(_ folder: borrowing Descriptor, path: String) throws(SystemError) {
        for name in try names(in: folder) {
            let key = path + name
            if name.utf8.last == UInt8(ascii: "/") {
                guard mayHold(Array(key.utf8)) else { continue }
                guard let inner = try openFolder(String(name.dropLast()), in: folder) else { continue }
                try visit(inner, path: key)
            } else if isWanted(key), let size = try sizeBytes(of: name, in: folder) {
                guard objects.count < limit else {
                    isFull = true
                    return
                }
                objects.append(ListedObject(key: key, sizeBytes: size))
            }
            if isFull { return }
        }
    }

    private func isWanted(_ key: String) -> Bool {
        key.utf8.starts(with: prefix) && startAfter.lexicographicallyPrecedes(key.utf8)
    }

    private func mayHold(_ folder: [UInt8]) -> Bool {
        guard folder.starts(with: prefix) || prefix.starts(with: folder) else { return false }
        return startAfter.starts(with: folder) || startAfter.lexicographicallyPrecedes(folder)
    }

    private func names(in folder: borrowing Descriptor) throws(SystemError) -> [String] {
        // The stream owns what it reads from and moves its offset, so it gets a descriptor of its own.
        let raw = farshore_openat(folder.raw, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
        guard raw >= 0, let stream = fdopendir(raw) else {
            let failure = SystemError(errno: errno, operation: "list", path: folder.path)
            if raw >= 0 { _ = close(raw) }
            throw failure
        }
        defer { closedir(stream) }
        var names: [String] = []
        errno = 0
        while let entry = readdir(stream) {
            if let name = try self.name(of: entry, in: folder) { names.append(name) }
            errno = 0
        }
        guard errno == 0 else { throw SystemError(errno: errno, operation: "list", path: folder.path) }
        return names.sorted(by: ObjectKey.isBefore)
    }

    /// The entry as the last part of a key; nil for what is no object and no folder of objects.
    private func name(of entry: UnsafeMutablePointer<dirent>, in folder: borrowing Descriptor) throws(SystemError) -> String? {
        let bytes = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { Array(UnsafeBufferPointer(start: $0, count: strlen($0))) }
        }
        guard let name = String(validating: bytes, as: UTF8.self), name != ".", name != "..", !name.hasPrefix(ObjectKey.unfinishedPrefix) else { return nil }
        var kind = Int32(entry.pointee.d_type)
        if kind == DT_UNKNOWN_TYPE {
            var info = stat()
            guard fstatat(folder.raw, name, &info, AT_SYMLINK_NOFOLLOW) == 0 else { return nil }
            kind = Int32((info.st_mode & S_IFMT) >> 12)
        }
        switch kind {
        case DT_REGULAR: return name
        case DT_FOLDER: return name + "/"
        default: return nil
        }
    }

    private func sizeBytes(of name: String, in folder: borrowing Descriptor) throws(SystemError) -> UInt64? {
        var info = stat()
        if fstatat(folder.raw, name, &info, AT_SYMLINK_NOFOLLOW) == 0 { return UInt64(info.st_size) }
        if errno == ENOENT { return nil }
        throw SystemError(errno: errno, operation: "stat", path: folder.path + "/" + name)
    }

    /// Nil when the folder was removed meanwhile.
    private func openFolder(_ name: String, in folder: borrowing Descriptor) throws(SystemError) -> Descriptor? {
        let raw = farshore_openat(folder.raw, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
        if raw < 0, errno == ENOENT { return nil }
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "open", path: folder.path + "/" + name) }
        return Descriptor(owning: raw, path: folder.path + "/" + name)
    }
}

// d_type's values are the file type bits of st_mode, shifted; the C names are of an enum that Swift does not import.
private let DT_UNKNOWN_TYPE: Int32 = 0
private let DT_FOLDER: Int32 = 4
private let DT_REGULAR: Int32 = 8
