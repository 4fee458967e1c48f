// A differencing disk whose parent was not found: which, and where it was looked for.

package import BlockIO

package struct ChainBreak: Equatable, Sendable {
    package indirect enum Reason: Error, Equatable, Sendable {
        case outside(folders: [String])
        case symbolicLink
        case noRegularFile
        case otherDisk(uniqueID: [UInt8])
        /// It says that it is the parent, and is not the file that the disk was read through so far.
        case notHeld
        case noImage(ImageError)
        case system(SystemError)
    }

    package struct Place: Equatable, Sendable {
        package let path: String
        package let reason: Reason
    }

    /// The image whose parent is missing.
    package let child: String
    /// As the child calls it.
    package let name: String?
    package let uniqueID: [UInt8]
    package let tried: [Place]

    package var message: String {
        let parent = name.flatMap { $0.isEmpty ? nil : "\"\($0.prefix(256))\"" } ?? "without a name"
        let places = tried.isEmpty ? "the image names no place" : "looked for at " + tried.map { "\($0.path) (\($0.reason.text))" }.joined(separator: ", ")
        return "\(child): broken chain: its parent \(parent), id \(uuidText(uniqueID)), is missing; \(places)".shown
    }

    package var remedy: String {
        let isOutside = tried.contains { if case .outside = $0.reason { true } else { false } }
        let folder = "name its folder with --parent-dir (of a disk that is protected already: farshore unprotect DISK once its chain is whole, and protect it again)"
        let places = tried.filter(\.canHoldTheParent).map(\.path.shown)
        guard !places.isEmpty else {
            return tried.isEmpty ? "make the image again from its chain with the program that made it: no name of the parent is left in it" : folder
        }
        return "bring the parent back, unchanged, to \(places.joined(separator: " or "))" + (isOutside ? "; or \(folder)" : "")
    }
}

extension ChainBreak.Place {
    /// A file that is put there is opened as the parent.
    fileprivate var canHoldTheParent: Bool {
        switch reason {
        case .outside, .symbolicLink: false
        case .noRegularFile, .otherDisk, .noImage, .notHeld, .system: true
        }
    }
}

extension ChainBreak.Reason {
    fileprivate var text: String {
        switch self {
        case .outside(let folders): "outside of \(folders.joined(separator: ", "))"
        case .symbolicLink: "a symbolic link is on the way"
        case .noRegularFile: "no regular file"
        case .otherDisk(let uniqueID): "another disk, id \(uuidText(uniqueID))"
        case .notHeld: "another file than the disk is served from"
        case .noImage(let error): "\(error)"
        case .system(let error): error.errno == 2 ? "no such file" : "\(error)"
        }
    }
}

package func uuidText(_ bytes: [UInt8]) -> String {
    var text = ""
    for (index, byte) in bytes.enumerated() {
        if [4, 6, 8, 10].contains(index) { text += "-" }
        text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    return text
}
