// Finds the file of a parent: docs/formats/vhd.md, section "The parent". An image says where its parent is, and nobody vouches for
// the image: only regular files in the disk's folders are opened, for reading, by no way through a symbolic link.

import BlockIO
import CLinux
import Glibc

/// The folders that all files of a chain lie in, by their real paths; the first is the image's own.
struct ChainFolders: Sendable {
    private static let pathBytesMax = 4_096

    /// The real path of the image the chain begins with.
    let image: String
    let folders: [String]

    /// `image` is the path of the image the chain begins with; `named` are folders an administrator named.
    init(image: String, named: [String]) throws(ImageError) {
        self.image = try realPath(image)
        var folders = [Directory.parent(of: self.image) ?? "/"]
        for folder in named { folders.append(try realPath(folder)) }
        self.folders = folders
    }

    /// Where the parent of the image at `child` may be, likeliest first.
    func places(of link: VHDParentLink, child: String, _ container: borrowing ContainerFile) throws(ImageError) -> [String] {
        let own = Directory.parent(of: child) ?? "/"
        var places: [String] = []
        var names: [String] = []
        for use in [VHDParentLocator.Use.relativePath, .absolutePath] {
            for locator in link.locators where locator.use == use {
                guard let text = try locator.text(container), let path = HostPath(text) else { continue }
                if let whole = path.whole { places.append(path.isAbsolute ? whole : own + "/" + whole) }
                if let last = path.last { names.append(last) }
            }
        }
        if let name = link.name, let path = HostPath(name), let last = path.last { names.append(last) }
        for name in names { places += ([own] + folders).map { $0 + "/" + name } }
        var seen = Set<String>()
        return places.compactMap(Self.normal).filter { seen.insert($0).inserted }
    }

    private func holder(of path: String) -> String? {
        folders.filter { path.hasPrefix($0 == "/" ? $0 : $0 + "/") }.max { $0.utf8.count < $1.utf8.count }
    }

    /// A file put there would be found.
    func couldHold(_ path: String) -> Bool {
        holder(of: path) != nil && access(Directory.parent(of: path) ?? "/", F_OK) == 0
    }

    /// Opens the regular file at `path`, or says why not.
    func open(_ path: String) throws(ChainBreak.Reason) -> ContainerFile {
        guard let folder = holder(of: path) else { throw .outside(folders: folders) }
        let rest = String(path.dropFirst(folder == "/" ? 1 : folder.count + 1))
        let place: Descriptor
        do throws(SystemError) {
            let directory = try Descriptor.open(folder, farshore_o_path | O_DIRECTORY)
            place = try directory.openBeneath(rest, farshore_o_path)
        } catch {
            throw error.errno == ELOOP ? .symbolicLink : .system(error)
        }
        var info = stat()
        // A device or a pipe must not even be opened: that alone may do something, or wait.
        guard fstat(place.raw, &info) == 0, info.st_mode & S_IFMT == S_IFREG else { throw .noRegularFile }
        do throws(SystemError) { return try ContainerFile(try place.reopened(O_RDONLY)) } catch { throw .system(error) }
    }

    /// The path without `.`, `..` and doubled slashes; nil when it leads above the root or is no path.
    private static func normal(_ path: String) -> String? {
        guard path.utf8.count <= pathBytesMax, !path.utf8.contains(0) else { return nil }
        var parts: [Substring] = []
        for part in path.split(separator: "/") where part != "." {
            guard part == ".." else {
                parts.append(part)
                continue
            }
            guard parts.popLast() != nil else { return nil }
        }
        return parts.isEmpty ? nil : "/" + parts.joined(separator: "/")
    }
}

/// A path as an image holds it, of Windows or of Unix.
private struct HostPath {
    /// Nil where it names a place on a Windows host.
    let whole: String?
    let isAbsolute: Bool
    let last: String?

    init?(_ text: String) {
        let unix = String(text.map { $0 == "\\" ? "/" : $0 })
        let letters = Array(text.utf8.prefix(2))
        let hasDrive = letters.count == 2 && letters[1] == UInt8(ascii: ":")
        isAbsolute = unix.hasPrefix("/")
        whole = hasDrive || text.hasPrefix("\\") || unix.isEmpty ? nil : unix
        last = (hasDrive ? unix.dropFirst(2) : unix[...]).split(separator: "/").last { $0 != "." && $0 != ".." }.map(String.init)
        if whole == nil, last == nil { return nil }
    }
}

private func realPath(_ path: String) throws(ImageError) -> String {
    guard let real = realpath(path, nil) else { throw .system(SystemError(errno: errno, operation: "find the folder of", path: path)) }
    defer { free(real) }
    return String(cString: real)
}
