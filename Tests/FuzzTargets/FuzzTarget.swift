// What reads bytes that somebody else wrote, one target a kind of reader. Each takes any bytes at all and must come back: refusing
// is right, a trap, a hang, unbounded memory or an accepted image that reads differently the second time is a finding.
// `Tests/fuzz` runs them under libFuzzer, FuzzTests runs the committed corpus and seeded changes of it.

import DiskImage

package enum FuzzTarget: String, CaseIterable, Sendable {
    case imageVHD = "image-vhd"
    case imageVHDX = "image-vhdx"
    case imageQCOW2 = "image-qcow2"
    case log
    case logFiles = "log-files"
    case vault
    case vaultObject = "vault-object"
    case control
    case configuration

    /// The longest input that reaches anything new.
    package var inputBytesMax: Int {
        switch self {
        case .imageVHD, .imageVHDX, .imageQCOW2, .log, .control, .configuration: 4096
        case .vaultObject: 8192
        case .logFiles, .vault: 1024
        }
    }

    /// Throws only when the machine cannot run the target at all; a finding ends the process.
    package func run(_ input: [UInt8]) throws {
        switch self {
        case .imageVHD: try ImageInput.run(input, format: .vhdDynamic)
        case .imageVHDX: try ImageInput.run(input, format: .vhdx)
        case .imageQCOW2: try ImageInput.run(input, format: .qcow2)
        case .log: try LogInput.run(input)
        case .logFiles: try LogFilesInput.run(input)
        case .vault: try VaultInput.run(input)
        case .vaultObject: try VaultObjectInput.run(input)
        case .control: try ControlInput.run(input)
        case .configuration: try ConfigurationInput.run(input)
        }
    }

    /// Inputs that are accepted: where a campaign without a corpus begins.
    package func seeds() throws -> [[UInt8]] {
        switch self {
        case .imageVHD: try ImageInput.seeds(.vhdDynamic)
        case .imageVHDX: try ImageInput.seeds(.vhdx)
        case .imageQCOW2: try ImageInput.seeds(.qcow2)
        case .log: try LogInput.seeds()
        case .logFiles: try LogFilesInput.seeds()
        case .vault: try VaultInput.seeds()
        case .vaultObject: try VaultObjectInput.seeds()
        case .control: try ControlInput.seeds()
        case .configuration: ConfigurationInput.seeds
        }
    }
}

/// Ends the process when something that must hold does not: what a fuzzer takes for a finding.
func require(_ holds: Bool, _ what: @autoclosure () -> String) {
    precondition(holds, what())
}

/// Takes fields off the front of an input; past its end everything is zero.
struct InputBytes {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var isEmpty: Bool { rest.isEmpty }

    mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

    mutating func number(bytes count: Int) -> UInt64 { (0..<count).reduce(0) { $0 | UInt64(byte()) << UInt64(8 * $1) } }

    mutating func bytes(_ count: Int) -> [UInt8] {
        let taken = Array(rest.prefix(count))
        rest = rest.dropFirst(taken.count)
        return taken
    }

    mutating func remaining() -> [UInt8] { bytes(rest.count) }
}
