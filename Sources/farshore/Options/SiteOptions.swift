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

    /// ` --site DIR` where it was given: for a command that a person is told to type.
    var words: String { site.map { " --site \(shellWord(absolutePath($0)))" } ?? "" }

    /// `remembering`: words that the command has to be given to be the same one when it is said again.
    func catalogue(remembering words: [String] = []) throws -> Catalogue {
        try Catalogue(site: directory, command: Job.Command(folder: FileManager.default.currentDirectoryPath, words: Program.words + words))
    }
}

/// `path` from the root, without `.`, `..` and double slashes; symlinks are kept.
func absolutePath(_ path: String) -> String {
    URL(fileURLWithPath: path).standardizedFileURL.path
}

/// Where a file is to be made: the folder is there, and is called what it is called without symlinks.
func newPath(_ path: String) throws -> String {
    let wanted = URL(fileURLWithPath: path).standardizedFileURL
    let parent = wanted.deletingLastPathComponent().path
    guard !path.hasSuffix("/"), let resolved = realpath(parent, nil) else {
        throw Failure(.notFound, "\(path) names no file in a folder that is there", try: "the path of a file, in a folder that exists")
    }
    defer { free(resolved) }
    return URL(fileURLWithPath: String(cString: resolved)).appendingPathComponent(wanted.lastPathComponent).path
}
