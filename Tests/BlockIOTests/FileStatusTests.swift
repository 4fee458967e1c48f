// What a file says of itself is anybody's word.

import BlockIO
import Glibc
import Testing

@Suite struct FileStatusTests {
    @Test func aFileFromAFarFutureHasAStatus() throws {
        var template = Array("/tmp/farshore-status-XXXXXX".utf8CString)
        let file = Descriptor(owning: mkstemp(&template), path: "future")
        defer { unlink(template) }
        // The year 2300: more nanoseconds than fit.
        let future = timespec(tv_sec: 10_413_792_000, tv_nsec: 0)
        try #require(futimens(file.raw, [future, future]) == 0)
        #expect(try file.status().sizeBytes == 0)
    }
}
