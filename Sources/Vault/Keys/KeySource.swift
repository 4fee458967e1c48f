// What a person gives to open a vault: a passphrase, a key file, or a recovery kit (docs/formats/vault.md section 3).

import BlockIO
import Foundation
import Glibc

package enum KeySource: Sendable {
    case none
    case passphrase([UInt8])
    /// The 32 bytes of a key file.
    case keyFile([UInt8])
    case kit(RecoveryKit)

    var hint: String {
        switch self {
        case .none: "none"
        case .passphrase: "passphrase"
        case .keyFile, .kit: "key-file"
        }
    }

    /// Reads a key file: 32 bytes, 64 hex digits, base64 of 32 bytes, or a recovery kit.
    package static func keyFile(path: String) throws(VaultError) -> KeySource {
        let bytes = try content(path)
        if bytes.count == 32 { return .keyFile(bytes) }
        let text = String(decoding: bytes, as: UTF8.self)
        if let kit = try RecoveryKit(text: text, path: path) { return .kit(kit) }
        let trimmed = text.trimmingCharacters(in: .whitespacesAndNewlines)
        if let key = Hex.decode(trimmed.lowercased()), key.count == 32 { return .keyFile(key) }
        if let key = Data(base64Encoded: trimmed), key.count == 32 { return .keyFile(Array(key)) }
        throw .wrongKey("\(path) is no key file: it must hold 32 bytes, 64 hex digits, the base64 of 32 bytes, or a recovery kit")
    }

    package static func passphraseFile(path: String) throws(VaultError) -> KeySource {
        var bytes = try content(path)
        if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
        if bytes.last == UInt8(ascii: "\r") { bytes.removeLast() }
        guard !bytes.isEmpty else { throw .wrongKey("\(path) holds no passphrase") }
        return .passphrase(bytes)
    }

    /// A fresh key as the text of a key file.
    package static func newKeyFileText() -> String { Hex.encode(Randomness.bytes(32)) + "\n" }

    private static func content(_ path: String) throws(VaultError) -> [UInt8] {
        var info = stat()
        // Before it is opened, which would wait for somebody to write.
        if stat(path, &info) == 0, info.st_mode & S_IFMT != S_IFREG {
            throw .refused("\(path) is a pipe, terminal, directory or device; a key or passphrase is read from a file, for it may be read again (mode 0600; below /dev/shm or /run it reaches no disk)")
        }
        do {
            if let bytes = try DurableFile.read(path, limitBytes: FormatLimits.openingObjectBytesMax) { return bytes }
        } catch {
            throw .refused("\(error)")
        }
        throw .noKeyFile(path: path)
    }
}

/// Where a key is read from.
package struct KeyFiles: Sendable {
    private let keyFile: String?
    private let passphraseFile: String?

    package init(keyFile: String?, passphraseFile: String?) {
        self.keyFile = keyFile
        self.passphraseFile = passphraseFile
    }

    /// Without a file there is no key.
    package func read() throws(VaultError) -> KeySource {
        if let keyFile { return try .keyFile(path: keyFile) }
        if let passphraseFile { return try .passphraseFile(path: passphraseFile) }
        return .none
    }
}
