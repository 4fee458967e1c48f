// A target that is to be resynchronised needs nothing of the log: file `resync-<target>`. While it is there segments are recycled once the
// image has them, so that a log full of what the target lacks makes room again. Written and removed by the uploader and by the command line.

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
