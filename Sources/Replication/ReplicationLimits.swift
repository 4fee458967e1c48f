// The uploader's limits, as docs/reference/limits.md states them.

package enum ReplicationLimits {
    /// Segment payload after which what was sent so far is published, so that a long backlog becomes durable step by step.
    static let publicationPayloadBytesMax: UInt64 = 64 << 20
    /// Records of one publication, for the same reason.
    static let publicationRecordsMax = 65_536
    /// How often what a log has merged is sent anew under other names, where objects from before are in the way.
    static let mergedTriesMax = 8
    /// Segments sealed and sent at the same time; each holds twice its payload in memory.
    static let segmentThreads = 2
    /// Chunks of an initial replication read, sealed and sent at the same time: each waits for its target twice.
    static let chunkThreads = 8
    /// How long a resynchronisation whose attempts fail holds the image; with a log that is half full, not at all.
    static let heldImageSecondsMax: UInt64 = 900
    /// How long the image is held at least for one of several targets, before a log that is half full of what waits to be merged ends that.
    static let heldImageSecondsMin: UInt64 = 5
    /// A target that takes nothing of a full log for so long is given up where another one keeps up, though no request has failed yet.
    static let stuckSecondsMax: UInt64 = 10
    /// A collection in the vault is noticed after this at the latest; each look is five requests.
    package static let catalogAgeSecondsMax: UInt64 = 3_600
}
