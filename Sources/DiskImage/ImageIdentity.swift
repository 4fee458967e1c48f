// Tells whether an image was changed while nobody watched: taken at a clean stop, compared at the next start.
// A file's size and change time are exact. Of a chain the parents' sizes and times of modification count too: many disks may share
// them, and their owners and links may change without harm. A block device has no change time, so blocks are sampled: best effort, a
// small change between the samples is missed.

package import BlockIO
import CLinux
import Glibc

package struct ImageIdentity: Equatable, Sendable {
    package enum Evidence: UInt8, Sendable {
        /// `stamp` is the file's change time in nanoseconds since 1970.
        case changeTime = 1
        /// `stamp` is a hash of sampled blocks.
        case sampledBlocks = 2
        /// `stamp` is a hash of the image's change time and of its parents' sizes and times of modification.
        case chain = 3
        /// The name stood for another file than the one that was used: no image has this identity.
        case replaced = 4
    }

    package let evidence: Evidence
    package let sizeBytes: UInt64
    package let stamp: UInt64

    package init(evidence: Evidence, sizeBytes: UInt64, stamp: UInt64) {
        self.evidence = evidence
        self.sizeBytes = sizeBytes
        self.stamp = stamp
    }

    /// The identity now. Take it after the last flush, and write nothing to the image afterwards.
    package init(of path: String) throws(SystemError) {
        try self.init(of: Self.open(path))
    }

    private init(of descriptor: borrowing Descriptor) throws(SystemError) {
        let status = try descriptor.status()
        sizeBytes = status.sizeBytes
        if status.kind == .blockDevice {
            evidence = .sampledBlocks
            stamp = try Self.sample(descriptor, sizeBytes: status.sizeBytes)
        } else {
            evidence = .changeTime
            stamp = UInt64(bitPattern: status.changeTimeNanoseconds)
        }
    }

    /// The identity of an image and what it is read through (`ImageFile.files`).
    package init(of files: [OpenedFile]) throws(SystemError) {
        let image = try ImageIdentity(of: files[0].path)
        guard files.count > 1 else {
            self = image
            return
        }
        let stamp = try Self.hashParents(files, from: Self.hash([image.stamp], from: Self.hashStart))
        self.init(evidence: .chain, sizeBytes: image.sizeBytes, stamp: stamp)
    }

    /// Of the parents alone, which nobody writes to: it tells of a change also where no clean stop did. Nil without parents.
    package static func parentsStamp(of files: [OpenedFile]) throws(SystemError) -> UInt64? {
        files.count > 1 ? try hashParents(files, from: hashStart) : nil
    }

    private static func hashParents(_ files: [OpenedFile], from start: UInt64) throws(SystemError) -> UInt64 {
        var hash = start
        for parent in files.dropFirst() {
            let descriptor = try open(parent.path)
            // What is remembered must be what is found after a power loss, and the time may be only in memory yet.
            do throws(SystemError) { try descriptor.sync() } catch {
                // A file system that cannot be written to has nothing to sync, and some say so.
                guard error.errno == EINVAL || error.errno == EROFS else { throw error }
            }
            let status = try descriptor.status()
            hash = Self.hash([status.sizeBytes, UInt64(bitPattern: status.modificationTimeNanoseconds)], from: hash)
        }
        return hash
    }

    /// The identity at a clean stop, as it will also be found after a power loss: flushing data leaves the change time
    /// of the file to the kernel, which may write it much later.
    package static func durable(of files: [OpenedFile]) throws(SystemError) -> ImageIdentity {
        let descriptor = try open(files[0].path)
        try descriptor.sync()
        return try ImageIdentity(of: files)
    }

    /// The same of an image without parents, by the very file that is open.
    package static func durable(of image: borrowing Descriptor) throws(SystemError) -> ImageIdentity {
        try image.sync()
        return try ImageIdentity(of: image)
    }

    /// The name may have been given to a pipe meanwhile, and opening that would wait for its other end.
    private static func open(_ path: String) throws(SystemError) -> Descriptor {
        let place = try Descriptor.open(path, farshore_o_path)
        var info = stat()
        guard fstat(place.raw, &info) == 0 else { throw SystemError(errno: errno, operation: "stat", path: path) }
        guard info.st_mode & S_IFMT == S_IFREG || info.st_mode & S_IFMT == S_IFBLK else {
            throw SystemError(errno: EINVAL, operation: "use what is neither a file nor a block device", path: path)
        }
        return try place.reopened(O_RDONLY)
    }

    private static let sampleBytes = 4096
    /// The first 1 MiB and a little: partition tables and the superblocks at the usual places change with any use.
    private static let firstBlocks: UInt64 = 272
    private static let spreadBlocks: UInt64 = 512

    /// FNV-1a over the first blocks and over blocks spread evenly up to the last.
    private static func sample(_ descriptor: borrowing Descriptor, sizeBytes: UInt64) throws(SystemError) -> UInt64 {
        let blocks = sizeBytes / UInt64(sampleBytes)
        let block = AlignedBuffer(count: sampleBytes)
        var hash = hashStart
        for sample in 0..<(firstBlocks + spreadBlocks) where blocks > 0 {
            let number = sample < firstBlocks ? min(sample, blocks - 1) : (blocks - 1) * (sample - firstBlocks) / (spreadBlocks - 1)
            try descriptor.read(into: block.bytes, at: number * UInt64(sampleBytes))
            for byte in block.bytes { hash = (hash ^ UInt64(byte)) &* hashPrime }
        }
        return hash
    }

    private static let hashStart: UInt64 = 0xCBF2_9CE4_8422_2325
    private static let hashPrime: UInt64 = 0x0000_0100_0000_01B3

    private static func hash(_ numbers: [UInt64], from start: UInt64) -> UInt64 {
        var hash = start
        for number in numbers {
            for shift in stride(from: UInt64(0), to: 64, by: 8) { hash = (hash ^ (number >> shift & 0xFF)) &* hashPrime }
        }
        return hash
    }
}
