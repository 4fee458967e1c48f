// A disk and its filesystem in memory, with what a power loss would leave of them. Calls of the simulated machine end here
// (StorageCalls.swift). What the model assumes:
//  - writes, holes and sizes are volatile until the file is synced; until then each dirty page may reach the disk at any time;
//  - a power loss keeps any part of what is dirty, sector by sector (512 bytes are never torn);
//  - names change in the order of a journal: a power loss keeps some beginning of it, at least up to the last directory sync;
//  - a failed sync leaves each dirty page written or clean and lost: still readable, and no later sync writes it;
//  - a sync that a killed process was in may fail without anybody being told;
//  - a killed process's calls have no effect; a write it was in may have been done in part.

import Glibc
import SimulatedSystem

final class Inode {
    static let sectorBytes = 512
    static let pageBytes = 4096

    enum Sector: UInt8 { case clean = 0, dirty, lost }

    let number: Int
    var size = 0
    var durableSize = 0
    /// As readers see it, and as a power loss would leave it.
    private(set) var volatile: UnsafeMutableRawPointer
    private(set) var durable: UnsafeMutableRawPointer
    private(set) var capacity = 0
    var sectors: [UInt8] = []
    /// Pages that take space.
    var isAllocated: [Bool] = []
    var changeTime: Int64 = 0
    var durableChangeTime: Int64 = 0
    var lockHolder: Int32?

    init(number: Int) {
        self.number = number
        volatile = calloc(1, 1)
        durable = calloc(1, 1)
    }

    deinit {
        free(volatile)
        free(durable)
    }

    func reserve(_ bytes: Int) {
        guard bytes > capacity else { return }
        let wanted = max((bytes + Self.pageBytes - 1) / Self.pageBytes * Self.pageBytes, min(capacity * 2, capacity + (1 << 20)))
        volatile = grown(volatile, wanted)
        durable = grown(durable, wanted)
        sectors += [UInt8](repeating: 0, count: (wanted - capacity) / Self.sectorBytes)
        isAllocated += [Bool](repeating: false, count: (wanted - capacity) / Self.pageBytes)
        capacity = wanted
    }

    private func grown(_ old: UnsafeMutableRawPointer, _ bytes: Int) -> UnsafeMutableRawPointer {
        let new = calloc(1, bytes)!
        memcpy(new, old, capacity)
        free(old)
        return new
    }

    /// The pages of the range are dirty: what was lost in them will be written as well.
    func soil(_ start: Int, _ end: Int) {
        guard end > start else { return }
        let perPage = Self.pageBytes / Self.sectorBytes
        for sector in start / Self.sectorBytes...(end - 1) / Self.sectorBytes { sectors[sector] = Sector.dirty.rawValue }
        for page in start / Self.pageBytes...(end - 1) / Self.pageBytes {
            for sector in page * perPage..<(page + 1) * perPage where sectors[sector] == Sector.lost.rawValue { sectors[sector] = Sector.dirty.rawValue }
        }
    }

    /// The sector as it is reaches the disk.
    func writeBack(_ sector: Int) {
        memcpy(durable + sector * Self.sectorBytes, volatile + sector * Self.sectorBytes, Self.sectorBytes)
        sectors[sector] = Sector.clean.rawValue
    }

    func syncRange(_ start: Int, _ end: Int) {
        guard end > start else { return }
        for sector in start / Self.sectorBytes...(end - 1) / Self.sectorBytes where sectors[sector] == Sector.dirty.rawValue { writeBack(sector) }
    }

    func syncAll() {
        syncRange(0, capacity)
        if durableSize != size { durableChangeTime = changeTime }
        durableSize = size
    }

    /// Each dirty page is written or lost.
    func failSync() {
        var isLost = false
        for sector in sectors.indices {
            if sector % 8 == 0 { isLost = simulated_random() % 2 == 0 }
            guard sectors[sector] == Sector.dirty.rawValue else { continue }
            if isLost { sectors[sector] = Sector.lost.rawValue } else { writeBack(sector) }
        }
    }

