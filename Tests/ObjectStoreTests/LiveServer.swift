// Real servers for the suites: started by the scripts in Tests/servers at first use, once a test run, and ended by
// themselves when this process ends, however it ends.

import Foundation
import ObjectStore
import Testing

struct LiveServer: Sendable {
    let values: [String: String]

    static let rgw = Result { try LiveServer(script: "ceph-rgw") }
    static let moto = Result { try LiveServer(script: "moto") }
    static let azure = Result { try LiveServer(script: "azure-blob") }

    /// A missing tool skips a suite here, but fails it where CI=true promises that all tools are there.
    static func isInstalled(_ tool: String) -> Bool {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        return ProcessInfo.processInfo.environment["CI"] == "true"
            || path.split(separator: ":").contains { FileManager.default.isExecutableFile(atPath: "\($0)/\(tool)") }
    }

    private init(script: String) throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("farshore-\(script)-\(UUID().uuidString)").path
        values = try Self.run(script, ["start", directory, "\(ProcessInfo.processInfo.processIdentifier)"])
    }

    /// Runs a script of Tests/servers and returns the KEY=value lines it prints.
    static func run(_ script: String, _ arguments: [String]) throws -> [String: String] {
        let lines = try output(script, arguments)
        return Dictionary(uniqueKeysWithValues: lines.map { line in
            let equals = line.firstIndex(of: "=") ?? line.endIndex
            return (String(line[..<equals]), String(line[equals...].dropFirst()))
        })
    }

    /// The lines that it prints.
    static func output(_ script: String, _ arguments: [String]) throws -> [String] {
        let servers = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("servers")
        let process = Process()
        process.executableURL = servers.appendingPathComponent(script)
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let lines = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self).split(separator: "\n").map(String.init)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw DidNotStart(script: script, status: process.terminationStatus) }
        return lines
    }

    /// Credentials of a role of Ceph's, refused after `seconds`.
    func temporaryEnvironment(seconds: Int) throws -> [String: String] {
        let made = try Self.run("s3-admin", ["assume-role", self["STS_ENDPOINT"], self["ROLE"], "\(seconds)", self["ACCESS_KEY"], self["SECRET_KEY"]])
        return ["AWS_ACCESS_KEY_ID": made["ACCESS_KEY"] ?? "", "AWS_SECRET_ACCESS_KEY": made["SECRET_KEY"] ?? "", "AWS_SESSION_TOKEN": made["SESSION_TOKEN"] ?? ""]
    }

    struct DidNotStart: Error { let script: String, status: Int32 }

    subscript(_ name: String) -> String { values[name] ?? "" }

    var environment: [String: String] { ["AWS_ACCESS_KEY_ID": self["ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": self["SECRET_KEY"]] }

    /// A place of its own in the server's bucket.
    func url(prefix: String = "test-\(UUID().uuidString)", bucket: String? = nil, endpoint: String? = nil, more: String = "") -> String {
        "s3://\(bucket ?? self["BUCKET"])/\(prefix)?endpoint=\(endpoint ?? self["ENDPOINT"])&region=\(self["REGION"])\(more)"
    }

    func freshStore() throws -> any ObjectStore { try openStore(url: url(), environment: environment) }
}
