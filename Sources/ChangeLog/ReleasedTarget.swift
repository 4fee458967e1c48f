// A target that is to be resynchronised needs nothing of the log: file `resync-<target>`. While it is there segments are recycled once the
// image has them, so that a log full of what the target lacks makes room again. Written and removed by the uploader and by the command line.
// And which targets a log has: changed while one is added or removed.

package import BlockIO
import Glibc

extension LogFolder {
    package func releaseFile(target: String) -> String { path + "/resync-" + target }

    /// Durable. What the log drops from now on the target gets by comparing it with the image.
    package func release(target: String) throws(SystemError) {
        if isReleased(target: target) { return }
        try DurableFile.replace(releaseFile(target: target), with: Array("farshore resync 1\n".utf8))
    }

    /// The log keeps again what is above the target's mark. The image is frozen at the mark meanwhile: nothing above it is recyclable.
    package func endRelease(target: String) throws(SystemError) {
        if isReleased(target: target) { try DurableFile.remove(releaseFile(target: target)) }
    }

    package func isReleased(target: String) -> Bool { access(releaseFile(target: target), F_OK) == 0 }
}

extension LogFolder {
    /// Of a log that nobody has open: the caller holds the owner's lock.
    package func setTargets(_ names: [String], holding lock: borrowing OwnerLock) throws(LogError) {
        try Self.refuseInvalid(names)
        var state = try readState()
        state.targets = names
        do throws(SystemError) { try state.store(stateFile) } catch { throw .system(error) }
    }

    /// What a target that is no more left behind. Its mark stays: should it come back, it tells whose history the target has.
    package func forget(target: String) throws(SystemError) {
        try endRelease(target: target)
        let sending = sendingFile(target: target)
        guard unlink(sending) == 0 || errno == ENOENT else { throw SystemError(errno: errno, operation: "remove", path: sending) }
    }

    fileprivate static func refuseInvalid(_ names: [String]) throws(LogError) {
        for name in names where !isValidTarget(name) { throw .invalidSetting("'\(name)' cannot name a target") }
    }
}

extension ChangeLog {
    /// From now on the log keeps segments for these, durably. A new one is released before it is named here: it holds back nothing that went on before.
    package func setTargets(_ names: [String]) throws(LogError) {
        try LogFolder.refuseInvalid(names)
        do throws(SystemError) { try updateState { $0.targets = names } } catch { throw .system(error) }
    }
}
