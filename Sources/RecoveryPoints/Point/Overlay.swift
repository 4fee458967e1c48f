// The records of segments over a map, flattened: for each block the newest record that touches it. Built once when a
// point is opened, without a payload.

package import Vault

package struct Overlay: Sendable {
    /// Rising, not overlapping.
    package let extents: [MapExtent]

    package static let none = Overlay(extents: [])

    private init(extents: [MapExtent]) { self.extents = extents }

    /// `segments` rise; records above `through` are left out.
    package init(_ segments: [SegmentChanges], through: UInt64) {
        var layers: [MapExtent] = []
        for segment in segments {
            for change in segment.changes where change.sequence <= through {
                layers.append(MapExtent(
                    startBlock: change.startBlock, blockCount: change.blockCount, source: change.sourceBlock == nil ? nil : .segment(segment.id),
                    sourceBlock: change.sourceBlock ?? 0))
            }
        }
        extents = Self.flattened(layers)
    }

    /// Later layers cover earlier ones. A sweep over the disk: at each border the newest layer still open shows.
    package static func flattened(_ layers: [MapExtent]) -> [MapExtent] {
        let order = layers.indices.sorted { layers[$0].startBlock < layers[$1].startBlock }
        var open = NewestFirst()
        var result: [MapExtent] = []
        var next = 0
        var position: UInt64 = 0
        while next < order.count || !open.isEmpty {
            while let top = open.newest, layers[top].startBlock + layers[top].blockCount <= position { open.removeNewest() }
            guard let top = open.newest else {
                guard next < order.count else { break }
                position = layers[order[next]].startBlock
                while next < order.count, layers[order[next]].startBlock == position {
                    open.insert(order[next])
                    next += 1
                }
                continue
            }
            let layer = layers[top]
            var end = layer.startBlock + layer.blockCount
            // Up to the next start nothing newer can appear.
            if next < order.count { end = min(end, layers[order[next]].startBlock) }
            if end > position {
                let skipped = UInt32(position - layer.startBlock)
                append(&result, MapExtent(
                    startBlock: position, blockCount: end - position, source: layer.source, sourceBlock: layer.source == nil ? 0 : layer.sourceBlock + skipped))
                position = end
            }
            while next < order.count, layers[order[next]].startBlock == position {
                open.insert(order[next])
                next += 1
            }
        }
        return result
    }

    /// Joins pieces of one layer that a covered start had split.
    private static func append(_ result: inout [MapExtent], _ piece: MapExtent) {
        if let last = result.last, last.startBlock + last.blockCount == piece.startBlock, last.source == piece.source,
            piece.source == nil || UInt64(last.sourceBlock) + last.blockCount == UInt64(piece.sourceBlock)
        {
            result[result.count - 1] = MapExtent(
                startBlock: last.startBlock, blockCount: last.blockCount + piece.blockCount, source: last.source, sourceBlock: last.sourceBlock)
        } else {
            result.append(piece)
        }
    }

    /// The first extent that ends behind `block`.
    package func extent(from block: UInt64) -> MapExtent? {
        var low = 0
        var high = extents.count
        while low < high {
            let middle = (low + high) / 2
            if extents[middle].startBlock + extents[middle].blockCount > block { high = middle } else { low = middle + 1 }
        }
        return low < extents.count ? extents[low] : nil
    }
}

/// A heap of layer numbers with the highest, the newest, on top.
struct NewestFirst {
    private var heap: [Int] = []

    var isEmpty: Bool { heap.isEmpty }
    var newest: Int? { heap.first }

    mutating func insert(_ layer: Int) {
        heap.append(layer)
        var child = heap.count - 1
        while child > 0, heap[(child - 1) / 2] < heap[child] {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func removeNewest() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var largest = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && heap[child] > heap[largest] { largest = child }
            if largest == parent { return }
            heap.swapAt(parent, largest)
            parent = largest
        }
    }
}