    func forgetVolatile(_ sector: Int) {
        memcpy(volatile + sector * Self.sectorBytes, durable + sector * Self.sectorBytes, Self.sectorBytes)
        sectors[sector] = Sector.clean.rawValue
    }

    func resize(_ bytes: Int) {
        reserve(bytes)
        if bytes < size {
            memset(volatile + bytes, 0, capacity - bytes)
            soil(bytes, capacity)
            for page in (bytes + Self.pageBytes - 1) / Self.pageBytes..<isAllocated.count { isAllocated[page] = false }
        }
        size = bytes
    }
}

struct OpenFile {
    let inode: Inode?
    let path: String
    let process: UInt32
    let isSynchronous: Bool
}

/// What kind of file a path names: faults are drawn by it.
enum Area: CaseIterable { case segment, state, image, sequences }

enum Call: CaseIterable { case open, read, write, sync, truncate, allocate, unlink, rename, directorySync }

struct Fault {
    var call: Call
    var area: Area
    /// Calls that still succeed, and then calls that fail.
    var skipped: Int
    var count: Int
    var errno: Int32
}

final class Storage {
    var files: [Int32: OpenFile] = [:]
    private var nextDescriptor = Int32(SIMULATED_DESCRIPTOR_MIN)
    private var nextInode = 1
    var names: [String: Inode] = [:]
    private var durableNames: [String: Inode] = [:]
    /// Changes of names since the last directory sync; each is atomic.
    private var journal: [[(path: String, inode: Inode?)]] = []
    var directories: Set<String> = ["/simulated"]
    var listings: [[String]] = []
    /// The process whose calls have effects, besides the simulation's own (0).
    var livingProcess: UInt32 = 0
    var faults: [Fault] = []
    var faultsStruck = 0
    var pagesMax = Int.max
    var isTracing = false
    private(set) var pagesUsed = 0

    func note(_ text: @autoclosure () -> String) {
        if isTracing { print("\(simulated_steps()) [\(simulated_process()).\(simulated_fiber())] \(text())") }
    }

    var isCallerDead: Bool {
        let process = simulated_process()
        return process != 0 && process != livingProcess
    }

    static func area(_ path: String) -> Area {
        if path.contains("/segment-") || path.hasSuffix("/reserve") { return .segment }
        if path.contains("/sequences") { return .sequences }
        return path.contains("/image") ? .image : .state
    }

    /// 0, or what the call fails with.
    func fault(_ call: Call, _ path: String) -> Fault? {
        guard simulated_process() != 0, !faults.isEmpty else { return nil }
        let area = Self.area(path)
        for place in faults.indices where faults[place].call == call && faults[place].area == area && faults[place].count > 0 {
            if faults[place].skipped > 0 {
                faults[place].skipped -= 1
                continue
            }
            faults[place].count -= 1
            faultsStruck += 1
            note("FAULT \(call) \(path): errno \(faults[place].errno)")
            return faults[place]
        }
        return nil
    }

    func descriptor(_ file: OpenFile) -> Int32 {
        defer { nextDescriptor += 1 }
        files[nextDescriptor] = file
        return nextDescriptor
    }

    func makeInode() -> Inode {
        defer { nextInode += 1 }
        return Inode(number: nextInode)
    }

    // MARK: names

    func change(_ changes: [(path: String, inode: Inode?)]) {
        for (path, inode) in changes {
            if let old = names[path], inode == nil || old !== inode!, !changes.contains(where: { $0.inode === old }) { release(old) }
            names[path] = inode
        }
        journal.append(changes)
    }

    /// Space comes back when the last name goes; files that are open keep their content.
    private func release(_ inode: Inode) {
        pagesUsed -= inode.isAllocated.count { $0 }
    }

    func commitNames() {
        for changes in journal { for (path, inode) in changes { durableNames[path] = inode } }
        journal = []
    }

    func list(_ path: String) -> [String] {
        names.keys.filter { $0.hasPrefix(path + "/") && !$0.dropFirst(path.utf8.count + 1).contains("/") }
            .map { String($0.dropFirst(path.utf8.count + 1)) }.sorted()
    }

    // MARK: space

