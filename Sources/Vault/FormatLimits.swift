// The numbers of docs/formats/vault.md section 1; every reader checks against them before it allocates.

package enum FormatLimits {
    package static let formatVersion = 1
    package static let frameBytes = 65_536
    package static let frameBytesMin = 4_096
    package static let chunkBytes = 1 << 20
    package static let blockBytes = 4_096
    package static let segmentPayloadBytesMax = 32 << 20
    /// A segment is put when its payload reaches this.
    package static let segmentPayloadBytesDefault = 16 << 20
    package static let segmentRecordsMax = 131_072
    package static let segmentPlaintextBytesMax = 48 << 20
    package static let leafBlocks: UInt64 = 16_384
    package static let innerChildren = 256
    package static let mapLevelMax = 4
    package static let pageBytesMax = 1 << 20
    package static let diskBytesMax: UInt64 = 1 << 48
    package static let growthsMax = 1_024
    package static let metadataBytesMax = 64 << 20
    package static let openingObjectBytesMax = 65_536
    package static let manifestsPerFullMax = 256
    package static let payloadBytesPerFullMax: UInt64 = 1 << 30
    package static let recordsPerFullMax: UInt64 = 262_144
    package static let deltasPerRollupMax = 16
    package static let anchorInterval: UInt64 = 1_024
    package static let keptPointsMax = 65_536
    package static let pinsMax = 1_024
    package static let pinReasonBytesMax = 1_024
    package static let keyObjectsMax = 64
    package static let keyObjectGapMax = 8
    package static let tagBytesMax = 255
    package static let verdictsMax = 1_024
    package static let verdictNoteBytesMax = 1_024
    package static let hostNameBytesMax = 255
    package static let auditActorBytesMax = 255
    package static let auditDocumentBytesMax = 65_536
    package static let integerMax: UInt64 = (1 << 53) - 1
}
