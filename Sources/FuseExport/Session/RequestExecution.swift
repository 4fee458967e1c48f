// One request from its slot to its answer: the dispatch by operation. Reads and writes of data are in
// DataOperations.swift, names and attributes in NameOperations.swift.

import BlockIO
import CFuse
import Glibc
import Synchronization

struct RequestExecution {
    /// The reader thread that runs this holds the session.
    unowned(unsafe) let session: FuseSession
    let slot: Slot
    let header: fuse_in_header
    let reply: Reply
    /// The request was in a dead worker's hands: what it had put into the log must not be written twice.
    let isRecovered: Bool

    init(session: FuseSession, slot: Slot, isRecovered: Bool) {
        self.session = session
        self.slot = slot
        self.isRecovered = isRecovered
        header = slot.header
        reply = Reply(device: session.device, slot: slot, unique: slot.header.unique)
    }

    func run() {
        slot.counters.pointee.requests &+= 1
        switch fuse_opcode(rawValue: header.opcode) {
        case FUSE_READ: withFile { (file) throws(SystemError) in try readData(file) }
        case FUSE_WRITE: withFile { (file) throws(SystemError) in try writeData(file) }
        case FUSE_FSYNC: withFile { (file) throws(SystemError) in try syncData(file) }
        case FUSE_FALLOCATE: withFile { (file) throws(SystemError) in try allocate(file) }
        case FUSE_LSEEK: withFile { (file) throws(SystemError) in try seek(file) }
        case FUSE_LOOKUP: lookup()
        case FUSE_GETATTR: attributes()
        case FUSE_SETATTR: setAttributes()
        case FUSE_OPEN: open()
        case FUSE_OPENDIR: openDirectory()
        case FUSE_READDIR: list(withAttributes: false)
        case FUSE_READDIRPLUS: list(withAttributes: true)
        case FUSE_READLINK: readLink()
        case FUSE_STATFS: fileSystemStatus()
        case FUSE_RELEASE, FUSE_RELEASEDIR, FUSE_FSYNCDIR, FUSE_DESTROY, FUSE_ACCESS: reply.done()
        case FUSE_FORGET, FUSE_BATCH_FORGET: break  // no answer is expected; node ids need no counting
        default: refuse()
        }
    }

    /// Operations that are not there. ENOSYS tells the kernel not to ask again: closing a file has nothing to flush,
    /// extended attributes and interrupts are not offered, copies are made by reading and writing.
    private func refuse() {
        switch fuse_opcode(rawValue: header.opcode) {
        case FUSE_CREATE, FUSE_MKNOD, FUSE_MKDIR, FUSE_SYMLINK, FUSE_LINK, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_RENAME2, FUSE_TMPFILE:
            reply.error(EROFS)
        case FUSE_IOCTL: reply.error(ENOTTY)
        default: reply.error(ENOSYS)
        }
    }

    /// Runs `operate` on the file the request names, and answers with its error when it throws.
    private func withFile(_ operate: (ServedFile) throws(SystemError) -> Void) {
        guard let file = session.tree.files.file(header.nodeid) else {
            return reply.error(session.tree.node(header.nodeid) == nil ? ESTALE : EISDIR)
        }
        file._withUnsafeGuaranteedRef { file in
            guard !file.isGone.load(ordering: .sequentiallyConsistent) else { return reply.error(ESTALE) }
            do throws(SystemError) {
                try operate(file)
            } catch {
                report(error)
                reply.error(guestErrno(error))
            }
        }
    }

    /// Errors a program can cause by itself are answered without a line in the log.
    private func report(_ error: SystemError) {
        guard ![ENXIO, EOPNOTSUPP, EFBIG, EINVAL, EROFS, EBADF].contains(error.errno) else { return }
        session.log("answered with \(String(cString: strerror(guestErrno(error)))): \(error)")
    }
}
