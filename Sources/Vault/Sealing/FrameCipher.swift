// One frame under one key: AES-256-GCM, or SHA-256 where the vault is not encrypted. One instance serves one object
// on one thread; the key schedule is computed once.

import COpenSSL

/// How the frames of a vault are protected; the value is the cipher byte of the object header.
package enum VaultCipher: UInt8, Sendable {
    case none = 0
    case aes256GCM = 1

    package var name: String { self == .none ? "none" : "aes-256-gcm" }
    var tagBytes: Int { self == .none ? 32 : 16 }
}

struct FrameCipher: ~Copyable {
    private let cipher: VaultCipher
    private let context: OpaquePointer?
    private let associated: [UInt8]

    /// `key` is 32 bytes, and empty for `none`. `associated` is what every frame is bound to.
    init(_ cipher: VaultCipher, key: [UInt8], associated: [UInt8], sealing: Bool) {
        self.cipher = cipher
        self.associated = associated
        guard cipher == .aes256GCM else {
            context = nil
            return
        }
        context = EVP_CIPHER_CTX_new()
        let ok = EVP_CipherInit_ex(context, EVP_aes_256_gcm(), nil, key, nil, sealing ? 1 : 0)
        precondition(ok == 1 && key.count == 32, "libcrypto has no AES-256-GCM")
    }

    deinit { EVP_CIPHER_CTX_free(context) }

    /// Writes the sealed `body` and its tag to `output`, which has room for `body.count + tagBytes`.
    func seal(_ body: UnsafeRawBufferPointer, frame: UInt32, into output: UnsafeMutableRawBufferPointer) {
        let bytes = output.baseAddress!.assumingMemoryBound(to: UInt8.self)
        guard let context else {
            if body.count > 0 { output.copyMemory(from: body) }
            hash(body, frame: frame).withUnsafeBytes { output.baseAddress!.advanced(by: body.count).copyMemory(from: $0.baseAddress!, byteCount: 32) }
            return
        }
        var count: Int32 = 0
        var ok = EVP_CipherInit_ex(context, nil, nil, nil, Self.nonce(frame), 1)
        ok &= EVP_CipherUpdate(context, nil, &count, associated, Int32(associated.count))
        if body.count > 0 { ok &= EVP_CipherUpdate(context, bytes, &count, body.baseAddress!.assumingMemoryBound(to: UInt8.self), Int32(body.count)) }
        ok &= EVP_CipherFinal_ex(context, bytes + body.count, &count)
        ok &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, 16, bytes + body.count)
        precondition(ok == 1, "libcrypto cannot seal")
    }

    /// Writes the body of `stored` to `output` (`stored.count - tagBytes` bytes); false when it is not what was sealed here.
    func open(_ stored: UnsafeRawBufferPointer, frame: UInt32, into output: UnsafeMutableRawBufferPointer) -> Bool {
        guard stored.count >= cipher.tagBytes, output.count >= stored.count - cipher.tagBytes else { return false }
        let body = UnsafeRawBufferPointer(rebasing: stored[..<(stored.count - cipher.tagBytes)])
        let tag = UnsafeRawBufferPointer(rebasing: stored[(stored.count - cipher.tagBytes)...])
        guard let context else {
            guard hash(body, frame: frame).elementsEqual(tag) else { return false }
            if body.count > 0 { output.copyMemory(from: body) }
            return true
        }
        var count: Int32 = 0
        var ok = EVP_CipherInit_ex(context, nil, nil, nil, Self.nonce(frame), 0)
        ok &= EVP_CipherUpdate(context, nil, &count, associated, Int32(associated.count))
        let target = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        if body.count > 0 { ok &= EVP_CipherUpdate(context, target, &count, body.baseAddress!.assumingMemoryBound(to: UInt8.self), Int32(body.count)) }
        ok &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, 16, UnsafeMutableRawPointer(mutating: tag.baseAddress!))
        guard ok == 1 else { return false }
        var end = [UInt8](repeating: 0, count: 16)
        return EVP_CipherFinal_ex(context, &end, &count) == 1
    }

    private func hash(_ body: UnsafeRawBufferPointer, frame: UInt32) -> [UInt8] {
        withUnsafeBytes(of: frame.littleEndian) { number in
            associated.withUnsafeBytes { Digest.sha256($0, number, body) }
        }
    }

    private static func nonce(_ frame: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: frame >> UInt32(8 * $0)) } + [UInt8](repeating: 0, count: 8)
    }
}