    /// False when the range's pages cannot be had.
    func takePages(_ inode: Inode, _ start: Int, _ end: Int) -> Bool {
        guard end > start else { return true }
        let pages = start / Inode.pageBytes...(end - 1) / Inode.pageBytes
        let missing = pages.count { !inode.isAllocated[$0] }
        guard pagesUsed + missing <= pagesMax else { return false }
        for page in pages { inode.isAllocated[page] = true }
        pagesUsed += missing
        return true
    }

    func givePages(_ inode: Inode, _ start: Int, _ end: Int) {
        for page in (start + Inode.pageBytes - 1) / Inode.pageBytes..<max(end / Inode.pageBytes, (start + Inode.pageBytes - 1) / Inode.pageBytes)
        where inode.isAllocated[page] {
            inode.isAllocated[page] = false
            pagesUsed -= 1
        }
    }

    private func recount() {
        var seen = Set<Int>()
        pagesUsed = names.values.reduce(0) { seen.insert($1.number).inserted ? $0 + $1.isAllocated.count { $0 } : $0 }
    }

    // MARK: the end of a process, and of power

    func kill() {
        livingProcess = 0
        for (descriptor, file) in files where file.process != 0 {
            if file.inode?.lockHolder == descriptor { file.inode?.lockHolder = nil }
        }
        faults = []
    }

    /// The process was in syncs when it was killed; they failed, and nobody was told.
    func failSyncsUnseen() {
        for path in names.keys.sorted() where Self.area(path) == .segment || Self.area(path) == .image {
            guard simulated_random() % 2 == 0, let inode = names[path] else { continue }
            note("THE SYNC OF \(path) FAILED UNSEEN")
            inode.failSync()
        }
    }

    /// How much of what is dirty a power loss keeps.
    private enum Loss: UInt64, CaseIterable { case everything, nothing, sectors, pages, oneSector, files, fewSectors }

    func losePower() {
        let kept = journal.isEmpty ? 0 : Int(simulated_random() % UInt64(journal.count + 1))
        journal = Array(journal.prefix(kept))
        commitNames()
        names = durableNames
        let loss = Loss(rawValue: simulated_random() % UInt64(Loss.allCases.count))!
        note("POWER LOSS, loses \(loss)")
        var seen = Set<Int>()
        for path in names.keys.sorted() {
            guard let inode = names[path], seen.insert(inode.number).inserted else { continue }
            lose(inode, loss)
        }
        recount()
    }

    private func lose(_ inode: Inode, _ loss: Loss) {
        let dirty = inode.sectors.indices.filter { inode.sectors[$0] == Inode.Sector.dirty.rawValue }
        let isFileKept = simulated_random() % 2 == 0
        let pages = simulated_random() | 1
        let only = dirty.isEmpty ? 0 : dirty[Int(simulated_random() % UInt64(dirty.count))]
        let keepsSize = loss == .nothing || (loss != .everything && simulated_random() % 2 == 0)
        for sector in inode.sectors.indices where inode.sectors[sector] != Inode.Sector.clean.rawValue {
            var isKept = inode.sectors[sector] == Inode.Sector.dirty.rawValue
            switch loss {
            case .everything: isKept = false
            case .nothing: break
            case .sectors: isKept = isKept && simulated_random() % 2 == 0
            case .pages: isKept = isKept && (UInt64(sector / 8 + 1) &* pages >> 17) % 2 == 0
            case .oneSector: isKept = isKept && sector != only
            case .files: isKept = isKept && isFileKept
            case .fewSectors: isKept = isKept && simulated_random() % 16 != 0
            }
            if isKept { inode.writeBack(sector) } else { inode.forgetVolatile(sector) }
        }
        if keepsSize { inode.durableSize = inode.size }
        inode.size = inode.durableSize
        inode.reserve(inode.size)
        // Beyond the end nothing stays.
        memset(inode.volatile + inode.size, 0, inode.capacity - inode.size)
        memcpy(inode.durable + inode.size, inode.volatile + inode.size, inode.capacity - inode.size)
        if simulated_random() % 2 == 0 { inode.durableChangeTime = inode.changeTime }
        inode.changeTime = inode.durableChangeTime
        inode.lockHolder = nil
    }
}
