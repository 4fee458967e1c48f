// Copies what a disk holds from one image to another: holes are skipped, blocks of zeros are not written, so the
// copy is as sparse as its contents allow. The target must read as zeros where nothing is written.

package import BlockIO

/// Copies all data of `source`; `progress` gets the disk bytes that are behind the copy, holes counted.
package func copyData(of source: any ImageFile, to target: any ImageFile, progress: (UInt64) -> Void) throws(SystemError) {
    let buffer = AlignedBuffer(count: 1 << 20)
    var position: UInt64 = 0
    while let data = try source.nextData(from: position) {
        // A file may be written where a hole was; what is reported as data is read, whatever it holds.
        let hole = max(try source.nextHole(from: data), min(data + 512, source.sizeBytes))
        position = data
        while position < hole {
            let count = Int(min(UInt64(buffer.bytes.count), hole - position))
            let chunk = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
            try source.read(into: chunk, at: position)
            try writeNonzero(UnsafeRawBufferPointer(chunk), to: target, at: position)
            position += UInt64(count)
            progress(position)
        }
    }
    progress(source.sizeBytes)
}

/// Writes the runs of 4 KiB blocks that hold anything but zeros.
private func writeNonzero(_ chunk: UnsafeRawBufferPointer, to target: any ImageFile, at offset: UInt64) throws(SystemError) {
    var runStart: Int?
    for start in stride(from: 0, to: chunk.count, by: 4096) {
        let block = UnsafeRawBufferPointer(rebasing: chunk[start..<min(start + 4096, chunk.count)])
        if !isZero(block) {
            runStart = runStart ?? start
        } else if let begin = runStart {
            try target.write(UnsafeRawBufferPointer(rebasing: chunk[begin..<start]), at: offset + UInt64(begin))
            runStart = nil
        }
    }
    if let begin = runStart { try target.write(UnsafeRawBufferPointer(rebasing: chunk[begin...]), at: offset + UInt64(begin)) }
}

func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    let words = bytes.count / 8
    for index in 0..<words where bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self) != 0 { return false }
    return bytes[(words * 8)...].allSatisfy { $0 == 0 }
}
