// The calls of the simulated machine on its storage: each is a point where another thread may run, the process may be
// killed, or a fault may strike; reads and writes are torn by other threads' now and then, as on a real filesystem.

import Glibc
import SimulatedSystem

nonisolated(unsafe) var storage = Storage()

private func begin(_ call: Call, _ path: String) -> Fault? {
    simulated_point()
    return storage.fault(call, path)
}

/// The file behind a descriptor, and no effects for the dead.
private func living(_ descriptor: Int32) -> (file: OpenFile, inode: Inode)? {
    guard !storage.isCallerDead, let file = storage.files[descriptor], let inode = file.inode else { return nil }
    return (file, inode)
}

@_cdecl("simulated_open") func open(_ path: UnsafePointer<CChar>, _ flags: Int32) -> Int32 {
    let path = String(cString: path)
    if let fault = begin(.open, path) { return -fault.errno }
    if storage.isCallerDead { return -EIO }
    let process = simulated_process()
    if storage.directories.contains(path) { return storage.descriptor(OpenFile(inode: nil, path: path, process: process, isSynchronous: false)) }
    var inode = storage.names[path]
    if inode != nil, flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL { return -EEXIST }
    if inode == nil {
        guard flags & O_CREAT != 0 else { return -ENOENT }
        let made = storage.makeInode()
        storage.change([(path, made)])
        inode = made
    } else if flags & O_TRUNC != 0 {
        inode?.resize(0)
    }
    storage.note("open \(path)")
    return storage.descriptor(OpenFile(inode: inode, path: path, process: process, isSynchronous: flags & O_DSYNC != 0))
}

@_cdecl("simulated_open_again") func openAgain(_ descriptor: Int32) -> Int32 {
    if let fault = begin(.open, storage.files[descriptor]?.path ?? "") { return -fault.errno }
    guard let (file, inode) = living(descriptor) else { return -EIO }
    return storage.descriptor(OpenFile(inode: inode, path: file.path, process: simulated_process(), isSynchronous: false))
}

@_cdecl("simulated_close") func close(_ descriptor: Int32) -> Int32 {
    guard let file = storage.files.removeValue(forKey: descriptor) else { return -EBADF }
    if file.inode?.lockHolder == descriptor { file.inode?.lockHolder = nil }
    return 0
}

@_cdecl("simulated_pread") func read(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64) -> Int64 {
    let path = storage.files[descriptor]?.path ?? ""
    if let fault = begin(.read, path) { return Int64(-fault.errno) }
    guard let (_, inode) = living(descriptor) else { return Int64(-EIO) }
    let start = Int(offset), total = max(0, min(count, inode.size - start))
    // Another thread's write may fall between two parts of a read.
    let first = total > 512 && simulated_random() % 8 == 0 ? Int(simulated_random() % UInt64(total / 512)) * 512 : total
    memcpy(bytes, inode.volatile + start, first)
    if first < total {
        simulated_point()
        guard !storage.isCallerDead else { return Int64(-EIO) }
        memcpy(bytes + first, inode.volatile + start + first, max(0, min(total, inode.size - start) - first))
    }
    storage.note("read \(path) \(offset)+\(count) = \(total)")
    return Int64(total)
}

