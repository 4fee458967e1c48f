// Names that an image or a folder holds were written by anybody. Shown as they are they could paint a terminal, or put a line of their
// own into an event; the name itself stays as it is, for whoever opens the file.

extension String {
    /// On one line, in the order it is read: control characters, line separators and marks of direction as `\u{1b}`. What is shown
    /// already stays the same.
    package var shown: String {
        guard unicodeScalars.contains(where: \.actsOnTheReader) else { return self }
        return unicodeScalars.reduce(into: "") { text, scalar in
            if scalar.actsOnTheReader {
                text += "\\u{" + String(scalar.value, radix: 16) + "}"
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
    }
}

extension Unicode.Scalar {
    fileprivate var actsOnTheReader: Bool {
        switch value {
        case 0...0x1F, 0x7F...0x9F, 0x61C, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069: true
        default: false
        }
    }
}
