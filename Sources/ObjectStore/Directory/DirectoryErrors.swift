// The one map from errno to a StoreError for directory targets.

import BlockIO
import Glibc

func directoryError(_ error: SystemError, root: String) -> StoreError {
    let text = error.description
    switch error.errno {
    case ENOSPC, EDQUOT:
        return StoreError(.notEnoughSpace, text, try: "make space in \(root) or raise the quota")
    case EROFS:
        return StoreError(.accessDenied, text, try: "mount the filesystem of \(root) read-write")
    case EACCES, EPERM:
        return StoreError(.accessDenied, text, try: "give this user the right to read and write \(root)")
    case ENOENT where error.path == root, ENOTDIR where error.path == root:
        return StoreError(.bucketMissing, "the directory \(root) does not exist", try: "mount its filesystem, or name an existing directory")
    case ENODEV, ENXIO, ESTALE, ENOTCONN, EHOSTDOWN, EHOSTUNREACH:
        return StoreError(.unreachable, text, try: "mount the filesystem of \(root) again, then run the command again")
    case ETIMEDOUT:
        return StoreError(.timedOut, text, try: "look whether the server of \(root) answers")
    case ELOOP:
        return StoreError(.accessDenied, "\(text) (symbolic links inside a vault are not followed)", try: "put the real folder in place of the link")
    case EFBIG:
        return StoreError(.unsupported, text, try: "use a filesystem that holds files of this size")
    case ENOTDIR, EISDIR:
        return StoreError(.unsupported, "\(text) (a key cannot be the folder of another)", try: "report this: a vault's keys are not so")
    case EMFILE, ENFILE, ENOMEM:
        return StoreError(.serverFault, text, try: "raise the limit on open files (ulimit -n) or free memory")
    case EINVAL, ENAMETOOLONG, EILSEQ, EXDEV:
        return StoreError(.unsupported, text, try: "use another filesystem for \(root): this one cannot hold such a file")
    default:
        return StoreError(.serverFault, text, try: "look in the kernel's log (dmesg) for errors of the device of \(root)")
    }
}
