// The kernel's directory records: fuse_dirent, or fuse_direntplus with each name's attributes. Offsets are those of
// include/uapi/linux/fuse.h; records are padded to 8 bytes. `.` and `..` carry no entry (node id 0: no lookup happened).

import CFuse

struct Listing {
    let memory: UnsafeMutableRawPointer
    let bytesMax: Int
    let withAttributes: Bool
    private(set) var count = 0

    init(memory: UnsafeMutableRawPointer, bytesMax: Int, withAttributes: Bool) {
        self.memory = memory
        self.bytesMax = bytesMax
        self.withAttributes = withAttributes
    }

    /// False when the record does not fit any more.
    mutating func append(_ name: String, type: UInt32, inode: UInt64, next: UInt64, entry: fuse_entry_out?) -> Bool {
        var name = name
        return name.withUTF8 { bytes in
            let entryBytes = withAttributes ? MemoryLayout<fuse_entry_out>.size : 0
            let recordBytes = (entryBytes + 24 + bytes.count + 7) & ~7
            guard count + recordBytes <= bytesMax else { return false }
            let record = memory + count
            record.initializeMemory(as: UInt8.self, repeating: 0, count: recordBytes)
            if withAttributes, let entry { record.storeBytes(of: entry, as: fuse_entry_out.self) }
            let dirent = record + entryBytes
            dirent.storeBytes(of: inode, toByteOffset: 0, as: UInt64.self)
            dirent.storeBytes(of: next, toByteOffset: 8, as: UInt64.self)
            dirent.storeBytes(of: UInt32(bytes.count), toByteOffset: 16, as: UInt32.self)
            dirent.storeBytes(of: type >> 12, toByteOffset: 20, as: UInt32.self)
            (dirent + 24).copyMemory(from: UnsafeRawPointer(bytes.baseAddress!), byteCount: bytes.count)
            count += recordBytes
            return true
        }
    }
}
