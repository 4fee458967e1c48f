// Whether another host is silent: no higher number of its contacts for longer than allowed, by this host's clock. Pure.

struct HostSilence: Equatable {
    enum Change: Equatable {
        case silent(seconds: UInt64)
        /// With its second contact since, so that one that comes and goes stays one event.
        case back
    }

    private(set) var number: UInt64
    /// Its number when it fell silent.
    private(set) var silentNumber: UInt64?
    private var seenAt: UInt64

    /// `silentNumber`: as an uploader before had found it.
    init(number: UInt64, silentNumber: UInt64?, now: UInt64) {
        (self.number, self.silentNumber) = (number, silentNumber)
        seenAt = now
    }

    mutating func look(number found: UInt64, allowedSeconds: UInt64, now: UInt64) -> Change? {
        if found > number { (number, seenAt) = (found, now) }
        if let silent = silentNumber {
            guard number >= silent + 2 else { return nil }
            silentNumber = nil
            return .back
        }
        // One that never said anything is not missed.
        let quiet = (now - min(now, seenAt)) / 1_000_000_000
        guard number > 0, allowedSeconds > 0, quiet >= allowedSeconds else { return nil }
        silentNumber = number
        return .silent(seconds: quiet)
    }

    /// The vault could not be asked: what was not seen is nobody's silence.
    mutating func couldNotLook(now: UInt64) { seenAt = now }
}
