// Percent coding of URLs, by UTF-8 bytes.

/// Nil when a `%` is not followed by two hex digits or the bytes are no UTF-8.
func percentDecoded(_ text: some StringProtocol) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        guard byte == UInt8(ascii: "%") else {
            bytes.append(byte)
            continue
        }
        guard let high = rest.popFirst().flatMap(hexValue), let low = rest.popFirst().flatMap(hexValue) else { return nil }
        bytes.append(high << 4 | low)
    }
    return String(validating: bytes, as: UTF8.self)
}

/// Everything but RFC 3986's unreserved characters (and `/`, when it parts folders) is written as `%XX`.
func percentEncoded(_ text: String, keepingSlash: Bool) -> String {
    var result = ""
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
            result.unicodeScalars.append(Unicode.Scalar(byte))
        case UInt8(ascii: "/") where keepingSlash:
            result += "/"
        default:
            result += "%" + hexDigits(byte, uppercase: true)
        }
    }
    return result
}

func percentEncodedPath(_ path: String) -> String { percentEncoded(path, keepingSlash: true) }

func hexString(_ bytes: some Sequence<UInt8>) -> String { bytes.map { hexDigits($0, uppercase: false) }.joined() }

private func hexDigits(_ byte: UInt8, uppercase: Bool) -> String {
    (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: uppercase)
}

func hexValue(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
}

/// As S3's lists encode keys: a blank may be `+`, a plus is always `%2B`.
func formDecoded(_ text: String) -> String? {
    percentDecoded(text.utf8.contains(UInt8(ascii: "+")) ? String(text.map { $0 == "+" ? " " : $0 }) : text)
}
