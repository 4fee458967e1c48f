// Opens an image of any format: by the format the caller names, or by what the file shows. Whoever protects a disk
// asks once and remembers the answer: a guest can write a footer into the last sector of a raw disk, so a file must
// never be probed again after a guest had it.

import BlockIO
import Glibc

/// Opens the image at `path`, checked field by field, with all it is read through. `parentFolders`: where parents may lie beside the
/// image's own folder. Takes no lock: see `ImageLock`.
package func openImage(
    _ path: String, access: ImageAccess, format: ImageFormat? = nil, parentFolders: [String] = []
) throws(ImageError) -> any ImageFile {
    try openImage(ContainerFile.open(path, access: access), access: access, format: format, parentFolders: parentFolders, parentLocks: nil)
}

/// Opens the very file that is locked, whatever its name stands for by now, and locks what it is read through: `parentLocks`.
package func openImage(
    locked lock: borrowing ImageLock, access: ImageAccess, format: ImageFormat? = nil, parentFolders: [String] = [], parentLocks: ParentLocks? = nil
) throws(ImageError) -> any ImageFile {
    try openImage(ContainerFile.open(lock.descriptor, access: access), access: access, format: format, parentFolders: parentFolders, parentLocks: parentLocks)
}

private func openImage(
    _ container: consuming ContainerFile, access: ImageAccess, format: ImageFormat?, parentFolders: [String], parentLocks: ParentLocks?
) throws(ImageError) -> any ImageFile {
    let known = if let format { format } else { try formatWithoutName(container) }
    switch known {
    case .raw: return try openRaw(container, access: access)
    case .vhdFixed: return try openFixedVHD(container, access: access)
    case .vhdDynamic: return try openDynamicVHD(container, .dynamic, access: access, listener: nil)
    case .vhdDifferencing:
        return try openDynamicVHD(container, .differencing, access: access, parentFolders: parentFolders, parentLocks: parentLocks, listener: nil)
    case .vhdx: return try openVHDX(container, access: access, listener: nil)
    case .qcow2: return try openQCOW2(container, access: access, listener: nil)
    }
}

/// The open file an image lies in, and what it was when it was opened.
struct ContainerFile: ~Copyable {
    let descriptor: Descriptor
    let status: FileStatus

    init(_ descriptor: consuming Descriptor) throws(SystemError) {
        status = try descriptor.status()
        self.descriptor = descriptor
    }

    static func open(_ path: String, access: ImageAccess) throws(ImageError) -> ContainerFile {
        try ImageLock.refuseNoImageFile(path)
        return try checked(asImageError { () throws(SystemError) in try ContainerFile(Descriptor.open(path, access.flags)) })
    }

    /// The very file that is open as `file`.
    static func open(_ file: borrowing Descriptor, access: ImageAccess) throws(ImageError) -> ContainerFile {
        try checked(asImageError { () throws(SystemError) in try ContainerFile(file.reopened(access.flags)) })
    }

    private static func checked(_ container: consuming ContainerFile) throws(ImageError) -> ContainerFile {
        guard container.status.kind == .regular || container.status.kind == .blockDevice else {
            throw .noImageFile(container.path)
        }
        return container
    }

    var path: String { descriptor.path }

    func read(count: Int, at offset: UInt64) throws(ImageError) -> [UInt8] {
        try asImageError { () throws(SystemError) in try descriptor.read(count: count, at: offset) }
    }

    /// The first part of the range, which begins on a multiple of 512, that may hold anything but zeros, in whole sectors. A few bytes of file
    /// can claim terabytes of structures in a hole: what is read and compared must be no more than what is there.
    func nextData(in range: Range<UInt64>) throws(ImageError) -> Range<UInt64>? {
        guard !range.isEmpty, status.kind == .regular else { return range.isEmpty ? nil : range }
        return try asImageError { () throws(SystemError) in
            guard let data = try descriptor.nextData(from: range.lowerBound), data < range.upperBound else { return nil }
            let start = data & ~511
            // It may have become a hole meanwhile.
            let hole = max(try descriptor.nextHole(from: data), start + 1)
            return start..<min(hole.roundedUp(to: 512), range.upperBound)
        }
    }
}

