// Why an image was refused. A damaged one is named down to the field, its offset, what was found and what would be
// right; the command line turns these into exit statuses.

package import BlockIO

package enum ImageError: Error, Equatable, Sendable {
    /// A field of the image contradicts the format, the file or another field.
    case damaged(ImageDamage)
    /// A sound image that this version does not serve, or not in the way that was asked for; one beyond a limit of ours too.
    case unsupported(path: String, what: String, remedy: String)
    /// A differencing disk whose parent is not to be found.
    case brokenChain(ChainBreak)
    /// Another program holds the image.
    case inUse(path: String)
    case system(SystemError)

    /// Of a directory, a FIFO or another thing that holds no image.
    static func noImageFile(_ path: String) -> ImageError {
        .unsupported(path: path, what: "neither a file nor a block device", remedy: "name the image file itself")
    }
}

package struct ImageDamage: Equatable, Sendable {
    package let path: String
    /// The field's name in docs/formats/vhd.md: `dynamic header, block size`.
    package let field: String
    /// Where the field lies in the file, in bytes.
    package let offset: UInt64
    package let found: String
    package let expected: String
    /// What it means for the person who owns the image.
    package let meaning: String

    package init(path: String, field: String, offset: UInt64, found: String, expected: String, meaning: String) {
        self.path = path
        self.field = field
        self.offset = offset
        self.found = found
        self.expected = expected
        self.meaning = meaning
    }
}

extension ImageError: CustomStringConvertible {
    package var description: String { text.shown }

    private var text: String {
        switch self {
        case .damaged(let damage):
            "\(damage.path): \(damage.field) at byte \(damage.offset): found \(damage.found), expected \(damage.expected): \(damage.meaning)"
        case .unsupported(let path, let what, _):
            "\(path): \(what)"
        case .brokenChain(let broken):
            broken.message
        case .inUse(let path):
            "\(path): in use by another program (QEMU or Farshore)"
        case .system(let error):
            "\(error)"
        }
    }
}

/// Runs a call whose only failures are the system's.
func asImageError<Result: ~Copyable>(_ call: () throws(SystemError) -> Result) throws(ImageError) -> Result {
    do throws(SystemError) { return try call() } catch { throw .system(error) }
}
