// Blocks the calling thread; only decorators wait.

import Glibc

func sleepMilliseconds(_ count: Int) {
    var rest = timespec(tv_sec: count / 1000, tv_nsec: count % 1000 * 1_000_000)
    var left = timespec()
    while nanosleep(&rest, &left) != 0, errno == EINTR { rest = left }
}
