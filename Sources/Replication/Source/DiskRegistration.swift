// What the catalogue of a site alone knows of a disk, kept in the folder of its log too (docs/formats/change-log.md, `registration`): with it and
// the vault a site that lost its catalogue is rebuilt. Written by the mount and the uploader, whichever sees a change first.

package import ChangeLog
import BlockIO
import Foundation
package import Site
import Synchronization
import Vault

package struct DiskRegistration: Codable, Equatable, Sendable {
    private static let formatVersion = 1
    private static let bytesMax = 1 << 20

    private let format: Int
    package let vault: String
    package let disk: String
    package let name: String
    package let image: String
    package let imageFormat: String
    package let parentFolders: [String]
    private let role: String
    package let isPaused: Bool
    private let policy: PolicyWords

    package init(_ disk: ProtectedDisk) {
        format = Self.formatVersion
        (vault, self.disk, name, image) = (disk.vaultID, disk.id, disk.name, disk.imagePath)
        (imageFormat, parentFolders, role, isPaused) = (disk.format, disk.parentFolders, disk.role.rawValue, disk.isPaused)
        policy = PolicyWords(disk.policy)
    }

    /// Nil where there is none. Throws where it cannot be read, is of another disk than the log, or holds what no catalogue would.
    package static func load(_ folder: LogFolder, of disk: LogID) throws(LogError) -> DiskRegistration? {
        let path = folder.registrationFile
        let bytes: [UInt8]?
        do throws(SystemError) { bytes = try DurableFile.read(path, limitBytes: bytesMax) } catch { throw .system(error) }
        guard let bytes else { return nil }
        guard let found = try? JSONDecoder().decode(DiskRegistration.self, from: Data(bytes)) else { throw .invalidFile(path: path, reason: "not a registration") }
        guard found.format == formatVersion else { throw .unsupportedVersion(path: path, found: "\(found.format)") }
        guard found.disk == disk.description else { throw .invalidFile(path: path, reason: "it is of another disk") }
        guard ProtectedDisk.Role(rawValue: found.role) != nil, (try? found.protectedPolicy()) != nil else { throw .invalidFile(path: path, reason: "a role or policy in it is none") }
        return found
    }

    package var diskRole: ProtectedDisk.Role { ProtectedDisk.Role(rawValue: role) ?? .source }

    package func protectedPolicy() throws(SiteError) -> Policy { try policy.policy() }

    /// Durable. Only into the log of that very disk: its volume may not be mounted.
    package func store(_ folder: LogFolder) throws {
        guard try folder.readState().diskID.description == disk else { throw LogError.invalidFile(path: folder.stateFile, reason: "it is of another disk than \(name)") }
        if let known = try? Self.load(folder, of: folder.readState().diskID), known == self { return }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try DurableFile.replace(folder.registrationFile, with: [UInt8](encoder.encode(self)))
    }
}

/// Keeps the registrations of a site's disks as its catalogue is.
package final class DiskRegistrations: Sendable {
    /// What was stored, or failed, last; by the disk's id.
    private let noted = Mutex<[String: DiskRegistration]>([:])

    package init() {}

    /// What could not be stored, by the disk's name; told once for each change of a disk.
    package func note(_ disks: [ProtectedDisk]) -> [(disk: String, error: any Error)] {
        noted.withLock { noted in
            disks.compactMap { disk in
                let registration = DiskRegistration(disk)
                let folder = LogFolder(disk.logFolder)
                let isKnown = noted[disk.id] == registration
                // Gone with the log that a failback ended, or it could not be stored.
                guard !isKnown || disk.state == .protected && access(folder.registrationFile, F_OK) != 0 else { return nil }
                noted[disk.id] = registration
                do { try registration.store(folder) } catch { return isKnown ? nil : (disk.name, error) }
                return nil
            }
        }
    }
}
