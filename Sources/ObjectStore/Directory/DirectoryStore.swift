// A target in a directory (local disk, NFS, USB disk): one file an object, its path below the root is the key.
//
// Invariants:
// - A file under its key is always whole: it is written beside its place under an unfinished name, synced, then linked
//   (absent) or renamed (replace) there, and the folder is synced before `put` returns.
// - No path is followed through a symbolic link below the root; each part is opened relative to the one before.
// - The root must stay the directory that was opened: when its filesystem was unmounted meanwhile, nothing is written
//   to what lies beneath. Its descriptor is not kept, since that would hold the filesystem mounted.

import BlockIO
import CLinux
import Glibc
import Synchronization

package final class DirectoryStore: ObjectStore {
    let root: String
    private let rootDevice: UInt64
    private let rootInode: UInt64
    private let unfinishedCount = Atomic<UInt64>(0)
    /// Folders whose names are known to be durable.
    private let durableFolders = Mutex<Set<String>>([])

    package init(root: String, create: Bool) throws(StoreError) {
        self.root = root
        do throws(SystemError) {
            if create { try Directory.create(root, mode: 0o700) }
            let status = try Descriptor.open(root, O_RDONLY | O_DIRECTORY).status()
            (rootDevice, rootInode) = (status.device, status.inode)
        } catch {
            throw directoryError(error, root: root)
        }
    }

    package var location: String { "file://" + percentEncodedPath(root) }

    /// Link and rename without replacement are atomic; there is no checksum but by reading back.
    package var features: StoreFeatures { StoreFeatures(conditionalPut: true, checksumTrusted: false) }

    package func probe(existing key: String, _ bytes: [UInt8]) throws(StoreError) {}

    package func put(_ key: String, _ bytes: [UInt8], ifAbsent: Bool, md5: [UInt8]?) throws(StoreError) {
        let path = try KeyPath(key)
        try checkSize(of: key, bytes.count, ifAbsent: ifAbsent)
        do throws(SystemError) {
            // A folder emptied by `delete` at the same time may be gone again when the file is made in it.
            var attempt = 0
            while true {
                do throws(SystemError) {
                    return try place(bytes, at: path, ifAbsent: ifAbsent)
                } catch {
                    attempt += 1
                    guard error.errno == ENOENT, attempt < 8 else { throw error }
                }
            }
        } catch {
            if error.errno == EEXIST {
                throw StoreError(.alreadyExists, "\(location): \(key) exists already", try: "look who else writes to this vault")
            }
            throw directoryError(error, root: root)
        }
    }

    private func place(_ bytes: [UInt8], at path: KeyPath, ifAbsent: Bool) throws(SystemError) {
        let folder = try openFolder(path.folders, create: true)
        let serial = unfinishedCount.add(1, ordering: .relaxed).newValue
        let unfinished = "\(ObjectKey.unfinishedPrefix)\(getpid()).\(serial)"
        let file = try open(unfinished, in: folder, O_WRONLY | O_CREAT | O_EXCL)
        do throws(SystemError) {
            try file.write(bytes, at: 0)
            try file.sync()
            if ifAbsent {
                try publishAbsent(file, unfinished, as: path.name, in: folder)
            } else if renameat(folder.raw, unfinished, folder.raw, path.name) != 0 {
                throw SystemError(errno: Glibc.errno, operation: "rename \(unfinished) to it", path: folder.path + "/" + path.name)
            }
            try file.close()
            try folder.sync()
        } catch {
            _ = unlinkat(folder.raw, unfinished, 0)
            throw error
        }
    }

    private func publishAbsent(_ file: borrowing Descriptor, _ unfinished: String, as name: String, in folder: borrowing Descriptor) throws(SystemError) {
        if linkat(folder.raw, unfinished, folder.raw, name, 0) != 0 {
            let failure = Glibc.errno
            if failure == EEXIST {
                // NFS may have made the link and lost its answer: then the file has two names.
                guard try linkCount(file) == 2 else {
                    throw SystemError(errno: EEXIST, operation: "make it", path: folder.path + "/" + name)
                }
            } else {
                // vfat and exFAT have no links.
                guard failure == EPERM || failure == EOPNOTSUPP || failure == ENOSYS else {
                    throw SystemError(errno: failure, operation: "link it", path: folder.path + "/" + name)
                }
                guard farshore_rename_noreplace(folder.raw, unfinished, folder.raw, name) == 0 else {
                    throw SystemError(errno: Glibc.errno, operation: "rename \(unfinished) to it", path: folder.path + "/" + name)
                }
                return
            }
        }
        guard unlinkat(folder.raw, unfinished, 0) == 0 else {
            throw SystemError(errno: Glibc.errno, operation: "remove", path: folder.path + "/" + unfinished)
        }
    }

    package func get(_ key: String, range: Range<UInt64>?) throws(StoreError) -> [UInt8] {
        let path = try KeyPath(key)
        if let range, range.isEmpty { return [] }
        do throws(SystemError) {
            let file = try openObject(path)
            let size = try file.status().sizeBytes
            let wanted = range ?? 0..<size
            guard wanted.count <= ObjectLimits.objectBytesMax else {
                throw SystemError(errno: EFBIG, operation: "read \(wanted.count) bytes at once, the limit is \(ObjectLimits.objectBytesMax)", path: file.path)
            }
            guard wanted.upperBound <= size else {
                throw SystemError(errno: ENODATA, operation: "read the bytes \(wanted): it has only \(size)", path: file.path)
            }
            return try file.read(count: wanted.count, at: wanted.lowerBound)
        } catch {
            throw objectError(error, key)
        }
    }

    package func get(_ key: String, first count: Int) throws(StoreError) -> [UInt8] {
        let path = try KeyPath(key)
        do throws(SystemError) {
            let file = try openObject(path)
            return try file.read(count: Int(min(UInt64(count), file.status().sizeBytes)), at: 0)
        } catch {
            throw objectError(error, key)
        }
    }

    package func head(_ key: String) throws(StoreError) -> ObjectInfo? {
        let path = try KeyPath(key)
        do throws(SystemError) {
            return ObjectInfo(sizeBytes: try openObject(path).status().sizeBytes, md5: nil)
        } catch {
            let failure = objectError(error, key)
            if failure.code == .notFound { return nil }
            throw failure
        }
    }

    package func list(prefix: String, startAfter: String?) throws(StoreError) -> ListPage {
        try ObjectKey.checkPrefix(prefix)
        do throws(SystemError) {
            var walk = DirectoryWalk(prefix: prefix, startAfter: startAfter, limit: ObjectLimits.listPageKeys)
            try walk.visit(try openRoot(), path: "")
            return walk.page
        } catch {
            throw directoryError(error, root: root)
        }
    }

    package func delete(_ keys: [String]) throws(StoreError) {
        var paths: [KeyPath] = []
        for key in keys { paths.append(try KeyPath(key)) }
        do throws(SystemError) {
            for path in paths { try remove(path) }
        } catch {
            throw directoryError(error, root: root)
        }
    }

    private func remove(_ path: KeyPath) throws(SystemError) {
        do throws(SystemError) {
            let folder = try openFolder(path.folders, create: false)
            guard unlinkat(folder.raw, path.name, 0) == 0 else {
                throw SystemError(errno: Glibc.errno, operation: "remove", path: folder.path + "/" + path.name)
            }
            try folder.sync()
        } catch {
            guard error.errno == ENOENT || error.errno == ENOTDIR || error.errno == EISDIR else { throw error }
            try checkRootIsThere()
            return
        }
        try removeEmptyFolders(path.folders)
    }

    /// From the innermost outwards; the first that still holds something ends it.
    private func removeEmptyFolders(_ folders: [String]) throws(SystemError) {
        var remaining = folders
        while let name = remaining.popLast() {
            let parent = try openFolder(remaining, create: false)
            guard unlinkat(parent.raw, name, AT_REMOVEDIR) == 0 else { return }
            let key = (remaining + [name]).joined(separator: "/")
            durableFolders.withLock { _ = $0.remove(key) }
        }
    }

    // MARK: - Opening below the root

    func openRoot() throws(SystemError) -> Descriptor {
        let folder = try Descriptor.open(root, O_RDONLY | O_DIRECTORY)
        let status = try folder.status()
        guard status.device == rootDevice, status.inode == rootInode else {
            throw SystemError(errno: ENODEV, operation: "use it: it is not the directory that was opened", path: root)
        }
        return folder
    }

    private func checkRootIsThere() throws(SystemError) { _ = try openRoot() }

    private func openFolder(_ folders: [String], create: Bool) throws(SystemError) -> Descriptor {
        var folder = try openRoot()
        var key = ""
        for name in folders {
            key += key.isEmpty ? name : "/" + name
            if create {
                let isMade = mkdirat(folder.raw, name, 0o700) == 0
                guard isMade || Glibc.errno == EEXIST else {
                    throw SystemError(errno: Glibc.errno, operation: "make the folder \(name)", path: folder.path)
                }
                // Whoever made one that is there may have been killed, or failed, before its name was durable.
                if isMade || !durableFolders.withLock({ $0.contains(key) }) {
                    try folder.sync()
                    durableFolders.withLock { _ = $0.insert(key) }
                }
            }
            folder = try open(name, in: folder, O_RDONLY | O_DIRECTORY)
        }
        return folder
    }

    private func openObject(_ path: KeyPath) throws(SystemError) -> Descriptor {
        let folder = try openFolder(path.folders, create: false)
        // Without O_NONBLOCK a FIFO put there would block the open.
        let file = try open(path.name, in: folder, O_RDONLY | O_NONBLOCK)
        guard try file.status().kind == .regular else { throw SystemError(errno: ENOENT, operation: "read what is no file", path: file.path) }
        return file
    }

    private func open(_ name: String, in folder: borrowing Descriptor, _ flags: Int32) throws(SystemError) -> Descriptor {
        let raw = farshore_openat(folder.raw, name, flags | O_NOFOLLOW | O_CLOEXEC, 0o600)
        let path = folder.path + "/" + name
        guard raw >= 0 else { throw SystemError(errno: Glibc.errno, operation: "open", path: path) }
        return Descriptor(owning: raw, path: path)
    }

    private func linkCount(_ file: borrowing Descriptor) throws(SystemError) -> UInt64 {
        var info = stat()
        guard fstat(file.raw, &info) == 0 else { throw SystemError(errno: Glibc.errno, operation: "stat", path: file.path) }
        return UInt64(info.st_nlink)
    }

    // MARK: - Errors

    /// An object that is not there, told from a root that is not.
    private func objectError(_ error: SystemError, _ key: String) -> StoreError {
        switch error.errno {
        case ENOENT, ENOTDIR:
            do throws(SystemError) { try checkRootIsThere() } catch { return directoryError(error, root: root) }
            return StoreError(.notFound, "\(location): no object \(key)", try: "run `farshore vault check` to see what depends on it")
        case ENODATA:
            return StoreError(.outOfRange, error.description, try: "run `farshore vault check` to see what depends on it")
        default:
            return directoryError(error, root: root)
        }
    }
}

/// A checked key as folders and a name.
struct KeyPath {
    let folders: [String]
    let name: String

    init(_ key: String) throws(StoreError) {
        try ObjectKey.check(key)
        var parts = key.utf8.split(separator: UInt8(ascii: "/")).map { String(decoding: $0, as: UTF8.self) }
        name = parts.removeLast()
        folders = parts
    }
}
