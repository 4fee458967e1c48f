// Writes a recovery point into an image: several regions at a time, holes left holes, every frame authenticated before
// a byte of it is written. The image gets its name only when it is whole and durable. Called by `farshore restore`.

package import BlockIO
package import DiskImage
import Foundation
package import Vault

package enum RestoreError: Error, CustomStringConvertible {
    case vault(VaultError)
    case image(ImageError)
    case system(SystemError)

    package var description: String {
        switch self {
        case .vault(let error): "\(error)"
        case .image(let error): "\(error)"
        case .system(let error): "\(error)"
        }
    }
}

package struct Restore: Sendable {
    package struct Outcome: Sendable {
        /// Bytes of data written by this run; the rest were holes or done before.
        package let writtenBytes: UInt64
        package let resumedBytes: UInt64
    }

    static let regionBytes: UInt64 = 8 << 20
    static let threads = 6
    /// How often what was written is flushed and noted as done.
    private static let checkpointNanoseconds: UInt64 = 2_000_000_000
    /// The unit in which zeros inside data are left out.
    private static let grainBytes = 65_536

    private let reader: PointReader
    private let path: String
    private let format: OutputFormat
    private let progress: @Sendable (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void

    package init(
        reader: PointReader, path: String, format: OutputFormat, progress: @escaping @Sendable (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void
    ) {
        self.reader = reader
        self.path = path
        self.format = format
        self.progress = progress
    }

    private var statePath: String { path + OutputImage.restoreSuffix }
    private var regionCount: UInt64 { (reader.sizeBytes + Self.regionBytes - 1) / Self.regionBytes }

    /// `timeStamp` (seconds since 2000) goes into a VHD's footer. Without `replacing`, an existing file at the path is refused.
    package func run(timeStamp: UInt32, replacing: Bool) throws(RestoreError) -> Outcome {
        let job = RestoreState.Job(
            vault: reader.sources.vault.id.description, disk: reader.disk.description, sequence: reader.sequence, sizeBytes: reader.sizeBytes,
            imageFormat: format.rawValue, regionBytes: Self.regionBytes)
        let earlier = try onFile { () throws(SystemError) in try RestoreState.load(statePath, job: job) }
        let output = try begin(timeStamp: timeStamp, resume: earlier != nil)
        var state = RestoreState(job: job)
        if output.isResumed, let earlier { state = earlier }
        let work = RestoreWork(done: state.regions(below: regionCount), regions: regionCount)
        let resumed = work.doneCount * Self.regionBytes
        try copy(output.image, work, &state)
        do { try output.finish(replacing: replacing) } catch { throw .image(error) }
        try onFile { () throws(SystemError) in try DurableFile.remove(statePath) }
        return Outcome(writtenBytes: work.writtenBytes, resumedBytes: min(resumed, reader.sizeBytes))
    }

    private func begin(timeStamp: UInt32, resume: Bool) throws(RestoreError) -> OutputImage {
        let id = pointImageID(vault: reader.sources.vault.id, disk: reader.disk, sequence: reader.sequence, format: format)
        do {
            return try OutputImage.begin(path, format: format, sizeBytes: reader.sizeBytes, uniqueID: id, timeStamp: timeStamp, resume: resume)
        } catch {
            throw .image(error)
        }
    }

    private func copy(_ image: any ImageFile, _ work: RestoreWork, _ state: inout RestoreState) throws(RestoreError) {
        var threads: [OwnThread] = []
        // Each ends when nothing is left, or after the first failure.
        defer { for thread in threads { thread.join() } }
        for _ in 0..<Self.threads {
            do throws(SystemError) {
                threads.append(try OwnThread(name: "restore") { [self] in
                    work.runThread { region throws(RestoreError) in try copyRegion(region, image) }
                })
            } catch {
                work.stop(.system(error))
            }
        }
        var lastSave = Clock.monotonicNanoseconds()
        while work.waitForProgress(milliseconds: 200) {
            progress(min(work.doneCount * Self.regionBytes, reader.sizeBytes), reader.sizeBytes)
            if Clock.monotonicNanoseconds() - lastSave > Self.checkpointNanoseconds {
                try checkpoint(image, work, &state)
                lastSave = Clock.monotonicNanoseconds()
            }
        }
        try checkpoint(image, work, &state)
        if let failure = work.failure { throw failure }
        progress(reader.sizeBytes, reader.sizeBytes)
    }

    /// The set of done regions is taken before the flush: what it holds is durable after it.
    private func checkpoint(_ image: any ImageFile, _ work: RestoreWork, _ state: inout RestoreState) throws(RestoreError) {
        let done = work.done
        do throws(RestoreError) {
            try onFile { () throws(SystemError) in try image.flush() }
            state.set(done)
            let noted = state
            try onFile { () throws(SystemError) in try noted.save(statePath) }
        } catch {
            work.stop(error)
            while work.waitForProgress(milliseconds: 200) {}
            throw error
        }
    }

    private func copyRegion(_ region: UInt64, _ image: any ImageFile) throws(RestoreError) -> RestoreWork.Found {
        let start = region * Self.regionBytes
        let end = min(start + Self.regionBytes, reader.sizeBytes)
        var written: UInt64 = 0
        var position = start
        var buffer: [UInt8] = []
        while position < end {
            // A hole is followed to its end, which may be many regions away; data only to the end of this region.
            guard let data = try onVault({ () throws(VaultError) in try reader.next(data: true, from: position) }) else {
                return RestoreWork.Found(writtenBytes: written, nextRegion: regionCount)
            }
            guard data < end else { return RestoreWork.Found(writtenBytes: written, nextRegion: data / Self.regionBytes) }
            let hole = try onVault { () throws(VaultError) in try reader.next(data: false, from: data, before: end) } ?? end
            if buffer.count < Int(hole - data) { buffer = [UInt8](repeating: 0, count: Int(Self.regionBytes)) }
            written += try buffer.withMutableBytes { bytes throws(RestoreError) in
                let part = UnsafeMutableRawBufferPointer(rebasing: bytes[..<Int(hole - data)])
                try onVault { () throws(VaultError) in try reader.read(into: part, at: data) }
                return try onFile { () throws(SystemError) in try writeData(UnsafeRawBufferPointer(part), at: data, image) }
            }
            position = hole
        }
        return RestoreWork.Found(writtenBytes: written, nextRegion: region + 1)
    }

    /// Writes what is not zero, in runs of whole grains.
    private func writeData(_ bytes: UnsafeRawBufferPointer, at offset: UInt64, _ image: any ImageFile) throws(SystemError) -> UInt64 {
        var written: UInt64 = 0
        var position = 0
        while position < bytes.count {
            var end = position
            while end < bytes.count {
                let grain = UnsafeRawBufferPointer(rebasing: bytes[end..<min(end + Self.grainBytes, bytes.count)])
                if grain.isAllZero { break }
                end += grain.count
            }
            if end > position {
                try image.write(UnsafeRawBufferPointer(rebasing: bytes[position..<end]), at: offset + UInt64(position))
                written += UInt64(end - position)
            }
            position = max(end, position) + (end < bytes.count ? min(Self.grainBytes, bytes.count - end) : 0)
        }
        return written
    }

    private func onVault<Value>(_ call: () throws(VaultError) -> Value) throws(RestoreError) -> Value {
        do { return try call() } catch { throw .vault(error) }
    }

    private func onFile<Value>(_ call: () throws(SystemError) -> Value) throws(RestoreError) -> Value {
        do { return try call() } catch { throw .system(error) }
    }
}

extension UnsafeRawBufferPointer {
    var isAllZero: Bool {
        var index = 0
        while index + 8 <= count {
            if loadUnaligned(fromByteOffset: index, as: UInt64.self) != 0 { return false }
            index += 8
        }
        while index < count {
            if self[index] != 0 { return false }
            index += 1
        }
        return true
    }
}