private func openRaw(_ container: consuming ContainerFile, access: ImageAccess) throws(ImageError) -> RawImage {
    let (path, status) = (container.path, container.status)
    try requireNotEmpty(container)
    guard access == .readOnly || status.sizeBytes % 512 == 0 else {
        throw .unsupported(path: path, what: "a raw image of \(status.sizeBytes) bytes ends inside a sector and cannot be written",
            remedy: "check that it is a disk image at all; if it is, pad a copy of it: truncate -s %512 COPY")
    }
    do throws(SystemError) {
        return try RawImage(container.descriptor, storedBytes: status.sizeBytes, isBlockDevice: status.kind == .blockDevice)
    } catch { throw .system(error) }
}

func requireNotEmpty(_ container: borrowing ContainerFile) throws(ImageError) {
    guard container.status.sizeBytes == 0 else { return }
    throw .damaged(ImageDamage(path: container.path, field: "file size", offset: 0, found: "0", expected: "at least 512",
        meaning: "an empty file is no disk"))
}

func openFixedVHD(_ container: consuming ContainerFile, access: ImageAccess) throws(ImageError) -> RawImage {
    let footer = try readFixedFooter(container)
    try requireNoSavedState(footer, access: access, path: container.path)
    do throws(SystemError) {
        return try RawImage(container.descriptor, storedBytes: footer.diskSizeBytes, isBlockDevice: false)
    } catch { throw .system(error) }
}

/// The footer of a fixed VHD, checked against the file.
func readFixedFooter(_ container: borrowing ContainerFile) throws(ImageError) -> VHDFooter {
    let (path, status) = (container.path, container.status)
    guard status.kind == .regular, status.sizeBytes >= 1024 else {
        throw .damaged(ImageDamage(path: path, field: "file size", offset: 0, found: "\(status.sizeBytes)",
            expected: "a file of at least one sector and a footer", meaning: "too short to be a fixed VHD"))
    }
    let (bytes, offset) = try readLastFooter(container)
    let footer = try VHDFooter(parsing: bytes, at: offset, of: path)
    let field = ImageField(footer.encoded(), structure: "footer", at: offset, path: path)
    try requireType(footer, .fixed, field)
    try field.require(footer.currentSizeBytes == offset, "current size", at: 48, found: "\(footer.currentSizeBytes)",
        expected: "\(offset), the bytes before the footer", meaning: "the file was cut or extended")
    try field.require(footer.diskSizeBytes <= offset, "geometry", at: 56, found: "\(footer.geometry)",
        expected: "at most \(offset / 512) sectors", meaning: "the geometry addresses more than the file holds")
    guard status.sizeBytes - offset == 512 else {
        throw .unsupported(path: path, what: "a fixed VHD whose footer has 511 bytes, as Virtual PC before 2004 wrote it: not supported",
            remedy: "a copy with the byte that is missing, a zero: cp \(path) COPY.vhd, truncate -s +1 COPY.vhd")
    }
    return footer
}

/// What lies where a fixed VHD has its footer, and where: the last 512 bytes. Virtual PC before 2004 left out the last byte, a reserved
/// one of zero. Such a file ends inside a sector, as no disk that a guest writes to does, so no guest has put that there.
func readLastFooter(_ container: borrowing ContainerFile) throws(ImageError) -> (bytes: [UInt8], offset: UInt64) {
    let fileBytes = container.status.sizeBytes
    if fileBytes % 512 == 511, fileBytes > 512 {
        let short = try container.read(count: 511, at: fileBytes - 511)
        if VHDFooter.hasCookie(short) { return (short + [0], fileBytes - 511) }
    }
    return (try container.read(count: 512, at: fileBytes - 512), fileBytes - 512)
}

/// Refuses disks of another type than the caller means to open.
func requireType(_ footer: VHDFooter, _ type: VHDFooter.DiskType, _ field: ImageField) throws(ImageError) {
    try field.require(footer.diskType == type, "disk type", at: 60, found: "\(footer.diskType.rawValue)", expected: "\(type.rawValue)",
        meaning: "the image is of another type than the one it was opened as")
}

func requireNoSavedState(_ footer: VHDFooter, access: ImageAccess, path: String) throws(ImageError) {
    guard footer.savedState, access == .readWrite else { return }
    throw .unsupported(path: path, what: "the disk belongs to a saved virtual machine, whose memory expects it unchanged",
        remedy: "start and shut down that machine first")
}
