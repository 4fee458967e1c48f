// A pthread with a name and a body: requests block in system calls, so they have threads of their own.

import CFuse
import Glibc
import Synchronization

struct NativeThread: @unchecked Sendable {
    // Sendable: a pthread_t is a name for a thread, valid until it is joined.
    private let handle: pthread_t
    private let body: Body

    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void
        let hasEnded = Atomic<Bool>(false)
        init(name: String, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    /// nil when the system gives no more threads.
    static func start(_ name: String, _ run: @escaping @Sendable () -> Void) -> NativeThread? {
        let body = Body(name: name, run: run)
        let context = Unmanaged.passRetained(body)
        var handle = pthread_t()
        let result = pthread_create(
            &handle, nil,
            { context in
                let body = Unmanaged<Body>.fromOpaque(context!).takeRetainedValue()
                farshore_name_thread(body.name)
                body.run()
                body.hasEnded.store(true, ordering: .releasing)
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            context.release()
            return nil
        }
        return NativeThread(handle: handle, body: body)
    }

    func interrupt(_ signal: Int32) { pthread_kill(handle, signal) }
    var hasEnded: Bool { body.hasEnded.load(ordering: .acquiring) }
    func join() { pthread_join(handle, nil) }
}
