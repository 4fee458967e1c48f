// The images a run starts with.

import BlockIO
import DiskImage
import Glibc
import SimulatedSystem

/// Half data, half a hole.
func makeRawImage(_ path: String, _ bytes: Int) throws -> [UInt8] {
    var content = [UInt8](repeating: 0, count: bytes)
    for place in 0..<bytes / 2 { content[place] = UInt8(truncatingIfNeeded: place &* 31 >> 5) | 1 }
    let file = try Descriptor.open(path, O_RDWR | O_CREAT)
    try file.truncate(to: UInt64(bytes))
    try file.write(Array(content[..<(bytes / 2)]), at: 0)
    try file.sync()
    try Directory.sync(Directory.parent(of: path) ?? ".")
    return content
}

/// A dynamic VHD with blocks so small that a run allocates many: made as the program makes them, its block size then
/// changed in the header (bytes 32-35; 36-39 are the complement of the sum of all others).
func makeDynamicImage(_ path: String, _ bytes: Int) throws -> [UInt8] {
    let output = try OutputImage.begin(path, format: .vhdDynamic, sizeBytes: UInt64(bytes), uniqueID: [UInt8](repeating: 7, count: 16), timeStamp: 1)
    try output.finish(replacing: true)
    let file = try Descriptor.open(path, O_RDWR)
    var header = try file.read(count: 1024, at: 512)
    header.withUnsafeMutableBytes { field in
        field.putBE(UInt32((bytes + 16383) / 16384), at: 28)
        field.putBE(UInt32(16384), at: 32)
        field.putBE(UInt32(0), at: 36)
        let sum = field.reduce(UInt32(0)) { $0 &+ UInt32($1) }
        field.putBE(~sum, at: 36)
    }
    try file.write(header, at: 512)
    try file.sync()
    try Directory.sync(Directory.parent(of: path) ?? ".")
    return [UInt8](repeating: 0, count: bytes)
}
