// A thread of our own: background work of the data path blocks in system calls, so it never runs on a shared pool.

import CLinux
import Glibc

package final class OwnThread: @unchecked Sendable {
    // Sendable: `thread` is written once before the object is handed out.
    private var thread = pthread_t()

    /// Runs `body` on a new thread called `name` (at most 15 bytes are shown by the system).
    package init(name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
        let box = Unmanaged.passRetained(ThreadBody(name: name, body: body))
        let result = pthread_create(&thread, nil, { argument in
            let start = Unmanaged<ThreadBody>.fromOpaque(argument!).takeRetainedValue()
            farshore_name_this_thread(start.name)
            start.body()
            return nil
        }, box.toOpaque())
        guard result == 0 else {
            box.release()
            throw SystemError(errno: result, operation: "start the thread", path: name)
        }
    }

    /// Makes the system call the thread is in return EINTR, given a handler for `signal` without SA_RESTART.
    package func interrupt(_ signal: Int32) { pthread_kill(thread, signal) }

    /// Waits until the body has returned. Call once.
    package func join() { pthread_join(thread, nil) }
}

private final class ThreadBody {
    let name: String
    let body: @Sendable () -> Void

    init(name: String, body: @escaping @Sendable () -> Void) {
        self.name = name
        self.body = body
    }
}
