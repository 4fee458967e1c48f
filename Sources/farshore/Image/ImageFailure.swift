// Refused images and failed system calls as the person at the terminal gets them.

import BlockIO
import DiskImage
import Glibc

extension Failure {
    init(_ error: ImageError) {
        switch error {
        case .damaged(let damage):
            self.init(.badImage, "\(error)", try: "a copy of \(damage.path.shown) from before the damage; the image was not changed")
        case .unsupported(_, _, let remedy):
            self.init(.badImage, "\(error)", try: remedy.shown)
        case .brokenChain(let broken):
            self.init(.badImage, "\(error)", try: broken.remedy)
        case .inUse(let path):
            self.init(.inUse, "\(error)", try: "lsof \(path.shown), and stop the program that holds it")
        case .system(let cause):
            self.init(cause)
        }
    }

    init(_ error: SystemError) {
        switch error.errno {
        case ENOSPC, EDQUOT: self.init(.notEnoughSpace, "\(error)", try: "df \(error.path.shown), and free space or choose another place")
        case ENOENT, ENOTDIR: self.init(.notFound, "\(error)", try: "check the name")
        case EEXIST: self.init(.failed, "\(error)", try: "another name")
        case EBUSY: self.init(.inUse, "\(error)", try: "farshore status, and again when it is free")
        case EACCES, EPERM: self.init(.failed, "\(error)", try: "run as a user who may do this")
        case EIO: self.init(.failed, "\(error)", try: "dmesg, to see what the storage reports")
        default: self.init(.failed, "\(error)", try: "farshore doctor")
        }
    }
}
