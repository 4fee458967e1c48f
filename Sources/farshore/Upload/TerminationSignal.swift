// SIGTERM and SIGINT as a call on a thread of our own, so that a service ends what it has begun.

import BlockIO
import Glibc

/// Runs `action` once when SIGTERM or SIGINT comes. Call before other threads are started: they inherit the mask.
func onTermination(_ action: @escaping @Sendable () -> Void) throws(SystemError) {
    var signals = sigset_t()
    sigemptyset(&signals)
    sigaddset(&signals, SIGTERM)
    sigaddset(&signals, SIGINT)
    pthread_sigmask(SIG_BLOCK, &signals, nil)
    let waited = signals
    _ = try OwnThread(name: "signals") {
        var set = waited
        var signal: Int32 = 0
        while sigwait(&set, &signal) != 0 {}
        action()
    }
}
