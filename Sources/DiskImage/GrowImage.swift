// Makes the disk in an image larger: docs/formats/vhd.md, section "Growing". The caller holds the image's lock and knows both sizes;
// every step can be repeated after a crash, which leaves the disk of the old size or of the new one. What is added reads as zeros.

package import BlockIO
import Glibc

/// The size added at the least, and what the new size is a multiple of.
package let growthBytesMin: UInt64 = 1 << 20

/// Whether a disk of that size can grow at all: a record of the last block would be shorter than the block has become.
package func hasGrowableSize(_ sizeBytes: UInt64) -> Bool { sizeBytes % 4096 == 0 }

/// Throws `unsupported` when `growImage` cannot do it, with what to run instead, and ENOSPC where there is no room for it. `disk`: the name it
/// is protected under, where that is known.
package func requireGrowable(_ path: String, format: ImageFormat, disk: String? = nil, from oldBytes: UInt64, to newBytes: UInt64) throws(ImageError) {
    try requireGrowable(ContainerFile.open(path, access: .readOnly), format: format, disk: disk, from: oldBytes, to: newBytes)
}

/// The same of the very file that is open as `image`.
package func requireGrowable(
    _ image: borrowing Descriptor, format: ImageFormat, disk: String? = nil, from oldBytes: UInt64, to newBytes: UInt64
) throws(ImageError) {
    try requireGrowable(ContainerFile.open(image, access: .readOnly), format: format, disk: disk, from: oldBytes, to: newBytes)
}

private func requireGrowable(
    _ container: consuming ContainerFile, format: ImageFormat, disk: String?, from oldBytes: UInt64, to newBytes: UInt64
) throws(ImageError) {
    let path = container.path
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
    if format == .vhdDynamic {
        let growing = try GrowingDynamicVHD(container, to: newBytes, disk: disk)
        try asImageError { () throws(SystemError) in try requireRoom(growing.addedBytes, container.descriptor) }
    }
}

private func requireRoom(_ bytes: UInt64, _ file: borrowing Descriptor) throws(SystemError) {
    var status = statvfs()
    guard fstatvfs(file.raw, &status) == 0 else { throw SystemError(errno: errno, operation: "ask for free space", path: file.path) }
    let free = UInt64(status.f_bavail) * UInt64(status.f_frsize)
    // A filesystem without blocks (a tmpfs without a limit) does not tell.
    guard status.f_blocks == 0 || free >= bytes else {
        throw SystemError(errno: ENOSPC, operation: "grow by a table of \(bytes) bytes, with \(free) bytes free", path: file.path)
    }
}

/// The size of the disk in an image whose growth may have been cut short. Of a fixed VHD the file tells it, for its footer may be missing then.
package func growingBytes(_ image: borrowing Descriptor, format: ImageFormat) throws(ImageError) -> UInt64 {
    let container = try ContainerFile.open(image, access: .readOnly)
    let fileBytes = container.status.sizeBytes
    switch format {
    case .raw: return fileBytes
    case .vhdFixed: return fileBytes - min(fileBytes, 512)
    case .vhdDynamic, .vhdDifferencing, .vhdx, .qcow2: return try readDynamicLayout(container, .dynamic).footer.diskSizeBytes
    }
}

/// Whether nothing in the file tells of a growth to `newBytes` that failed, so that the disk may go on at its old size. A dynamic VHD's header
/// that names the larger table may be in the page cache alone: given up then, a power loss would bring the old table back.
package func showsNoGrowth(_ image: borrowing Descriptor, format: ImageFormat, from oldBytes: UInt64, to newBytes: UInt64) throws(ImageError) -> Bool {
    guard try growingBytes(image, format: format) == oldBytes else { return false }
    guard format == .vhdDynamic else { return true }
    let header = try readDynamicLayout(ContainerFile.open(image, access: .readOnly), .dynamic).header
    return UInt64(header.tableEntries) < header.blocks(ofDiskBytes: newBytes)
}

/// Grows the very file that is open as `image` from `oldBytes` to `newBytes`, durably. Nobody may have a dynamic VHD open; the others grow
/// behind what is in use. Where it fails before anything tells the new size, the file ends where it did.
package func growImage(
    _ image: borrowing Descriptor, format: ImageFormat, from oldBytes: UInt64, to newBytes: UInt64, listener: FileChangeListener? = nil
) throws(ImageError) {
    let container = try ContainerFile.open(image, access: .readWrite)
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
    case .vhdDifferencing, .vhdx, .qcow2: try requireGrowable(image, format: format, from: oldBytes, to: newBytes)
    }
}

/// The new footer lies behind everything before the old one goes, and the place of the old one reads as zeros before it is the guest's.
private func growFixedVHD(
    _ container: consuming ContainerFile, from oldBytes: UInt64, to newBytes: UInt64, _ listener: FileChangeListener?
) throws(ImageError) {
    let (path, size) = (container.path, container.status.sizeBytes)
    var isWritten = false
    var grown: [UInt8] = []
    if size == newBytes + 512 {
        grown = try container.read(count: 512, at: newBytes)
        // Without a footer it was cut short before that was there.
        isWritten = (try? VHDFooter(parsing: grown, at: newBytes, of: path).currentSizeBytes) == newBytes
    }
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
        // Also one that is there: an earlier attempt's sync may have failed, and left it in the page cache alone.
        do throws(SystemError) { try file.write(grown, at: newBytes) } catch {
            if isWritten { throw error }
            throw file.undone(error) { () throws(SystemError) in try file.cutBack(to: oldBytes + 512) }
        }
        try file.sync()
        try file.zero(at: oldBytes, length: 512)
        try file.sync()
    }
}
