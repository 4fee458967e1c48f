// The one errno map: what a guest is told when a disk call failed. Errors that mean something to a program using a
// disk pass through; all others (a vault that is away, a closed descriptor) are EIO, with the reason in our log.

import BlockIO
import Glibc

func guestErrno(_ error: SystemError) -> Int32 {
    switch error.errno {
    case EIO, ENOSPC, EDQUOT, EFBIG, EROFS, EOPNOTSUPP, EINVAL, ENOMEM, EPERM, ENXIO: error.errno
    default: EIO
    }
}
