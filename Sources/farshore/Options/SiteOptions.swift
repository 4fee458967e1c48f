// `--site`: which catalogue, sockets and locks a command works with.

import ArgumentParser
import Foundation
import Glibc
import Site

struct SiteOptions: ParsableArguments {
    @Option(name: .long, help: "This host's site directory (default: FARSHORE_SITE, /var/lib/farshore for root, else $XDG_STATE_HOME/farshore).")
    var site: String?

    var directory: SiteDirectory {
        let environment = ProcessInfo.processInfo.environment
        if let path = site ?? environment["FARSHORE_SITE"], !path.isEmpty { return SiteDirectory(path: absolutePath(path)) }
        if geteuid() == 0 { return SiteDirectory(path: "/var/lib/farshore") }
        if let state = environment["XDG_STATE_HOME"], !state.isEmpty { return SiteDirectory(path: absolutePath(state) + "/farshore") }
        return SiteDirectory(path: NSHomeDirectory() + "/.local/state/farshore")
    }

    func catalogue() throws -> Catalogue {
        try Catalogue(site: directory)
    }
}

/// `path` from the root, without `.`, `..` and double slashes; symlinks are kept.
func absolutePath(_ path: String) -> String {
    URL(fileURLWithPath: path).standardizedFileURL.path
}
