// Hashes and key derivation by OpenSSL. A failure here means libcrypto cannot work at all (no memory, a FIPS policy
// without the algorithm): it is an error of the call, never a wrong result.

import COpenSSL

package enum Digest {
    static func sha256(_ parts: UnsafeRawBufferPointer...) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        let context = EVP_MD_CTX_new()
        defer { EVP_MD_CTX_free(context) }
        var ok = EVP_DigestInit_ex(context, EVP_sha256(), nil)
        for part in parts where ok == 1 { ok = EVP_DigestUpdate(context, part.baseAddress, part.count) }
        if ok == 1 { ok = EVP_DigestFinal_ex(context, &digest, nil) }
        precondition(ok == 1, "libcrypto cannot compute SHA-256")
        return digest
    }

    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { sha256($0) } }

    static func md5(_ bytes: [UInt8]) -> [UInt8]? {
        var digest = [UInt8](repeating: 0, count: 16)
        guard EVP_Digest(bytes, bytes.count, &digest, nil, EVP_md5(), nil) == 1 else { return nil }
        return digest
    }

    static func hmacSHA256(key: [UInt8], _ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        var length: UInt32 = 0
        let result = HMAC(EVP_sha256(), key, Int32(key.count), bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count, &digest, &length)
        precondition(result != nil && length == 32, "libcrypto cannot compute HMAC-SHA256")
        return digest
    }

    static func hmacSHA256(key: [UInt8], _ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { hmacSHA256(key: key, $0) } }

    /// HKDF (RFC 5869) with SHA-256.
    static func hkdf(_ secret: [UInt8], salt: [UInt8], info: String, count: Int) -> [UInt8] {
        let extracted = hmacSHA256(key: salt, secret)
        var output: [UInt8] = []
        var block: [UInt8] = []
        var counter: UInt8 = 1
        while output.count < count {
            block = hmacSHA256(key: extracted, block + Array(info.utf8) + [counter])
            output += block
            counter += 1
        }
        return Array(output[..<count])
    }

    /// scrypt (RFC 7914), or nil when libcrypto refuses the parameters or has no memory for them.
    static func scrypt(_ secret: [UInt8], salt: [UInt8], n: UInt64, r: UInt64, p: UInt64, count: Int) -> [UInt8]? {
        var output = [UInt8](repeating: 0, count: count)
        let memoryBytesMax: UInt64 = 128 * n * r + 128 * r * p + (16 << 20)
        let result = secret.withUnsafeBytes { bytes in
            EVP_PBE_scrypt(bytes.baseAddress?.assumingMemoryBound(to: CChar.self), secret.count, salt, salt.count, n, r, p, memoryBytesMax, &output, count)
        }
        return result == 1 ? output : nil
    }
}

enum Randomness {
    /// Random bytes for keys, salts and ids. Without randomness nothing may be sealed, so there is no error to handle.
    static func bytes(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        precondition(RAND_bytes(&bytes, Int32(count)) == 1, "the system has no randomness")
        return bytes
    }
}
