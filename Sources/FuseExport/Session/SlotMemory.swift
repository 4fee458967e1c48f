// The memory that outlives a worker: a memfd made by the supervisor and mapped by each worker in turn. It holds what
// was negotiated with the kernel and one slot a reader thread. A slot keeps a request from the moment the kernel hands
// it over until its answer was accepted, so a successor finds what a dead worker had in hand.
//
// Layout: page 0 is the session page; then, for each slot, one control page and the payload pages; then the same for spare
// slots, whose pages exist only while they are used.
// Control page: 0 sequence (8 B) · 64 counters · 1024 reply area (2 KiB) · 4016 request head (80 B). The head ends where
// the payload begins, so one read(2) fills both: a WRITE's data lands page-aligned, and a long name runs on into it.
//
// Slot states: head length 0 = free; length set, sequence 0 = read; length and sequence set = appended.

package import BlockIO
import CFuse
import CLinux
import Glibc

struct Slot {
    static let headBytes = 80
    static let pageBytes = 4096
    static let replyOffset = 1024
    static let replyBytesMax = 2048

    let control: UnsafeMutableRawPointer
    let payloadBytes: Int

    var head: UnsafeMutableRawPointer { control + (Slot.pageBytes - Slot.headBytes) }
    var payload: UnsafeMutableRawPointer { control + Slot.pageBytes }
    var replyArea: UnsafeMutableRawPointer { control + Slot.replyOffset }

    /// Where the disk stores the log sequence of this slot's write.
    var sequence: UnsafeMutablePointer<UInt64> { control.assumingMemoryBound(to: UInt64.self) }
    var counters: UnsafeMutablePointer<SlotCounters> { (control + 64).assumingMemoryBound(to: SlotCounters.self) }

    var header: fuse_in_header { head.loadUnaligned(as: fuse_in_header.self) }
    var isFree: Bool { header.len == 0 }

    /// The body of the request, just after its header.
    func body<T: BitwiseCopyable>(_ type: T.Type) -> T {
        (head + MemoryLayout<fuse_in_header>.size).loadUnaligned(as: type)
    }

    /// The length goes first: from then on the slot is free whatever the rest says.
    func release() {
        head.storeBytes(of: 0, as: UInt32.self)
        farshore_store_release(sequence, 0)
    }
}

/// Counted by the slot's own thread, summed by whoever asks; they survive the worker.
struct SlotCounters {
    var requests: UInt64
    var bytesRead: UInt64
    var bytesWritten: UInt64
    /// Writes the kernel sent from the page cache: somebody has the file mapped shared, which serialises all direct
    /// writes to it.
    var writesFromMappings: UInt64
    var errors: UInt64
}

