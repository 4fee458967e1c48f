import BlockIO
import DiskImage
import Testing

@Suite struct VHDFooterTests {
    @Test func fixedFooterIsDeterministicAndSized() {
        let id = [UInt8](0..<16)
        let a = VHDFooter.fixed(sizeBytes: 1 << 30, uniqueID: id, timeStamp: 77)
        #expect(a.count == 512)
        #expect(a == VHDFooter.fixed(sizeBytes: 1 << 30, uniqueID: id, timeStamp: 77))
        #expect(a != VHDFooter.fixed(sizeBytes: 1 << 30, uniqueID: id, timeStamp: 78))
    }
}
