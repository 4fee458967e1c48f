// `farshore image convert`: an image copied into another format, sparse and durable; the output has its name only
// when it is whole.

import ArgumentParser
import BlockIO
import DiskImage
import Foundation

struct ImageConvert: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Copy an image into another format, sparse.",
        discussion: "Example: farshore image convert disk.vhd disk.raw --to raw")

    @Argument(help: "The image to read. It is not changed, and must not be open for writing elsewhere.")
    var input: String

    @Argument(help: "The file to make. An interrupted run leaves OUTPUT.farshore-partial, which the next one replaces.")
    var output: String

    @Option(help: "The output's format: raw, vhd-fixed, vhd-dynamic, vhdx, qcow2.")
    var to: OutputFormat = .raw

    @Option(help: "Take the input for this format instead of looking: raw, vhd-fixed, vhd-dynamic, vhd-differencing, vhdx, qcow2.")
    var from: ImageFormat?

    @OptionGroup var chain: ChainOptions

    @Flag(help: "Replace an existing output.")
    var force = false

    @OptionGroup var site: SiteOptions
    @OptionGroup var options: OutputOptions

    func run() throws {
        let (inputPath, outputPath) = (absolutePath(input), absolutePath(output))
        try requireOutputPlace(outputPath, force: force, site)
        let lock = try ImageLock.take(inputPath, for: .shared)
        let parentLocks = ParentLocks()
        let source = try openImage(locked: lock, access: .readOnly, format: from, parentFolders: chain.folders, parentLocks: parentLocks)
        let progress = Progress("convert")
        let copy = try copied(source, to: outputPath, progress)
        // Before the output gets its name: that may be the input's.
        parentLocks.release()
        try lock.release()
        try copy.finish(replacing: force)
        progress.finish()
        let made = ImageDocument(try inspectImage(outputPath, format: to.imageFormat), isInUse: false)
        try options.print(made) { "\($0.path): \($0.format), \(bytesText($0.sizeBytes)), \(bytesText($0.allocatedBytes)) on disk" }
    }

    private func copied(_ source: any ImageFile, to path: String, _ progress: Progress) throws -> OutputImage {
        let made = try OutputImage.begin(path, format: to, sizeBytes: source.sizeBytes, uniqueID: Self.randomID(), timeStamp: Self.timeStamp())
        do {
            try copyData(of: source, to: made.image) { progress.update(doneBytes: $0, totalBytes: source.sizeBytes) }
        } catch {
            try made.discard()
            throw error
        }
        return made
    }

    static func randomID() -> [UInt8] {
        var random = SystemRandomNumberGenerator()
        return (0..<16).map { _ in UInt8.random(in: 0...255, using: &random) }
    }

    /// Seconds since 2000-01-01, as a VHD counts them.
    static func timeStamp() -> UInt32 {
        UInt32(truncatingIfNeeded: Int64(Date().timeIntervalSince1970) - VHDFooter.secondsTo2000)
    }
}