package final class SlotMemory: @unchecked Sendable {
    // Sendable: the mapping never moves; each slot belongs to one thread, the session page is written before any
    // worker starts.
    private static let magic: UInt64 = 0x3153_544f_4c53_4641  // "AFSLOTS1", little-endian; the last byte is the version

    let base: UnsafeMutableRawPointer
    private let spareBase: UnsafeMutableRawPointer?
    package let slotCount: Int
    /// Slots with the numbers behind, for `SpareReaders`.
    package let spareCount: Int
    package let payloadBytes: Int
    private let plan: Plan

    /// How many slots of what size: 16 of 1 MiB, or what the locked-memory limit of an ordinary user allows.
    package struct Plan: Equatable, Sendable {
        package var slotCount: Int
        package var payloadBytes: Int
        /// None for an ordinary user. 64: so many requests of asynchronous I/O the kernel sends at a time, and all may be writes
        /// that wait.
        package var spareCount = 0

        package static let full = Plan(slotCount: 16, payloadBytes: 1 << 20, spareCount: 64)

        /// What is locked all the time.
        var memoryBytes: Int { Slot.pageBytes + slotCount * slotBytes }
        var spareBytes: Int { spareCount * slotBytes }
        private var slotBytes: Int { Slot.pageBytes + payloadBytes }

        /// The largest plan whose memory stays under three quarters of `lockedBytesMax`.
        package static func within(lockedBytesMax: UInt64) -> Plan {
            var plan = Plan.full
            plan.spareCount = 0
            while UInt64(plan.memoryBytes) > lockedBytesMax / 4 * 3, plan.payloadBytes > 128 << 10 { plan.payloadBytes /= 2 }
            while UInt64(plan.memoryBytes) > lockedBytesMax / 4 * 3, plan.slotCount > 2 { plan.slotCount /= 2 }
            return plan
        }

        package static func forThisProcess() -> Plan {
            if geteuid() == 0 { return .full }
            return .within(lockedBytesMax: farshore_locked_memory_bytes_max())
        }
    }

    /// Makes the memfd of a new mount, filled with what was negotiated.
    package static func create(_ plan: Plan, kernel: KernelFeatures) throws(SystemError) -> Descriptor {
        let raw = farshore_memfd("farshore-slots")
        guard raw >= 0 else { throw SystemError(errno: errno, operation: "make the request slots", path: "memfd") }
        let file = Descriptor(owning: raw, path: "memfd:farshore-slots")
        try file.truncate(to: UInt64(plan.memoryBytes + plan.spareBytes))
        var page = [UInt8](repeating: 0, count: Slot.pageBytes)
        page.withUnsafeMutableBytes { bytes in
            bytes.putLE(magic, at: 0)
            bytes.putLE(UInt64(plan.slotCount), at: 8)
            bytes.putLE(UInt64(plan.payloadBytes), at: 16)
            bytes.putLE(UInt64(plan.spareCount), at: 24)
            kernel.encode(into: bytes, at: 64)
        }
        try file.write(page, at: 0)
        return file
    }

    /// Maps and locks the slots; `device` stays the caller's.
    package init(descriptor: Int32) throws(SystemError) {
        var page = [UInt8](repeating: 0, count: Slot.pageBytes)
        let count = page.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
        let fields = page.withUnsafeBytes {
            ($0.getLE(UInt64.self, at: 0), $0.getLE(UInt64.self, at: 8), $0.getLE(UInt64.self, at: 16), $0.getLE(UInt64.self, at: 24))
        }
        // A worker of another version must not take requests for something else.
        guard count != Slot.pageBytes || fields.0 == SlotMemory.magic || fields.0 << 8 != SlotMemory.magic << 8 else {
            throw SystemError(errno: EPROTO, operation: "use request slots of another version than this program's", path: "memfd")
        }
        guard count == Slot.pageBytes, fields.0 == SlotMemory.magic, (1...1024).contains(fields.1), (4096...(16 << 20)).contains(fields.2), fields.3 <= 1024
        else {
            throw SystemError(errno: EINVAL, operation: "use the inherited request slots", path: "descriptor \(descriptor)")
        }
        plan = Plan(slotCount: Int(fields.1), payloadBytes: Int(fields.2), spareCount: Int(fields.3))
        guard let memory = farshore_map_shared(descriptor, plan.memoryBytes) else {
            throw SystemError(errno: errno, operation: "map \(plan.memoryBytes) bytes of request slots", path: "memfd")
        }
        base = memory
        slotCount = plan.slotCount
        spareCount = plan.spareCount
        payloadBytes = plan.payloadBytes
        spareBase = plan.spareCount == 0 ? nil : farshore_map_shared_later(descriptor, plan.memoryBytes, plan.spareBytes)
        guard plan.spareCount == 0 || spareBase != nil else {
            throw SystemError(errno: errno, operation: "map \(plan.spareBytes) bytes of spare request slots", path: "memfd")
        }
        // A kill while the kernel copies into a page that is not there would end the request with EIO.
        guard mlock(memory, plan.memoryBytes) == 0 else {
            throw SystemError(errno: errno, operation: "lock \(plan.memoryBytes) bytes of request slots in memory", path: "memfd")
        }
    }

    deinit {
        munmap(base, plan.memoryBytes)
        if let spareBase { munmap(spareBase, plan.spareBytes) }
    }

    func slot(_ index: Int) -> Slot {
        let slotBytes = Slot.pageBytes + payloadBytes
        if index >= slotCount, let spareBase { return Slot(control: spareBase + (index - slotCount) * slotBytes, payloadBytes: payloadBytes) }
        return Slot(control: base + Slot.pageBytes + index * slotBytes, payloadBytes: payloadBytes)
    }

    /// Gives the spare slot its memory, as `init` does for the others.
    func lockSpare(_ index: Int) throws(SystemError) {
        guard mlock(slot(index).control, Slot.pageBytes + payloadBytes) == 0 else {
            throw SystemError(errno: errno, operation: "lock a spare request slot in memory", path: "memfd")
        }
    }

    /// The payload's memory goes back; the counters stay. Where it cannot be given back it is kept for the next use.
    func releaseSpare(_ index: Int) {
        munlock(slot(index).control, Slot.pageBytes + payloadBytes)
        madvise(slot(index).payload, payloadBytes, MADV_REMOVE)
    }

    package var kernel: KernelFeatures {
        KernelFeatures(decoding: UnsafeRawBufferPointer(start: base, count: Slot.pageBytes), at: 64)
    }

    /// How many requests are in hand, and a number that changes with each that is begun or finished, 0 before the first;
    /// read by the supervisor, which does not map the slots.
    static func requestsInHand(_ slots: borrowing Descriptor, plan: Plan) throws(SystemError) -> (count: Int, mark: UInt64) {
        var count = 0
        // A worker that says that its writes wait for room does not stand still.
        var mark = try slots.read(count: 8, at: waitMarkOffset).withUnsafeBytes { $0.getLE(UInt64.self, at: 0) }
        // The spare slots follow at the same distance.
        for index in 0..<plan.slotCount + plan.spareCount {
            let page = try slots.read(count: Slot.pageBytes, at: UInt64(Slot.pageBytes + index * (Slot.pageBytes + plan.payloadBytes)))
            page.withUnsafeBytes { bytes in
                let head = UnsafeRawBufferPointer(rebasing: bytes[(Slot.pageBytes - Slot.headBytes)...])
                let isFilled = head.getLE(UInt32.self, at: 0) != 0
                if isFilled { count += 1 }
                let unique = isFilled ? head.getLE(UInt64.self, at: 8) : 0
                for word in [bytes.getLE(UInt64.self, at: 64), unique, bytes.getLE(UInt64.self, at: 0)] { mark = (mark ^ word) &* 0x100_0000_01b3 }
            }
        }
        return (count, mark)
    }

    private static let waitMarkOffset: UInt64 = 32

    /// Call now and then while writes wait for room that is coming: the supervisor would take the worker for hung. One thread only.
    package func noteWaiting() {
        let mark = base + Int(Self.waitMarkOffset)
        mark.storeBytes(of: mark.load(as: UInt64.self) &+ 1, as: UInt64.self)
    }

    /// What was served since the mount appeared, all workers together.
    package func traffic() -> Traffic {
        var sum = Traffic()
        for index in 0..<slotCount + spareCount {
            let counters = slot(index).counters.pointee
            sum.requests &+= counters.requests
            sum.bytesRead &+= counters.bytesRead
            sum.bytesWritten &+= counters.bytesWritten
            sum.writesFromMappings &+= counters.writesFromMappings
            sum.errors &+= counters.errors
        }
        return sum
    }
}

package struct Traffic: Equatable, Sendable {
    package var requests: UInt64 = 0
    package var bytesRead: UInt64 = 0
    package var bytesWritten: UInt64 = 0
    package var writesFromMappings: UInt64 = 0
    package var errors: UInt64 = 0
}
