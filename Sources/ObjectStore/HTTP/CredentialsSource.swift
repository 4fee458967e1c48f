// Credentials in use. Their source is read again when the target refuses them, so a renewed key or token in a file is
// taken up without a restart.

import BlockIO
import Synchronization

package final class CredentialsSource<Keys: Equatable & Sendable>: Sendable {
    private let read: @Sendable () throws(StoreError) -> Keys
    private let inUse: Mutex<Keys>

    init(read: @escaping @Sendable () throws(StoreError) -> Keys) throws(StoreError) {
        self.read = read
        inUse = Mutex(try read())
    }

    var current: Keys { inUse.withLock { $0 } }

    /// Reads the source again; true when it now holds other credentials than `refused`.
    func renew(after refused: Keys) throws(StoreError) -> Bool {
        let fresh = try read()
        inUse.withLock { $0 = fresh }
        return fresh != refused
    }
}

/// Nil when there is no such file.
func credentialsText(_ path: String) throws(StoreError) -> String? {
    do throws(SystemError) {
        return try DurableFile.read(path, limitBytes: 1 << 20).map { String(decoding: $0, as: UTF8.self) }
    } catch {
        throw StoreError(.credentialsRefused, error.description, try: "make the credentials file readable for this user")
    }
}

/// Credentials go into headers, so a stray line feed or byte beyond ASCII must not.
func checkCredential(_ value: String, from source: String) throws(StoreError) {
    guard !value.utf8.contains(where: { $0 <= 0x20 || $0 >= 0x7F }) else {
        throw StoreError(.credentialsRefused, "the credentials from \(source) hold a space or a special character", try: "write them again")
    }
}
