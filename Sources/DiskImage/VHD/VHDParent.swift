// What a differencing disk shows where it has nothing of its own: the parent's disk, and zeros behind its end.

import BlockIO

struct VHDParent: Sendable {
    let image: any ImageFile

    init(_ image: any ImageFile) { self.image = image }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(SystemError) {
        let inside = fillBehind(buffer, offset)
        if inside > 0 { try image.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<inside]), at: offset) }
    }

    func readIfCached(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Bool {
        let inside = fillBehind(buffer, offset)
        return inside == 0 || image.readIfCached(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<inside]), at: offset)
    }

    func nextData(from offset: UInt64, before limit: UInt64) throws(SystemError) -> UInt64? {
        let end = min(limit, image.sizeBytes)
        guard offset < end else { return nil }
        if let vhd = image as? DynamicVHD { return try vhd.nextData(from: offset, before: end) }
        guard let found = try image.nextData(from: offset), found < end else { return nil }
        return found
    }

    func nextHole(from offset: UInt64) throws(SystemError) -> UInt64 {
        offset < image.sizeBytes ? try image.nextHole(from: offset) : offset
    }

    /// Zeros what lies behind the parent's end; returns how much of the buffer lies before it.
    private func fillBehind(_ buffer: UnsafeMutableRawBufferPointer, _ offset: UInt64) -> Int {
        let inside = Int(min(UInt64(buffer.count), image.sizeBytes - min(offset, image.sizeBytes)))
        if inside < buffer.count { UnsafeMutableRawBufferPointer(rebasing: buffer[inside...]).initializeMemory(as: UInt8.self, repeating: 0) }
        return inside
    }
}