@_cdecl("simulated_pwrite") func write(_ descriptor: Int32, _ bytes: UnsafeRawPointer, _ count: Int, _ offset: Int64, _ isDurable: Bool) -> Int64 {
    let path = storage.files[descriptor]?.path ?? ""
    let fault = begin(.write, path)
    guard let (file, inode) = living(descriptor) else { return Int64(-EIO) }
    let start = Int(offset)
    var total = count
    // What fails may have been done in part; what succeeds may be short.
    if fault != nil { total = Int(simulated_random() % UInt64(count / 512 + 1)) * 512 }
    else if count > 8192, simulated_random() % 64 == 0 { total = 4096 }
    simulated_note(UInt64(inode.number) << 48 ^ UInt64(start) << 20 ^ UInt64(total))
    let first = total > 512 && simulated_random() % 8 == 0 ? Int(simulated_random() % UInt64(total / 512)) * 512 : total
    for (from, to) in [(0, first), (first, total)] where to > from {
        if from > 0 {
            simulated_point()
            guard !storage.isCallerDead else { return Int64(-EIO) }
        }
        inode.reserve(start + to)
        guard storage.takePages(inode, start + from, start + to) else { return from > 0 ? Int64(from) : Int64(-ENOSPC) }
        memcpy(inode.volatile + start + from, bytes + from, to - from)
        inode.soil(start + from, start + to)
        inode.size = max(inode.size, start + to)
    }
    inode.changeTime = simulated_wall()
    storage.note("write \(path) \(offset)+\(count)" + (total < count ? " = \(total)" : ""))
    if let fault { return Int64(-fault.errno) }
    if isDurable || file.isSynchronous {
        simulated_point()
        guard !storage.isCallerDead else { return Int64(-EIO) }
        if let fault = storage.fault(.sync, path) {
            inode.failSync()
            return Int64(-fault.errno)
        }
        inode.syncRange(start, start + total)
        if inode.durableSize < inode.size { inode.durableSize = inode.size }
    }
    // The kernel writes back when it likes.
    if total > 0, simulated_random() % 32 == 0 {
        for _ in 0..<4 {
            let sector = (start + Int(simulated_random() % UInt64(total))) / Inode.sectorBytes
            if inode.sectors[sector] == Inode.Sector.dirty.rawValue { inode.writeBack(sector) }
        }
    }
    return Int64(total)
}

@_cdecl("simulated_sync") func sync(_ descriptor: Int32, _ isDataOnly: Bool) -> Int32 {
    let path = storage.files[descriptor]?.path ?? ""
    if storage.files[descriptor]?.inode == nil {
        if let fault = begin(.directorySync, path + "/state") { return -fault.errno }
        if storage.isCallerDead { return -EIO }
        storage.note("sync directory \(path)")
        storage.commitNames()
        return 0
    }
    let fault = begin(.sync, path)
    guard let (_, inode) = living(descriptor) else { return -EIO }
    simulated_note(UInt64(inode.number))
    if let fault {
        inode.failSync()
        return -fault.errno
    }
    inode.syncAll()
    if !isDataOnly { inode.durableChangeTime = inode.changeTime }
    storage.note("sync \(path)")
    simulated_point()
    return storage.isCallerDead ? -EIO : 0
}

@_cdecl("simulated_truncate") func truncate(_ descriptor: Int32, _ bytes: Int64) -> Int32 {
    let path = storage.files[descriptor]?.path ?? ""
    if let fault = begin(.truncate, path) { return -fault.errno }
    guard let (_, inode) = living(descriptor) else { return -EIO }
    storage.givePages(inode, Int(bytes), inode.capacity)
    inode.resize(Int(bytes))
    inode.changeTime = simulated_wall()
    storage.note("truncate \(path) \(bytes)")
    return 0
}

@_cdecl("simulated_fallocate") func allocate(_ descriptor: Int32, _ mode: Int32, _ offset: Int64, _ length: Int64) -> Int32 {
    let path = storage.files[descriptor]?.path ?? ""
    if let fault = begin(mode == 0 ? .allocate : .write, path) { return -fault.errno }
    guard let (_, inode) = living(descriptor) else { return -EIO }
    let start = Int(offset), end = Int(offset + length)
    storage.note("fallocate \(path) \(mode) \(offset)+\(length)")
    if mode == 0 {
        inode.reserve(end)
        guard storage.takePages(inode, start, end) else { return -ENOSPC }
        inode.size = max(inode.size, end)
    } else {
        let last = min(end, inode.size)
        guard last > start else { return 0 }
        memset(inode.volatile + start, 0, last - start)
        inode.soil(start, last)
        if mode & 2 != 0 { storage.givePages(inode, start, last) }
    }
    inode.changeTime = simulated_wall()
    return 0
}

@_cdecl("simulated_seek") func seek(_ descriptor: Int32, _ offset: Int64, _ isToData: Bool) -> Int64 {
    simulated_point()
    guard let (_, inode) = living(descriptor) else { return Int64(-EIO) }
    var position = Int(offset)
    while position < inode.size {
        if inode.isAllocated[position / Inode.pageBytes] == isToData { return Int64(position) }
        position = (position / Inode.pageBytes + 1) * Inode.pageBytes
    }
    return isToData ? Int64(-ENXIO) : Int64(inode.size)
}

