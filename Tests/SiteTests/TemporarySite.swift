// A site in a temporary directory that goes away with the test.

import Foundation
import Site

final class TemporarySite {
    let directory: SiteDirectory

    init() throws {
        let path = FileManager.default.temporaryDirectory.path + "/farshore-site-" + UUID().uuidString
        directory = SiteDirectory(path: path)
        try directory.create()
    }

    deinit { try? FileManager.default.removeItem(atPath: directory.path) }

    func catalogue() throws -> Catalogue { try Catalogue(site: directory) }
}

func makeDisk(_ name: String) -> ProtectedDisk {
    ProtectedDisk(
        name: name, id: String(repeating: "0", count: 32 - name.utf8.count) + name, imagePath: "/images/\(name)", format: "raw",
        sizeBytes: 1 << 30, logFolder: "/logs/\(name)", logBudgetBytes: 1 << 28,
        vaultURL: "file:///vault", vaultID: "v", keyFile: "/keys/k", passphraseFile: nil)
}
