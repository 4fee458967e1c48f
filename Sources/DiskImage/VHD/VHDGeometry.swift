// Cylinders, heads and sectors as the VHD specification computes them from a size ("CHS Calculation"); what they
// address is at most the size, often a little less.

package struct VHDGeometry: Equatable, Sendable, CustomStringConvertible {
    /// Sectors at the largest geometry, which stands for "larger than CHS can say".
    static let sectorsMax: UInt64 = 65535 * 16 * 255

    package let cylinders: UInt16
    package let heads: UInt8
    package let sectorsPerTrack: UInt8

    package var sectors: UInt64 { UInt64(cylinders) * UInt64(heads) * UInt64(sectorsPerTrack) }
    package var description: String { "\(cylinders)/\(heads)/\(sectorsPerTrack)" }

    init(cylinders: UInt16, heads: UInt8, sectorsPerTrack: UInt8) {
        self.cylinders = cylinders
        self.heads = heads
        self.sectorsPerTrack = sectorsPerTrack
    }

    init(sizeBytes: UInt64) {
        let total = min(sizeBytes / 512, Self.sectorsMax)
        let (sectorsPerTrack, heads) = Self.track(of: total)
        self.sectorsPerTrack = UInt8(sectorsPerTrack)
        self.heads = UInt8(heads)
        cylinders = UInt16(total / sectorsPerTrack / heads)
    }

    private static func track(of total: UInt64) -> (sectorsPerTrack: UInt64, heads: UInt64) {
        if total >= 65535 * 16 * 63 { return (255, 16) }
        var sectorsPerTrack: UInt64 = 17
        var tracks = total / sectorsPerTrack
        var heads = max((tracks + 1023) / 1024, 4)
        if tracks >= heads * 1024 || heads > 16 {
            (sectorsPerTrack, heads) = (31, 16)
            tracks = total / sectorsPerTrack
        }
        if tracks >= heads * 1024 { (sectorsPerTrack, heads) = (63, 16) }
        return (sectorsPerTrack, heads)
    }
}
