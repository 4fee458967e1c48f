// Makes the disk in an image larger: docs/formats/vhd.md, section "Growing". The caller holds the image's lock and knows both sizes;
// every step can be repeated after a crash, which leaves the disk of the old size or of the new one. What is added reads as zeros.

import BlockIO
import Glibc

/// The size added at the least, and what the new size is a multiple of.
package let growthBytesMin: UInt64 = 1 << 20

/// Whether a disk of that size can grow at all: a record of the last block would be shorter than the block has become.
package func hasGrowableSize(_ sizeBytes: UInt64) -> Bool { sizeBytes % 4096 == 0 }

/// Throws `unsupported` when `growImage` cannot do it, with what to run instead. `disk`: the name it is protected under, where that is known.
package func requireGrowable(_ path: String, format: ImageFormat, disk: String? = nil, from oldBytes: UInt64, to newBytes: UInt64) throws(ImageError) {
    let container = try ContainerFile.open(path, access: .readOnly)
    let unprotect = "farshore unprotect \(disk ?? "DISK")"
    func refuse(_ what: String, _ remedy: String) -> ImageError { .unsupported(path: path, what: what, remedy: remedy) }
    guard newBytes >= oldBytes + growthBytesMin, newBytes % growthBytesMin == 0 else {
        throw refuse("a disk of \(oldBytes) bytes cannot get \(newBytes): it grows by 1 MiB at the least, to whole MiB", "another size")
    }
    guard container.status.kind == .regular else {
        throw refuse("a disk on a block device cannot grow", "\(unprotect), make the device larger, and protect it under a new name")
    }
    guard hasGrowableSize(oldBytes) else {
        let larger = format == .raw ? "truncate -s %1M \(path), and protect it" : "farshore image convert \(path) COPY.raw, truncate -s %1M COPY.raw, and protect COPY.raw"
        throw refuse("a disk of \(oldBytes) bytes, no multiple of 4 KiB, cannot grow", "\(unprotect), \(larger) under a new name: that one grows")
    }
    switch format {
    case .raw: return
    case .vhdFixed, .vhdDynamic:
        guard newBytes <= VHDFooter.sizeBytesMax else {
            throw refuse("a VHD holds at most 2,040 GiB", "\(unprotect), farshore image convert \(path) COPY.raw --to raw, and protect COPY.raw under a new name: that one grows")
        }
    case .vhdDifferencing, .vhdx, .qcow2:
        throw refuse("a disk in an image of the format \(format.rawValue) cannot grow", "\(unprotect), make the image larger with its own tools, and protect it under a new name")
    }
    if format == .vhdDynamic { _ = try GrowingDynamicVHD(container, to: newBytes, disk: disk) }
}

/// Grows the image from `oldBytes` to `newBytes`, durably. Nobody may have a dynamic one open; the others grow behind what is in use.
package func growImage(
    _ path: String, format: ImageFormat, from oldBytes: UInt64, to newBytes: UInt64, listener: FileChangeListener? = nil
) throws(ImageError) {
    let container = try ContainerFile.open(path, access: .readWrite)
    switch format {
    case .raw:
        let size = container.status.sizeBytes
        let file = ChangedFile(container.descriptor, listener: listener)
        try asImageError { () throws(SystemError) in
            if size < newBytes { try file.truncate(to: newBytes) }
            try file.sync()
        }
    case .vhdFixed: try growFixedVHD(container, from: oldBytes, to: newBytes, listener)
    case .vhdDynamic:
        var growing = try GrowingDynamicVHD(container, to: newBytes)
        let file = ChangedFile(container.descriptor, listener: listener)
        try asImageError { () throws(SystemError) in try growing.carryOut(file) }
    case .vhdDifferencing, .vhdx, .qcow2: try requireGrowable(path, format: format, from: oldBytes, to: newBytes)
    }
}

/// The new footer lies behind everything before the old one goes, and the place of the old one reads as zeros before it is the guest's.
private func growFixedVHD(
    _ container: consuming ContainerFile, from oldBytes: UInt64, to newBytes: UInt64, _ listener: FileChangeListener?
) throws(ImageError) {
    let (path, size) = (container.path, container.status.sizeBytes)
    var isWritten = false
    if size == newBytes + 512 {
        // Without a footer it was cut short before that was there.
        isWritten = (try? VHDFooter(parsing: container.read(count: 512, at: newBytes), at: newBytes, of: path).currentSizeBytes) == newBytes
    }
    var grown: [UInt8] = []
    if !isWritten {
        let footer = try VHDFooter(parsing: container.read(count: 512, at: oldBytes), at: oldBytes, of: path)
        guard footer.diskType == .fixed, footer.diskSizeBytes == oldBytes, footer.currentSizeBytes == oldBytes else {
            throw .unsupported(
                path: path, what: "a fixed VHD whose footer says another size than its disk has cannot grow",
                remedy: "end its protection, then farshore image convert \(path) COPY.vhd --to vhd-fixed, and protect COPY.vhd under a new name")
        }
        grown = footer.grown(to: newBytes).encoded()
    }
    let file = ChangedFile(container.descriptor, listener: listener)
    try asImageError { () throws(SystemError) in
        if !isWritten {
            do throws(SystemError) {
                try file.write(grown, at: newBytes)
            } catch {
                try file.truncate(to: oldBytes + 512)
                throw error
            }
            try file.sync()
        }
        try file.zero(at: oldBytes, length: 512)
        try file.sync()
    }
}
