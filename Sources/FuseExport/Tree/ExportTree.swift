// The tree a mount shows: directories, symbolic links, and the two files of each disk. Built by the command that
// mounts, and extended by it while mounted (a new recovery point appears, `latest` moves on).
//
// Node ids are a hash of the path, so a worker that takes over finds every file the kernel still knows, and no count
// of lookups has to be kept.

import BlockIO
import Glibc
import Synchronization

package enum ExportTreeError: Error, Equatable, CustomStringConvertible {
    case invalidName(String)
    case nameTaken(String)
    case noSuchDirectory
    /// Two paths hash to one node id: rename one of them.
    case identifierCollision(String)

    package var description: String {
        switch self {
        case .invalidName(let name): "\"\(name)\" cannot be a file name"
        case .nameTaken(let name): "\"\(name)\" is there already"
        case .noSuchDirectory: "the directory is not in the tree"
        case .identifierCollision(let path): "\"\(path)\" has the same identifier as another file; rename the disk"
        }
    }
}

/// Who may use a file: the owner and permission bits it shows.
package struct FilePermissions: Equatable, Sendable {
    package var uid: UInt32
    package var gid: UInt32
    package var bits: UInt32

    package init(uid: UInt32, gid: UInt32, bits: UInt32) {
        self.uid = uid
        self.gid = gid
        self.bits = bits
    }

    /// Read and write for this process's user alone.
    package static func ownerOnly() -> FilePermissions { FilePermissions(uid: getuid(), gid: getgid(), bits: 0o600) }
}