@_cdecl("simulated_stat") func status(_ descriptor: Int32, _ status: UnsafeMutablePointer<stat>) -> Int32 {
    guard !storage.isCallerDead, let file = storage.files[descriptor] else { return -EIO }
    status.pointee = stat()
    status.pointee.st_mode = file.inode == nil ? S_IFDIR : S_IFREG
    guard let inode = file.inode else { return 0 }
    status.pointee.st_size = inode.size
    status.pointee.st_ino = UInt(inode.number)
    status.pointee.st_blocks = inode.isAllocated.count { $0 } * 8
    status.pointee.st_ctim = timespec(tv_sec: Int(inode.changeTime / 1_000_000_000), tv_nsec: Int(inode.changeTime % 1_000_000_000))
    return 0
}

/// Whole-file locks of a writer exclude each other; the others (QEMU's bytes) are granted.
@_cdecl("simulated_lock") func lock(_ descriptor: Int32, _ type: Int32, _ asksOnly: Bool) -> Int32 {
    simulated_point()
    guard let (_, inode) = living(descriptor) else { return -EIO }
    guard !asksOnly else { return 0 }
    if type == F_UNLCK {
        if inode.lockHolder == descriptor { inode.lockHolder = nil }
    } else if type == F_WRLCK {
        guard inode.lockHolder == nil || inode.lockHolder == descriptor else { return -EAGAIN }
        inode.lockHolder = descriptor
    }
    return 0
}

@_cdecl("simulated_unlink") func unlink(_ path: UnsafePointer<CChar>) -> Int32 {
    let path = String(cString: path)
    if let fault = begin(.unlink, path) { return -fault.errno }
    if storage.isCallerDead { return -EIO }
    guard storage.names[path] != nil else { return -ENOENT }
    storage.note("unlink \(path)")
    storage.change([(path, nil)])
    return 0
}

@_cdecl("simulated_rename") func rename(_ from: UnsafePointer<CChar>, _ to: UnsafePointer<CChar>) -> Int32 {
    let from = String(cString: from), to = String(cString: to)
    if let fault = begin(.rename, to) { return -fault.errno }
    if storage.isCallerDead { return -EIO }
    guard let inode = storage.names[from] else { return -ENOENT }
    storage.note("rename \(from) \(to)")
    storage.change([(from, nil), (to, inode)])
    return 0
}

@_cdecl("simulated_make_directory") func makeDirectory(_ path: UnsafePointer<CChar>) -> Int32 {
    storage.directories.insert(String(cString: path)).inserted ? 0 : -EEXIST
}

@_cdecl("simulated_remove_directory") func removeDirectory(_ path: UnsafePointer<CChar>) -> Int32 {
    storage.directories.remove(String(cString: path)) != nil ? 0 : -ENOENT
}

@_cdecl("simulated_access") func access(_ path: UnsafePointer<CChar>) -> Int32 {
    simulated_point()
    if storage.isCallerDead { return -EIO }
    let path = String(cString: path)
    return storage.names[path] != nil || storage.directories.contains(path) ? 0 : -ENOENT
}

@_cdecl("simulated_list") func list(_ path: UnsafePointer<CChar>) -> Int32 {
    simulated_point()
    if storage.isCallerDead { return -EIO }
    let path = String(cString: path)
    guard storage.directories.contains(path) else { return -ENOENT }
    storage.listings.append(storage.list(path))
    return Int32(storage.listings.count - 1)
}

@_cdecl("simulated_list_name") func listName(_ list: Int32, _ place: Int32, _ name: UnsafeMutablePointer<CChar>, _ capacity: Int) -> Bool {
    let names = storage.listings[Int(list)]
    guard Int(place) < names.count else { return false }
    strncpy(name, names[Int(place)], capacity - 1)
    return true
}

@_cdecl("simulated_stuck") func stuck(_ reason: UnsafePointer<CChar>) -> Never { abandonRun(String(cString: reason)) }
