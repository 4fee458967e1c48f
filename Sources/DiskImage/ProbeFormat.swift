// What a file holds, told from its first and last sector. Where the two contradict each other the caller is asked,
// never guessed for: see docs/formats/vhd.md, section "Probing".

import BlockIO

/// The format of a file that nobody gave one for. What it shows is believed, but no further than the file itself: a guest may have
/// written it into a raw disk. So another file is read through it only where its own name says that it is a VHD.
func formatWithoutName(_ container: borrowing ContainerFile) throws(ImageError) -> ImageFormat {
    let format = try probeFormat(container)
    let name = container.path.lowercased()
    if format == .raw, container.status.kind == .regular, container.status.sizeBytes > 0 { try refusePromise(of: name, container.path) }
    guard format != .vhdDifferencing || name.hasSuffix(".vhd") || name.hasSuffix(".avhd") else {
        let why = "a guest can write that into a raw disk, so its parent is not opened"
        throw .unsupported(path: container.path, what: "it looks like a differencing VHD, and its name does not end in .vhd or .avhd: \(why)",
            remedy: "--from vhd-differencing if it is one, --from raw if it is a guest's disk")
    }
    return format
}

/// Taken for a raw disk, an image that lost what told its format would be served as it lies in the file, tables and all.
private func refusePromise(of name: String, _ path: String) throws(ImageError) {
    let promises: [(ending: String, format: String, lost: String)] = [
        (".vhd", "VHD", "footer, at its end or at its beginning"), (".avhd", "VHD", "footer, at its end or at its beginning"),
        (".vhdx", "VHDX", "file identifier"), (".avhdx", "VHDX", "file identifier"), (".qcow2", "qcow2 image", "header"),
        (".vmdk", "VMDK", "header"), (".vdi", "VDI", "header"),
    ]
    guard let promise = promises.first(where: { name.hasSuffix($0.ending) }) else { return }
    throw .unsupported(
        path: path, what: "its name promises a \(promise.format), but it has no \(promise.lost) of one: it was cut or overwritten, or is a raw image with that name",
        remedy: "a copy from before it was damaged; if it is a raw image: --from raw, or another name")
}

/// The format of an open image. Formats that are known but not served are refused by name.
func probeFormat(_ container: borrowing ContainerFile) throws(ImageError) -> ImageFormat {
    let (path, status) = (container.path, container.status)
    guard status.kind == .regular, status.sizeBytes >= 512 else { return .raw }
    let first = try container.read(count: 512, at: 0)
    let last = try readLastFooter(container).bytes
    if first.starts(with: Array("vhdxfile".utf8)) { return .vhdx }
    // Version 1 of that name is another format.
    if first.starts(with: QCOW2Header.magic), first[4...7] != [0, 0, 0, 1] { return .qcow2 }
    try refuseOtherFormats(first, path: path)
    let endsAsFixed = VHDFooter.hasCookie(last) && footerType(last) != 3 && footerType(last) != 4
    if VHDFooter.hasCookie(first) {
        guard !endsAsFixed || status.sizeBytes == 512 else { throw ambiguous(path, "it starts as a dynamic VHD and ends as a fixed one") }
        return footerType(first) == VHDFooter.DiskType.differencing.rawValue ? .vhdDifferencing : .vhdDynamic
    }
    guard VHDFooter.hasCookie(last) else { return .raw }
    guard endsAsFixed else { throw ambiguous(path, "its last sector is the footer of a dynamic VHD, its first sector is not the copy of it") }
    return .vhdFixed
}

private func footerType(_ bytes: [UInt8]) -> UInt32 {
    bytes.withUnsafeBytes { $0.getBE(UInt32.self, at: 60) }
}

private func ambiguous(_ path: String, _ why: String) -> ImageError {
    .unsupported(path: path, what: "the image's format cannot be told: \(why)", remedy: "name the format: --from with raw, vhd-fixed, vhd-dynamic, vhd-differencing, vhdx or qcow2")
}

private func refuseOtherFormats(_ first: [UInt8], path: String) throws(ImageError) {
    let others: [(magic: [UInt8], offset: Int, name: String)] = [
        (QCOW2Header.magic, 0, "qcow"), (Array("KDMV".utf8), 0, "VMDK"),
        (Array("QED\0".utf8), 0, "QED"), ([0x7F, 0x10, 0xDA, 0xBE], 64, "VDI"),
    ]
    for other in others where Array(first[other.offset..<other.offset + other.magic.count]) == other.magic {
        throw .unsupported(path: path, what: "a \(other.name) image: not supported", remedy: "qemu-img convert -O raw \(path) OUT.raw")
    }
}
