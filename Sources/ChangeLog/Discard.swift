// Giving a log up without merging it: what only it holds is lost. For an administrator whose image was changed or whose log
// is damaged, so that it can never be merged. Called by `unprotect --discard-log`.

import BlockIO
import Glibc

extension LogFolder {
    /// Removes the log's files. The state goes first, durably: what a crash leaves is no log any more, and a repetition
    /// removes the rest. Other files in the folder stay, and then the folder.
    package func discard(_ lock: borrowing OwnerLock, duringFailback: Bool = false) throws(LogError) {
        if !duringFailback { try refuseDuringFailback() }
        try asLogError { () throws(SystemError) in
            try DurableFile.remove(stateFile)
            let names = try Directory.list(path)
            for name in names where Self.isOfLog(name) {
                guard unlink(path + "/" + name) == 0 || errno == ENOENT else {
                    throw SystemError(errno: errno, operation: "remove", path: path + "/" + name)
                }
            }
            guard rmdir(path) == 0 || errno == ENOTEMPTY || errno == EEXIST else { throw SystemError(errno: errno, operation: "remove", path: path) }
        }
    }

    private static func isOfLog(_ name: String) -> Bool {
        ["owner.lock", "freeze", "sync-failed", "reserve", "base", "presence", "making", "registration", "image-replaced"].contains(name) || name.hasPrefix("segment-") || name.hasPrefix("replicated-") || name.hasPrefix("sending-") || name.hasPrefix("publishing-") || name.hasPrefix("resync-")
            || (name.hasSuffix(".new") && (name.hasPrefix("log.state.") || name.hasPrefix("freeze.") || name.hasPrefix("image-replaced.") || name.hasPrefix("registration.")))
    }
}
