// The progress bar of `upload --once`: one disk after another, each with a bar of its own.

import Synchronization

final class UploadProgress: Sendable {
    private let current = Mutex<(disk: String, bar: Progress)?>(nil)

    func update(disk: String, doneBytes: UInt64, totalBytes: UInt64) {
        let bar = current.withLock { current in
            if let known = current, known.disk == disk { return known.bar }
            current?.bar.finish()
            let bar = Progress(disk)
            current = (disk, bar)
            return bar
        }
        bar.update(doneBytes: doneBytes, totalBytes: totalBytes)
    }

    func finish() {
        current.withLock { current in
            current?.bar.finish()
            current = nil
        }
    }
}