package final class ExportTree: Sendable {
    package struct Directory: Equatable, Sendable { let id: UInt64 }
    package struct RemovedFiles: Sendable {
        fileprivate(set) var ids: Set<UInt64> = []
        fileprivate(set) var files: [ServedFile] = []

        /// Lets go of their disks, whose descriptors would keep the space of deleted files taken until the mount ends. To be
        /// called when no request on them is being executed.
        package func giveUpDisks() {
            for file in files { file.disk.giveUp() }
        }
    }

    package static let root = Directory(id: 1)
    static let nameBytesMax = 255

    struct Node: Sendable {
        enum Kind: Sendable {
            case directory
            case symlink(target: String)
            case file(ServedFile)
        }
        let id: UInt64
        let parent: UInt64
        let name: String
        let path: String
        var kind: Kind
        var permissions: FilePermissions
    }

    struct Child: Sendable {
        let position: UInt64
        let id: UInt64
    }

    private struct State {
        var nodes: [UInt64: Node] = [:]
        /// Children in the order of their arrival, each with a position that stays its own, so that a listing in
        /// progress never skips or repeats one. Positions 1 and 2 are `.` and `..`.
        var children: [UInt64: [Child]] = [:]
        var lastPosition: UInt64 = 2
    }

    let files = FileTable()
    let createdNanoseconds: UInt64
    private let permissions: FilePermissions
    private let state: Mutex<State>

    package init(permissions: FilePermissions = .ownerOnly(), createdNanoseconds: UInt64 = Clock.wallNanoseconds()) {
        self.permissions = permissions
        self.createdNanoseconds = createdNanoseconds
        var first = State()
        let root = ExportTree.root.id
        first.nodes[root] = Node(id: root, parent: root, name: "", path: "", kind: .directory, permissions: ExportTree.passable(permissions))
        first.children[root] = []
        state = Mutex(first)
    }

    package func addDirectory(_ name: String, in parent: Directory = ExportTree.root) throws(ExportTreeError) -> Directory {
        try state.withLock { state throws(ExportTreeError) in
            let id = try ExportTree.add(name, in: parent, .directory, ExportTree.passable(permissions), &state)
            state.children[id] = []
            return Directory(id: id)
        }
    }

    /// Makes the link or points it elsewhere.
    package func setSymlink(_ name: String, to target: String, in parent: Directory) throws(ExportTreeError) {
        try state.withLock { state throws(ExportTreeError) in
            if let existing = ExportTree.child(name, of: parent.id, state), case .symlink = existing.kind {
                state.nodes[existing.id]?.kind = .symlink(target: target)
                return
            }
            var open = permissions
            open.bits = 0o777
            _ = try ExportTree.add(name, in: parent, .symlink(target: target), open, &state)
        }
    }

    /// Shows a disk as `disk.raw` and, when a footer is given, as the fixed VHD `disk.vhd` (always read-only).
    package func addDisk(
        _ disk: LazyDisk, in parent: Directory, sizeBytes: UInt64, isWritable: Bool, vhdFooter: [UInt8]?,
        permissions: FilePermissions? = nil
    ) throws(ExportTreeError) {
        var owner = permissions ?? self.permissions
        if !isWritable { owner.bits &= ~0o222 }
        let raw = ServedFile(disk: disk, diskBytes: sizeBytes, tail: [], isWritable: isWritable, createdNanoseconds: createdNanoseconds)
        try addFile("disk.raw", raw, owner, in: parent)
        guard let vhdFooter else { return }
        owner.bits &= ~0o222
        let vhd = ServedFile(disk: disk, diskBytes: sizeBytes, tail: vhdFooter, isWritable: false, createdNanoseconds: createdNanoseconds)
        try addFile("disk.vhd", vhd, owner, in: parent)
    }

    /// The files of a disk show another size from now on, and give the same disk; who has them open keeps them. Without a footer
    /// `disk.vhd` stays as it is.
    package func resizeDisk(in parent: Directory, sizeBytes: UInt64, vhdFooter: [UInt8]?) {
        state.withLock { state in
            for (name, tail) in [("disk.raw", []), ("disk.vhd", vhdFooter)] {
                guard let tail, let node = ExportTree.child(name, of: parent.id, state), case .file(let old) = node.kind else { continue }
                let file = ServedFile(
                    disk: old.disk, diskBytes: sizeBytes, tail: tail, isWritable: old.isWritable, createdNanoseconds: old.modifiedNanoseconds.load(ordering: .relaxed))
                state.nodes[node.id]?.kind = .file(file)
                files.insert(node.id, file)
            }
        }
    }

    private func addFile(_ name: String, _ file: ServedFile, _ permissions: FilePermissions, in parent: Directory) throws(ExportTreeError) {
        try state.withLock { state throws(ExportTreeError) in
            let id = try ExportTree.add(name, in: parent, .file(file), permissions, &state)
            files.insert(id, file)
        }
    }

    /// Takes a directory and all below it out of the tree. Files that are open answer ESTALE from now on; a request
    /// that had begun may still run: see `FuseSession.waitUntilUnused`. After that `giveUpDisks` is due.
    package func remove(_ directory: Directory) -> RemovedFiles {
        state.withLock { state in
            var removed = RemovedFiles()
            var pending = [directory.id]
            if let node = state.nodes[directory.id] { state.children[node.parent]?.removeAll { $0.id == directory.id } }
            while let id = pending.popLast() {
                pending += state.children.removeValue(forKey: id)?.map(\.id) ?? []
                guard let node = state.nodes.removeValue(forKey: id), case .file(let file) = node.kind else { continue }
                file.isGone.store(true, ordering: .sequentiallyConsistent)
                removed.ids.insert(id)
                removed.files.append(file)
            }
            return removed
        }
    }

    private static func add(
        _ name: String, in parent: Directory, _ kind: Node.Kind, _ permissions: FilePermissions, _ state: inout State
    ) throws(ExportTreeError) -> UInt64 {
        guard !name.isEmpty, name != ".", name != "..", name.utf8.count <= nameBytesMax, !name.utf8.contains(where: { $0 == 0x2f || $0 == 0 })
        else { throw .invalidName(name) }
        guard let directory = state.nodes[parent.id], case .directory = directory.kind else { throw .noSuchDirectory }
        let path = directory.path + "/" + name
        let id = identifier(path)
        if let existing = state.nodes[id] {
            throw existing.path == path ? .nameTaken(name) : .identifierCollision(path)
        }
        state.nodes[id] = Node(id: id, parent: parent.id, name: name, path: path, kind: kind, permissions: permissions)
        state.lastPosition += 1
        state.children[parent.id, default: []].append(Child(position: state.lastPosition, id: id))
        return id
    }

    // MARK: What the session asks

    func node(_ id: UInt64) -> Node? { state.withLock { $0.nodes[id] } }

    func child(_ name: String, of parent: UInt64) -> Node? { state.withLock { ExportTree.child(name, of: parent, $0) } }

    var nodeCount: Int { state.withLock { $0.nodes.count } }

    /// The children behind `position`, at most `limit`, each with its own position; nil when `id` is no directory.
    func children(of id: UInt64, after position: UInt64, limit: Int) -> [(position: UInt64, node: Node)]? {
        state.withLock { state in
            guard let children = state.children[id] else { return nil }
            let rest = children.drop { $0.position <= position }.prefix(limit)
            return rest.compactMap { child in state.nodes[child.id].map { (child.position, $0) } }
        }
    }

    private static func child(_ name: String, of parent: UInt64, _ state: State) -> Node? {
        guard let directory = state.nodes[parent], let node = state.nodes[identifier(directory.path + "/" + name)] else { return nil }
        return node.parent == parent && node.name == name ? node : nil
    }

    private static func passable(_ permissions: FilePermissions) -> FilePermissions {
        var result = permissions
        // Who may read may enter; nothing can be made or removed in here.
        result.bits = (permissions.bits & 0o444) | (permissions.bits & 0o444) >> 2
        return result
    }

    /// FNV-1a of the path, never 0 (no node) or 1 (the root).
    private static func identifier(_ path: String) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in path.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return hash > 1 ? hash : hash + 2
    }
}
