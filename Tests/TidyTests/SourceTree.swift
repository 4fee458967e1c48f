// The checkout as the house rules see it: every Swift file with its room and its lines.

import Foundation

struct SourceFile {
    /// Relative to the checkout: `Sources/ChangeLog/Segment.swift`.
    let path: String
    let lines: [String]

    var room: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
    var isTest: Bool { path.hasPrefix("Tests/") }
}

struct SourceTree {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    let files: [SourceFile]

    init() throws {
        var found: [SourceFile] = []
        for folder in ["Sources", "Tests"] {
            let base = Self.root.appending(path: folder)
            guard let walk = FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil) else { continue }
            for case let file as URL in walk where file.pathExtension == "swift" {
                let relative = folder + "/" + file.path.dropFirst(base.path.count + 1)
                let text = try String(contentsOf: file, encoding: .utf8)
                found.append(SourceFile(path: relative, lines: text.components(separatedBy: "\n")))
            }
        }
        files = found.sorted { $0.path < $1.path }
    }

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    static func paths(under folder: String, endingIn suffix: String) -> [String] {
        let base = root.appending(path: folder)
        guard let walk = FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil) else { return [] }
        return walk.compactMap { ($0 as? URL)?.path }.filter { $0.hasSuffix(suffix) }.map { String($0.dropFirst(root.path.count + 1)) }.sorted()
    }
}
