// Images that are read through another one: whoever changes that one changes what they show. Only files beside it are looked at, so
// this finds what lies there and proves nothing about other folders. Asked before an image is brought to another state. Of an image that
// is known, `isImage` tells more: it is opened, wherever its parents lie.

package import BlockIO
import Glibc

/// Paths of the images beside `path` that name it: differencing VHDs as their parent, qcow2 images as their backing file.
package func imageChildren(of path: String) throws(SystemError) -> [String] {
    let folder = Directory.parent(of: path) ?? "."
    let (own, uniqueID) = (realPath(path), vhdUniqueID(path))
    var found: [String] = []
    for name in try Directory.list(folder).sorted() {
        let candidate = folder + "/" + name
        guard let real = realPath(candidate), real != own, isRegular(real) else { continue }
        // What cannot be read as an image is none that reads through another.
        guard let container = try? ContainerFile.open(real, access: .readOnly), let format = try? probeFormat(container) else { continue }
        switch format {
        case .vhdDifferencing:
            let link = (try? readDynamicLayout(container, .differencing))?.header.parent
            if let uniqueID, link?.uniqueID == uniqueID { found.append(candidate) }
        case .qcow2:
            if let backing = backingFile(container, folder), realPath(backing) == own { found.append(candidate) }
        case .raw, .vhdFixed, .vhdDynamic, .vhdx: continue
        }
    }
    return found
}

/// Whether the image at `image`, which is of that format, is read through the file at `path`.
package func isImage(_ image: String, _ format: ImageFormat, parentFolders: [String], readThrough path: String) throws(SystemError) -> Bool {
    guard format == .vhdDifferencing else { return false }
    do throws(ImageError) {
        return try inspectImage(image, format: format, parentFolders: parentFolders).parents.contains { isSameFile($0.path, path) }
    } catch {
        // Of a chain that does not open only what lies beside the file can be told.
        return try imageChildren(of: path).contains { isSameFile($0, image) }
    }
}

private func vhdUniqueID(_ path: String) -> [UInt8]? {
    guard let container = try? ContainerFile.open(path, access: .readOnly), let format = try? probeFormat(container) else { return nil }
    switch format {
    case .vhdFixed: return try? readFixedFooter(container).uniqueID
    case .vhdDynamic, .vhdDifferencing: return try? readTrueFooter(container).footer.uniqueID
    case .raw, .vhdx, .qcow2: return nil
    }
}

/// The name in a qcow2 header, from the image's folder on.
private func backingFile(_ container: borrowing ContainerFile, _ folder: String) -> String? {
    guard let header = try? container.read(count: 20, at: 0) else { return nil }
    let (offset, count) = header.withUnsafeBytes { ($0.getBE(UInt64.self, at: 8), $0.getBE(UInt32.self, at: 16)) }
    guard offset > 0, (1...1023).contains(count), let name = try? container.read(count: Int(count), at: offset) else { return nil }
    let text = String(decoding: name, as: UTF8.self)
    return text.hasPrefix("/") ? text : folder + "/" + text
}

private func isRegular(_ path: String) -> Bool {
    var info = stat()
    return stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFREG
}

private func realPath(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
}
