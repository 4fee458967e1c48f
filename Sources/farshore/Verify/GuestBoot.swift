// Boots a guest from throw-away copies of its disks, with QEMU in software and without any network: good when its serial console shows what
// is asked for, in time. A picture of its screen can be kept.

import BlockIO
import Foundation
import FuseExport
import Glibc
import Site

struct GuestBoot {
    private static let consoleBytesMax = 32 << 20
    private static let answerBytesMax = 1 << 20
    private static let answerSeconds = 10

    let bench: Bench
    let options: CheckOptions

    private var consolePath: String { bench.export.place + "/console" }
    private var controlPath: String { bench.export.place + "/qmp" }

    func run(_ copies: [BenchCopy]) throws -> PointCheck.Outcome {
        if let screenshot = options.screenshot { try DurableFile.remove(absolutePath(screenshot)) }
        try DurableFile.remove(bench.export.reached(consolePath))
        let guest = try BoundedProgram(arguments(copies), on: bench.export, package: "qemu-system-x86")
        defer { guest.stop() }
        let started = Clock.monotonicNanoseconds()
        func seconds() -> String { String(format: "%.1f s", Double(Clock.monotonicNanoseconds() - started) / 1e9) }
        var isSeen = false
        while true {
            isSeen = try console().contains(options.console)
            if isSeen || guest.ending != nil || Double(Clock.monotonicNanoseconds() - started) > options.timeLimit * 1e9 { break }
            usleep(100_000)
        }
        var note = "\"\(options.console)\" on the console after \(seconds())"
        if !isSeen {
            let last = try console().split(whereSeparator: \.isNewline).last.map(String.init) ?? "nothing"
            note = guest.ending == nil ? "no \"\(options.console)\" on the console within \(seconds()); last: \(last)"
                : "the guest ended without \"\(options.console)\" on the console: \(try guest.result(within: 0).summary); last: \(last)"
        }
        if let screenshot = options.screenshot, guest.ending == nil {
            do { try keepScreen(absolutePath(screenshot)) } catch { note += "; no picture of the screen: \(error)" }
        }
        return PointCheck.Outcome(isGood: isSeen, note: note)
    }

    private func arguments(_ copies: [BenchCopy]) -> [String] {
        var words = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "\(options.memory)", "-nodefaults", "-no-user-config", "-no-reboot", "-nic", "none",
            "-display", "none", "-vga", "std", "-serial", "file:\(consolePath)", "-qmp", "unix:\(controlPath),server=on,wait=off",
        ]
        for copy in copies { words += ["-drive", "file=\(copy.image.path.replacingOccurrences(of: ",", with: ",,")),format=raw,if=virtio,cache=unsafe"] }
        return words + options.arguments
    }

    private func console() throws -> String {
        String(decoding: try DurableFile.read(bench.export.reached(consolePath), limitBytes: Self.consoleBytesMax) ?? [], as: UTF8.self).replacingOccurrences(of: "\r", with: "")
    }

    /// QMP: a greeting, then an answer to each command; events may come in between.
    private func keepScreen(_ path: String) throws {
        let socket = try SocketAddress.makeStream(timeoutSeconds: Self.answerSeconds)
        guard try SocketAddress(bench.export.reached(controlPath)).connect(socket.raw) == 0 else { throw SystemError(errno: errno, operation: "connect", path: controlPath) }
        var stream = LineStream(socket, lineBytesMax: Self.answerBytesMax)
        _ = try stream.next()
        for command in [["execute": "qmp_capabilities"], ["execute": "screendump", "arguments": ["filename": path, "format": "png"]]] as [[String: Any]] {
            try stream.send(Array(try JSONSerialization.data(withJSONObject: command)))
            while true {
                guard let line = try stream.next(), let answer = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any] else { throw LineStream.Failure.ended }
                if let error = answer["error"] as? [String: Any] { throw Failure(.failed, "QEMU: \(error["desc"] ?? error)", try: "a newer QEMU") }
                if answer["return"] != nil { break }
            }
        }
    }
}
