// The change logs that lie in folders of this host, found without a catalogue: each says which disk it is of, which vaults get it, and how
// far it goes.

import BlockIO
package import ChangeLog
import Foundation
package import Replication

package struct FoundLog: Sendable {
    package let folder: LogFolder
    package let state: LogState
    /// Nil in logs that only earlier releases used.
    package let registration: DiskRegistration?
    /// Of its newest record, durable or not.
    package let newestSequence: UInt64

    init(_ folder: LogFolder) throws {
        let reader = try LogReader(folder)
        var newest = reader.state.destagedSequence
        try reader.headers(after: newest) { newest = max(newest, $0.sequence) }
        self.folder = folder
        state = reader.state
        registration = try DiskRegistration.load(folder, of: reader.state.diskID)
        newestSequence = newest
    }
}

package struct LogSearch: Sendable {
    /// How deep below a folder given logs are looked for.
    package static let depthMax = 5

    package private(set) var logs: [FoundLog] = []
    /// Folders that look like a log and cannot be read as one.
    package private(set) var unreadable: [(folder: String, reason: String)] = []

    /// Looks through folders and what is below them, by no symbolic link; not below `except`, and not inside of logs.
    package init(_ folders: [String], except: String) throws {
        var seen: Set<String> = []
        for folder in folders { try look(in: folder, depth: 0, except, &seen) }
    }

    private mutating func look(in folder: String, depth: Int, _ except: String, _ seen: inout Set<String>) throws {
        guard folder != except || depth == 0, seen.insert(folder).inserted else { return }
        let log = LogFolder(folder)
        if access(log.stateFile, F_OK) == 0 {
            do { logs.append(try FoundLog(log)) } catch { unreadable.append((folder, "\(error)")) }
            return
        }
        guard depth < Self.depthMax else { return }
        for name in try list(folder, isGiven: depth == 0) {
            let path = folder + "/" + name
            var info = stat()
            guard lstat(path, &info) == 0, info.st_mode & S_IFMT == S_IFDIR else { continue }
            try look(in: path, depth: depth + 1, except, &seen)
        }
    }

    private mutating func list(_ folder: String, isGiven: Bool) throws(SystemError) -> [String] {
        do throws(SystemError) { return try Directory.list(folder) } catch {
            if isGiven { throw error }
            if error.errno != ENOENT { unreadable.append((folder, "\(error)")) }
            return []
        }
    }
}
