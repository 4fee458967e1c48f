// SHA-256, HMAC-SHA-256 and MD5 by OpenSSL, as targets' signatures and checksums want them.

import COpenSSL

package enum Digests {
    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { digest("SHA256", bytes, count: 32) }

    /// Only ever a transport checksum.
    package static func md5(_ bytes: [UInt8]) -> [UInt8] { digest("MD5", bytes, count: 16) }

    static func hmacSHA256(key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 32)
        var length: UInt32 = 0
        let made = HMAC(EVP_sha256(), key, Int32(key.count), message, message.count, &result, &length)
        precondition(made != nil && length == 32, "OpenSSL has no HMAC-SHA-256")
        return result
    }

    private static func digest(_ name: String, _ bytes: [UInt8], count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        var length = 0
        let done = EVP_Q_digest(nil, name, nil, bytes, bytes.count, &result, &length)
        precondition(done == 1 && length == count, "OpenSSL has no \(name)")
        return result
    }
}

/// As `Content-MD5` wants it.
func base64(_ bytes: [UInt8]) -> String {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
        let group = bytes[start..<min(start + 3, bytes.count)]
        let bits = group.reduce(0) { $0 << 8 | UInt32($1) } << UInt32(8 * (3 - group.count))
        for index in 0..<4 {
            text.append(index <= group.count ? alphabet[Int(bits >> UInt32(18 - 6 * index) & 63)] : UInt8(ascii: "="))
        }
    }
    return String(decoding: text, as: UTF8.self)
}
