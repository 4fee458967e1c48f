// Open-file-description locks: they belong to the descriptor, not the process, so a supervisor keeps them
// while its workers die, and two openers in one process exclude each other. Compatible with QEMU's image locks.

import CLinux
import Glibc

extension Descriptor {
    package enum LockKind: Sendable { case shared, exclusive }

    /// Takes the lock on `length` bytes from `offset` (0 = to the end) or returns false when another opener holds it.
    package func tryLock(_ kind: LockKind, at offset: UInt64 = 0, length: UInt64 = 0) throws(SystemError) -> Bool {
        let type = kind == .shared ? F_RDLCK : F_WRLCK
        let result = retryingInterrupts { farshore_ofd_setlk(raw, Int32(type), Int64(truncatingIfNeeded: offset), Int64(truncatingIfNeeded: length)) }
        if result == 0 { return true }
        if errno == EAGAIN || errno == EACCES { return false }
        throw SystemError(errno: errno, operation: "lock", path: path)
    }

    /// Whether another opener holds a lock that would refuse `kind` on the range.
    package func isLockedElsewhere(_ kind: LockKind, at offset: UInt64, length: UInt64) throws(SystemError) -> Bool {
        var type = Int32(kind == .shared ? F_RDLCK : F_WRLCK)
        guard farshore_ofd_getlk(raw, &type, Int64(truncatingIfNeeded: offset), Int64(truncatingIfNeeded: length)) == 0 else {
            throw SystemError(errno: errno, operation: "ask for locks", path: path)
        }
        return type != Int32(F_UNLCK)
    }

    package func unlock(at offset: UInt64 = 0, length: UInt64 = 0) throws(SystemError) {
        guard farshore_ofd_setlk(raw, Int32(F_UNLCK), Int64(truncatingIfNeeded: offset), Int64(truncatingIfNeeded: length)) == 0 else {
            throw SystemError(errno: errno, operation: "unlock", path: path)
        }
    }
}
