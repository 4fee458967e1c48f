// What the control socket carries: one JSON object a line each way, one request and one reply a connection at a time.
// The worker of the mount answers; the CLI and the uploader ask.
// They are no contract: both ends are of one version. A request over `controlRequestBytesMax` or one that does not parse is answered with `refused` and the connection ends.

package let controlRequestBytesMax = 64 << 10
/// A status of 10,000 disks fits.
package let controlReplyBytesMax = 4 << 20

package enum ControlRequest: Codable, Equatable, Sendable {
    /// State of the mount and of every disk it serves, and why it does not serve the others.
    case status
    /// Cuts one recovery point over `disks` (empty: all that are served) and all that share points with them, by one number.
    /// `isApp`: the machines come to rest for it.
    case cut(disks: [String], tag: String?, isApp: Bool)
    /// Flushes the disk's log; the reply states the sequence through which it may be uploaded.
    case makeDurable(disk: String)
    /// Destages through a sequence and holds the image still there, durably, until `unfreeze`.
    case freeze(disk: String)
    case unfreeze(disk: String)
    /// Prepares the disk for its new size, durably; the worker's successor serves it with that.
    case grow(disk: String, sizeBytes: UInt64)
    /// The log keeps what these targets lack, and nothing for others.
    case setTargets(disk: String, targets: [String])
    /// Starts serving a disk that was added to the catalogue after the mount started.
    case add(disk: String)
    /// Stops serving a disk and gives up its locks (unprotect).
    case release(disk: String)
}

package enum ControlReply: Codable, Equatable, Sendable {
    case status([ServedDiskStatus], refused: [RefusedDisk], mount: MountStatus)
    /// `left`: why disks were left out, when none was named, and why the point is not app-consistent though it was to be.
    case points([CutPoint], left: [String])
    case durable(sequence: UInt64)
    case frozen(sequence: UInt64)
    case done
    case refused(ControlRefusal)
}

/// Why a request was not carried out, and what to do.
package struct ControlRefusal: Codable, Equatable, Sendable {
    package enum Reason: String, Codable, Sendable {
        case garbled, noSuchDisk, unsupported, diskFailed, notEnoughSpace, busy
    }
    package let reason: Reason
    package let message: String
    package let remedy: String

    package init(_ reason: Reason, _ message: String, remedy: String) {
        self.reason = reason
        self.message = message
        self.remedy = remedy
    }
}

/// What the mount did since it appeared, all its workers together, and what it uses of the kernel.
package struct MountStatus: Codable, Equatable, Sendable {
    package let requests: UInt64
    package let readBytes: UInt64
    package let writtenBytes: UInt64
    /// Writes that came through shared mappings, which make the kernel run all direct writes of a file one by one.
    package let mappedWrites: UInt64
    package let failedRequests: UInt64
    /// Fewer and smaller than usual where the locked-memory limit is low.
    package let requestsAtOnce: Int
    package let requestBytesMax: Int
    package let hasParallelWrites: Bool
    package let hasAsynchronousDirectIO: Bool
    package let allowsSharedMappings: Bool
    /// Whether a successor would be started if the worker ended.
    package let hasSupervisor: Bool

    package init(
        requests: UInt64, readBytes: UInt64, writtenBytes: UInt64, mappedWrites: UInt64, failedRequests: UInt64, requestsAtOnce: Int,
        requestBytesMax: Int, hasParallelWrites: Bool, hasAsynchronousDirectIO: Bool, allowsSharedMappings: Bool, hasSupervisor: Bool
    ) {
        self.requests = requests
        self.readBytes = readBytes
        self.writtenBytes = writtenBytes
        self.mappedWrites = mappedWrites
        self.failedRequests = failedRequests
        self.requestsAtOnce = requestsAtOnce
        self.requestBytesMax = requestBytesMax
        self.hasParallelWrites = hasParallelWrites
        self.hasAsynchronousDirectIO = hasAsynchronousDirectIO
        self.allowsSharedMappings = allowsSharedMappings
        self.hasSupervisor = hasSupervisor
    }
}

/// A protected disk that the mount could not open.
package struct RefusedDisk: Codable, Equatable, Sendable {
    package let disk: String
    package let reason: String
    package let remedy: String

    package init(disk: String, reason: String, remedy: String) {
        self.disk = disk
        self.reason = reason
        self.remedy = remedy
    }
}

/// A recovery point as it was cut: in the log, not yet in a vault.
package struct CutPoint: Codable, Equatable, Sendable {
    package let disk: String
    package let sequence: UInt64
    package let timeNanoseconds: UInt64
    package let tag: String?
    package let isAppConsistent: Bool

    package init(disk: String, sequence: UInt64, timeNanoseconds: UInt64, tag: String?, isAppConsistent: Bool) {
        self.isAppConsistent = isAppConsistent
        self.disk = disk
        self.sequence = sequence
        self.timeNanoseconds = timeNanoseconds
        self.tag = tag
    }
}

/// How far the image of a recovery disk is filled from its point.
package struct FillingStatus: Codable, Equatable, Sendable {
    package let sequence: UInt64
    /// Data of the point; nil until it was counted.
    package let totalBytes: UInt64?
    /// Of it, what is in the image for sure; nil for a test, which is not filled.
    package let doneBytes: UInt64?
    /// What the image holds: filled in, or written since.
    package let localBytes: UInt64
    package let problem: String?

    package init(sequence: UInt64, totalBytes: UInt64?, doneBytes: UInt64?, localBytes: UInt64, problem: String?) {
        self.sequence = sequence
        self.totalBytes = totalBytes
        self.doneBytes = doneBytes
        self.localBytes = localBytes
        self.problem = problem
    }
}

/// A served disk as its owner sees it.
package struct ServedDiskStatus: Codable, Equatable, Sendable {
    package enum Health: String, Codable, Sendable { case normal, warning, critical }

    package let disk: String
    package let sizeBytes: UInt64
    package let lastSequence: UInt64
    package let flushedSequence: UInt64
    package let destagedSequence: UInt64
    package let frozenSequence: UInt64?
    package let logBytes: UInt64
    package let logBudgetBytes: UInt64
    package let undestagedBytes: UInt64
    package let unreplicatedBytes: UInt64
    package let health: Health
    package let reason: String?
    package let remedy: String?
    /// Nil for a disk that stands alone.
    package let filling: FillingStatus?
    /// Writes get ENOSPC until the vault has more; nil from a mount of an earlier release.
    package let waitsForVault: Bool?

    package init(
        disk: String, sizeBytes: UInt64, lastSequence: UInt64, flushedSequence: UInt64, destagedSequence: UInt64,
        frozenSequence: UInt64?, logBytes: UInt64, logBudgetBytes: UInt64, undestagedBytes: UInt64, unreplicatedBytes: UInt64, health: Health,
        reason: String?, remedy: String?, filling: FillingStatus? = nil, waitsForVault: Bool = false
    ) {
        self.waitsForVault = waitsForVault
        self.filling = filling
        self.disk = disk
        self.sizeBytes = sizeBytes
        self.lastSequence = lastSequence
        self.flushedSequence = flushedSequence
        self.destagedSequence = destagedSequence
        self.frozenSequence = frozenSequence
        self.logBytes = logBytes
        self.logBudgetBytes = logBudgetBytes
        self.undestagedBytes = undestagedBytes
        self.unreplicatedBytes = unreplicatedBytes
        self.health = health
        self.reason = reason
        self.remedy = remedy
    }
}
