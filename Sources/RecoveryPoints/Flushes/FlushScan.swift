// Finds flush boundaries: sequences up to which all was durable when a later record took its place. They ride in the
// "flushed sequence" of those later records (docs/formats/change-log.md), so records are looked at from the newest back.
// Pure: fed from a vault's segments (FlushWalk) or from a change log (`point list`).

package struct FlushBoundary: Equatable, Sendable {
    package let sequence: UInt64
    /// When the newest record up to it was made: the state holds nothing written later.
    package let wallNanoseconds: UInt64

    package init(sequence: UInt64, wallNanoseconds: UInt64) {
        self.sequence = sequence
        self.wallNanoseconds = wallNanoseconds
    }
}

package struct FlushScan: Sendable {
    /// Boundaries that a record told of and whose own newest record is still to come; falling.
    private var awaited: ArraySlice<UInt64> = []
    private var lowest = UInt64.max
    private var hidden: [Range<UInt64>] = []

    package init() {}

    /// Of this interval only the end can be had: no boundary between is told of. Call before the records below the end are taken.
    package mutating func hide(after: UInt64, through: UInt64) {
        if after < through { hidden.append(after + 1..<through) }
    }

    package func isHidden(_ sequence: UInt64) -> Bool { hidden.contains { $0.contains(sequence) } }

    /// A boundary known from elsewhere; lower than all before.
    package mutating func add(_ sequence: UInt64) {
        guard sequence < lowest, sequence > 0 else { return }
        awaited.append(sequence)
        lowest = sequence
    }

    /// Takes the next older record; the boundary it is the newest record of, if any. Boundaries with no record between
    /// them are one state, which is found once.
    package mutating func take(sequence: UInt64, flushed: UInt64, wallNanoseconds: UInt64) -> FlushBoundary? {
        var found: FlushBoundary?
        while let next = awaited.first, next >= sequence {
            if found == nil, !isHidden(next) { found = FlushBoundary(sequence: next, wallNanoseconds: wallNanoseconds) }
            awaited.removeFirst()
        }
        // Within one history the field never falls; one that claims to vouch for its own record is none.
        if flushed < sequence { add(flushed) }
        return found
    }
}

/// What a person asked to see of the boundaries: bounded, however many there are.
package struct FlushQuery: Sendable {
    package var fromSequence: UInt64 = 0
    package var throughSequence = UInt64.max
    package var fromNanoseconds: UInt64 = 0
    package var throughNanoseconds = UInt64.max
    /// The newest so many.
    package var limit = 1_000
    /// At most one, the newest, of each step of wall time; 0 for all.
    package var stepNanoseconds: UInt64 = 0

    package init() {}

    package func includes(sequence: UInt64, wallNanoseconds: UInt64) -> Bool {
        (fromSequence...max(fromSequence, throughSequence)).contains(sequence) && sequence <= throughSequence
            && wallNanoseconds >= fromNanoseconds && wallNanoseconds <= throughNanoseconds
    }
}

/// The newest boundaries that fit a query.
package struct FlushPage: Sendable {
    package let query: FlushQuery
    /// Newest first.
    package private(set) var boundaries: [FlushBoundary] = []
    /// Older ones fit too.
    package private(set) var hasMore = false

    package init(_ query: FlushQuery) { self.query = query }

    /// Takes the next older boundary; false when no older one is wanted.
    package mutating func offer(_ boundary: FlushBoundary) -> Bool {
        guard boundary.sequence >= query.fromSequence else { return false }
        guard query.includes(sequence: boundary.sequence, wallNanoseconds: boundary.wallNanoseconds), !isInStepOfLast(boundary) else { return true }
        guard boundaries.count < query.limit else {
            hasMore = true
            return false
        }
        boundaries.append(boundary)
        return true
    }

    /// One page of what several histories hold; a boundary they share counts once.
    package static func merged(_ pages: [FlushPage], _ query: FlushQuery) -> FlushPage {
        var merged = FlushPage(query)
        for boundary in pages.flatMap(\.boundaries).sorted(by: { $0.sequence > $1.sequence }) where boundary.sequence != merged.boundaries.last?.sequence {
            guard merged.offer(boundary) else { break }
        }
        merged.hasMore = merged.hasMore || pages.contains(where: \.hasMore)
        return merged
    }

    private func isInStepOfLast(_ boundary: FlushBoundary) -> Bool {
        guard query.stepNanoseconds > 0, let last = boundaries.last else { return false }
        return boundary.wallNanoseconds / query.stepNanoseconds == last.wallNanoseconds / query.stepNanoseconds
    }
}
