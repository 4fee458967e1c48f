// Operations on names and attributes. Everything but symbolic links' targets is fixed once it is in the tree, so the
// kernel may keep names and attributes for a second.

import BlockIO
import CFuse
import Glibc
import Synchronization

extension RequestExecution {
    private static let cachedSeconds: UInt64 = 1

    func lookup() {
        let start = UnsafeRawPointer(slot.head) + MemoryLayout<fuse_in_header>.size
        let count = Int(header.len) - MemoryLayout<fuse_in_header>.size - 1
        guard count > 0, count <= ExportTree.nameBytesMax else { return reply.error(ENAMETOOLONG) }
        let name = String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
        guard let node = session.tree.child(name, of: header.nodeid) else { return reply.error(ENOENT) }
        reply.body(entry(node))
    }

    func attributes() {
        guard let node = session.tree.node(header.nodeid) else { return reply.error(ESTALE) }
        var answer = fuse_attr_out()
        answer.attr_valid = RequestExecution.cachedSeconds
        answer.attr = attr(node)
        reply.body(answer)
    }

    /// A disk's size, owner and times are not changed through the mount. Setting the size it has already is what
    /// programs do that open with truncation in mind, and harmless.
    func setAttributes() {
        let request = slot.body(fuse_setattr_in.self)
        guard let node = session.tree.node(header.nodeid) else { return reply.error(ESTALE) }
        let changes = Int32(bitPattern: request.valid)
        guard changes & (FATTR_MODE | FATTR_UID | FATTR_GID) == 0, changes & FATTR_SIZE != 0, case .file(let file) = node.kind else {
            return reply.error(EPERM)
        }
        guard file.isWritable else { return reply.error(EROFS) }
        guard request.size == file.sizeBytes else { return reply.error(request.size > file.sizeBytes ? EFBIG : EPERM) }
        attributes()
    }

    func open() {
        guard let node = session.tree.node(header.nodeid) else { return reply.error(ESTALE) }
        guard case .file(let file) = node.kind else { return reply.error(EISDIR) }
        let mode = Int32(bitPattern: slot.body(fuse_open_in.self).flags) & O_ACCMODE
        guard mode == O_RDONLY || file.isWritable else { return reply.error(EROFS) }
        do throws(SystemError) {
            _ = try file.disk.get()
        } catch {
            session.log("cannot open \(node.path): \(error)")
            return reply.error(guestErrno(error))
        }
        var answer = fuse_open_out()
        answer.fh = node.id
        answer.open_flags = UInt32(FOPEN_DIRECT_IO) | UInt32(FOPEN_PARALLEL_DIRECT_WRITES) | UInt32(FOPEN_NOFLUSH)
        reply.body(answer)
    }

    func openDirectory() {
        var answer = fuse_open_out()
        answer.fh = header.nodeid
        reply.body(answer)
    }

    func readLink() {
        guard let node = session.tree.node(header.nodeid), case .symlink(let target) = node.kind else { return reply.error(EINVAL) }
        var target8 = target
        let count = target8.withUTF8 { bytes in
            let count = min(bytes.count, slot.payloadBytes)
            slot.payload.copyMemory(from: UnsafeRawPointer(bytes.baseAddress!), byteCount: count)
            return count
        }
        reply.payload(count)
    }

    func fileSystemStatus() {
        var answer = fuse_statfs_out()
        answer.st.bsize = 4096
        answer.st.frsize = 4096
        answer.st.namelen = UInt32(ExportTree.nameBytesMax)
        answer.st.files = UInt64(session.tree.nodeCount)
        reply.body(answer)
    }

    func list(withAttributes: Bool) {
        let request = slot.body(fuse_read_in.self)
        guard let directory = session.tree.node(header.nodeid), let parent = session.tree.node(directory.parent) else { return reply.error(ESTALE) }
        var listing = Listing(memory: slot.payload, bytesMax: min(Int(request.size), slot.payloadBytes), withAttributes: withAttributes)
        for (position, name, node) in [(UInt64(1), ".", directory), (2, "..", parent)] where position > request.offset {
            guard listing.append(name, type: type(node), inode: node.id, next: position, entry: nil) else { return reply.payload(listing.count) }
        }
        guard let children = session.tree.children(of: directory.id, after: request.offset, limit: listing.bytesMax / 24) else {
            return reply.error(ENOTDIR)
        }
        for (position, node) in children {
            guard listing.append(node.name, type: type(node), inode: node.id, next: position, entry: entry(node)) else { break }
        }
        reply.payload(listing.count)
    }

    private func entry(_ node: ExportTree.Node) -> fuse_entry_out {
        var answer = fuse_entry_out()
        answer.nodeid = node.id
        answer.entry_valid = RequestExecution.cachedSeconds
        answer.attr_valid = RequestExecution.cachedSeconds
        answer.attr = attr(node)
        return answer
    }

    private func type(_ node: ExportTree.Node) -> UInt32 {
        switch node.kind {
        case .directory: S_IFDIR
        case .symlink: S_IFLNK
        case .file: S_IFREG
        }
    }

    private func attr(_ node: ExportTree.Node) -> fuse_attr {
        var attr = fuse_attr()
        attr.ino = node.id
        attr.mode = type(node) | node.permissions.bits
        attr.uid = node.permissions.uid
        attr.gid = node.permissions.gid
        attr.nlink = 1
        attr.blksize = 4096
        var changed = session.tree.createdNanoseconds
        switch node.kind {
        case .directory: attr.nlink = 2
        case .symlink(let target): attr.size = UInt64(target.utf8.count)
        case .file(let file):
            attr.size = file.sizeBytes
            attr.blocks = file.sizeBytes / 512
            changed = file.modifiedNanoseconds.load(ordering: .relaxed)
        }
        (attr.mtime, attr.mtimensec) = (changed / 1_000_000_000, UInt32(changed % 1_000_000_000))
        (attr.atime, attr.atimensec) = (attr.mtime, attr.mtimensec)
        (attr.ctime, attr.ctimensec) = (attr.mtime, attr.mtimensec)
        return attr
    }
}
