// Clocks. Wall time only ever labels; what must be measured uses the monotonic clock. The boot id tells a crash of
// our process (the page cache survived) from a power loss (it did not).

import Glibc

package enum Clock {
    /// Nanoseconds since 1970 by the wall clock.
    package static func wallNanoseconds() -> UInt64 { nanoseconds(CLOCK_REALTIME) }

    /// Nanoseconds since an arbitrary start; never goes back.
    package static func monotonicNanoseconds() -> UInt64 { nanoseconds(CLOCK_MONOTONIC) }

    private static func nanoseconds(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// The kernel's random id of this boot, 36 characters.
    package static func bootID() throws(SystemError) -> String {
        let file = try Descriptor.open("/proc/sys/kernel/random/boot_id", O_RDONLY)
        let bytes = try file.read(count: 36, at: 0)
        return String(decoding: bytes, as: UTF8.self)
    }
}
