// What an L2 entry says: docs/formats/qcow2.md, section "Clusters".

enum QCOW2Cluster: Equatable, Sendable {
    /// Reads as zeros; a place may have been set aside for it.
    case zeros(reserved: UInt64?)
    /// `isOwn`: nothing else refers to the cluster, it may be written in place.
    case standard(at: UInt64, isOwn: Bool)
    case compressed(at: UInt64, bytesCount: Int)

    static let ownBit: UInt64 = 1 << 63
    static let compressedBit: UInt64 = 1 << 62
    private static let placeMask: UInt64 = 0x00FF_FFFF_FFFF_FE00

    /// Nil when bits are set that must not be.
    init?(entry: UInt64, header: QCOW2Header) {
        if entry & Self.compressedBit != 0 {
            let offsetBits = UInt64(62 - (header.clusterBits - 8))
            let offset = entry & ((1 << offsetBits) - 1)
            let sectors = (entry & (Self.compressedBit - 1)) >> offsetBits
            guard entry & Self.ownBit == 0, offset < 1 << 56 else { return nil }
            self = .compressed(at: offset, bytesCount: Int((sectors + 1) * 512 - offset % 512))
            return
        }
        let place = entry & Self.placeMask
        let isZero = entry & 1 != 0
        guard entry & ~(Self.placeMask | Self.ownBit | 1) == 0, place % header.clusterBytes == 0, !isZero || header.version == 3 else { return nil }
        guard place != 0 else {
            guard entry & Self.ownBit == 0 else { return nil }
            self = .zeros(reserved: nil)
            return
        }
        self = isZero ? .zeros(reserved: place) : .standard(at: place, isOwn: entry & Self.ownBit != 0)
    }

    /// The place of an L1 entry's table: 0 for none; nil when bits are set that must not be.
    static func tableOffset(l1Entry: UInt64, header: QCOW2Header) -> UInt64? {
        let place = l1Entry & placeMask
        return l1Entry & ~(placeMask | ownBit) == 0 && place % header.clusterBytes == 0 ? place : nil
    }

    /// The bytes of the file it takes.
    func fileRange(_ header: QCOW2Header) -> Range<UInt64>? {
        switch self {
        case .zeros(let reserved): reserved.map { $0..<$0 + header.clusterBytes }
        case .standard(let place, _): place..<place + header.clusterBytes
        case .compressed(let place, let count): place..<place + UInt64(count)
        }
    }
}
