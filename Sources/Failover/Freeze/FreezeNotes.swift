// Which machines may be at rest because of us: one small JSON file each in the site's folder `frozen`, written before a machine is
// asked to rest, removed when it runs on. Whoever serves the site next thaws what it finds there.

package import BlockIO
import Foundation
package import Vault

package struct FreezeNotes: Sendable {
    private static let noteBytesMax = 64 << 10
    private let folder: String

    private struct Note: Codable {
        let version: Int
        let machine: String
        let freeze: MachineSettings.Freeze
    }

    package init(folder: String) { self.folder = folder }

    package func write(_ machine: String, _ freeze: MachineSettings.Freeze) throws {
        try Directory.create(folder, mode: 0o700)
        try DurableFile.replace(path(machine), with: Array(try JSONEncoder().encode(Note(version: 1, machine: machine, freeze: freeze))))
    }

    package func remove(_ machine: String) throws(SystemError) { try DurableFile.remove(path(machine)) }

    /// What can be read of them, and what is wrong with the others.
    package func all() throws(SystemError) -> (found: [(machine: String, freeze: MachineSettings.Freeze)], problems: [String]) {
        let names: [String]
        do throws(SystemError) { names = try Directory.list(folder) } catch where error.errno == ENOENT { return ([], []) }
        var (found, problems): ([(machine: String, freeze: MachineSettings.Freeze)], [String]) = ([], [])
        for name in names where name.hasSuffix(".json") {
            guard let bytes = try DurableFile.read("\(folder)/\(name)", limitBytes: Self.noteBytesMax) else { continue }
            guard let note = try? JSONDecoder().decode(Note.self, from: Data(bytes)), note.version == 1, path(note.machine) == "\(folder)/\(name)" else {
                problems.append("\(folder)/\(name) cannot be read: the machine may have been left at rest; thaw it by hand, then remove the file")
                continue
            }
            found.append((note.machine, note.freeze))
        }
        return (found, problems)
    }

    private func path(_ machine: String) -> String { "\(folder)/\(machine).json" }
}
