// `raw-export DIR IMAGE…`: a supervisor with a worker that serves raw files, for the tests of FuseExport and for
// comparing reader threads with fio. Not installed. Its version is its file's name, so that a copy under another name is
// another version; one called dies-… passes its trial and then does not serve.

import BlockIO
import FuseExport
import Glibc

@main
struct RawExport {
    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        guard arguments.count >= 2 || arguments == ["--trial"] else {
            log("usage: raw-export DIR IMAGE… [--allow-other]")
            exit(2)
        }
        do {
            if arguments[0] == "--trial" {
                _ = try SlotMemory(descriptor: 3)
                print(version)
            } else if arguments[0] == "--worker" {
                try work(directory: arguments[1], images: Array(arguments.dropFirst(2)))
            } else {
                try supervise(directory: arguments[0], images: arguments.dropFirst().filter { !$0.hasPrefix("--") || $0 == "--die" || $0 == "--late" }, options: arguments.filter { $0.hasPrefix("--") })
            }
        } catch {
            log("\(error)")
            exit(1)
        }
    }

    @Sendable static func log(_ text: String) {
        let line = Array("raw-export: \(text)\n".utf8)
        _ = write(STDERR_FILENO, line, line.count)
    }

    static var version: String {
        guard let path = realpath("/proc/self/exe", nil) else { return "?" }
        defer { free(path) }
        return String(String(cString: path).split(separator: "/").last ?? "?")
    }

    /// The value of `--NAME=VALUE`.
    static func option(_ name: String, _ options: [String]) -> String? {
        options.first { $0.hasPrefix("--\(name)=") }.map { String($0.dropFirst(name.utf8.count + 3)) }
    }

    static func supervise(directory: String, images: [String], options: [String]) throws {
        Supervisor.blockSignals()
        let mount = try FuseMount.mount(at: directory, allowOther: options.contains("--allow-other"))
        let plan = SupervisorPlan(
            workerArguments: ["--worker", mount.directory] + images, trialArguments: ["--trial"], version: version,
            programPath: option("program", options) ?? "/proc/self/exe", hangSeconds: option("hang-seconds", options).flatMap { Int($0) },
            workerStandardError: nil, log: log, onReady: { print("ready"); fflush(nil) },
            onNotice: { log("notice: \($0)") })
        try Supervisor(mount: mount, locks: HeldLocks(), plan: plan).run()
    }

    static func work(directory: String, images: [String]) throws {
        let process = try WorkerProcess(locks: InheritedLocks([])!, log: log)
        if images.first == "--die" || version.hasPrefix("dies-") { kill(getpid(), SIGKILL) }
        let tree = ExportTree()
        // Serves without ever having said so.
        let isLate = images.contains("--late") && process.slots.traffic().requests == 0
        for image in images where image != "--late" {
            let isWritable = !image.hasPrefix("ro:")
            let path = isWritable ? image : String(image.dropFirst(3))
            let name = String(path.split(separator: "/").last!.split(separator: ".")[0])
            let disk: RawDisk
            do throws(SystemError) {
                disk = try RawDisk(path: path, name: name, isWritable: isWritable, spareReaders: process.spareReaders)
            } catch {
                process.refuse(WorkerRefusal(status: 11, message: "\(error)", remedy: "name a raw image"))
                exit(11)
            }
            let folder = try tree.addDirectory(name)
            // Not a real footer: the tests look for these bytes behind the disk's.
            let footer = Array("conectix".utf8) + [UInt8](repeating: 0x5A, count: 504)
            try tree.addDisk(LazyDisk { disk }, in: folder, sizeBytes: disk.sizeBytes, isWritable: isWritable, vhdFooter: footer)
            try tree.setSymlink("link-to-\(name)", to: "\(name)/disk.raw", in: ExportTree.root)
        }
        try process.start(tree)
        if !isLate { process.ready() }
        let end = process.wait(directory: directory)
        if case .failed(let error) = end { throw error }
    }
}
