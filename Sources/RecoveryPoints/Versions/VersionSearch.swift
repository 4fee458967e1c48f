// The versions of something on a disk along its recovery points, from the newest back: a point is looked at only when what the last look
// had read of the disk was written since. Pure: what a look is, and what it has read, the caller knows.

package import Vault

package struct VersionSearch<Value: Equatable> {
    /// A state of the disk, and the stretch of history it is part of: in one stretch, what has the same place in two states was not
    /// written between them. Nil: nothing is known of the states beside it.
    package struct State {
        package let sequence: UInt64
        package let stretch: VaultID?

        package init(sequence: UInt64, stretch: VaultID?) {
            self.sequence = sequence
            self.stretch = stretch
        }
    }

    /// States `first` to `last`, by their index, that have this value.
    package struct Version {
        package let value: Value
        package let first: Int
        package let last: Int
    }

    package let states: [State]
    /// Oldest first, and whole only when nothing is left.
    package private(set) var versions: [Version] = []
    /// How many states at the beginning were not reached yet.
    package private(set) var left: Int

    /// `states` rise.
    package init(_ states: [State]) {
        self.states = states
        left = states.count
    }

    /// Finds out about the newest states that are left: looks at one, and asks `isUntouched` whether all that this look has read is the same
    /// in an older state.
    package mutating func step<Failure: Error>(
        look: (_ state: Int) throws(Failure) -> Value, isUntouched: (_ older: Int) throws(Failure) -> Bool
    ) throws(Failure) {
        guard left > 0 else { return }
        let value = try look(left - 1)
        let first = try firstUntouched(before: left - 1, isUntouched)
        if let next = versions.first, next.value == value {
            versions[0] = Version(value: value, first: first, last: next.last)
        } else {
            versions.insert(Version(value: value, first: first, last: left - 1), at: 0)
        }
        left = first
    }

    private func firstUntouched<Failure: Error>(before state: Int, _ isUntouched: (Int) throws(Failure) -> Bool) throws(Failure) -> Int {
        var first = state
        while first > 0, try isUntouched(first - 1) {
            first -= 1
            let start = startOfStretch(first)
            // Strides that double, then halves.
            var stride = 1
            while first - stride >= start, try isUntouched(first - stride) {
                first -= stride
                stride *= 2
            }
            while stride > 1 {
                stride /= 2
                if first - stride >= start, try isUntouched(first - stride) { first -= stride }
            }
            if first > start { return first }
        }
        return first
    }

    private func startOfStretch(_ state: Int) -> Int {
        guard let stretch = states[state].stretch else { return state }
        var start = state
        while start > 0, states[start - 1].stretch == stretch { start -= 1 }
        return start
    }
}


extension DiskHistory {
    /// What `VersionSearch` may suppose of the state at `sequence`.
    package func stretch(of sequence: UInt64) -> VaultID? {
        sequence < state.oldestSequence ? nil : state.lineages.first { $0.sequence >= sequence }?.id
    }
}
