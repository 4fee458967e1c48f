// Node id → file for the reader threads: an open-addressed table read without a lock. Entries are added or replaced,
// never removed. When it is half full a table of twice the size takes its place; the old ones and all files are kept
// until the mount ends, because a reader may still be in them (the old tables together are smaller than the newest).

import CLinux
import Synchronization

final class FileTable: @unchecked Sendable {
    // Sendable: a reader sees an entry's key only after its file was stored (release/acquire); `insert` is called under
    // the tree's lock, so there is one writer.

    /// A page: capacity (8 B), 8 B unused, then `capacity` entries of key (8 B, 0 = empty) and file (8 B).
    private let current: Atomic<UnsafeMutableRawPointer>
    private var pages: [UnsafeMutableRawPointer] = []
    private var files: [ServedFile] = []

    init() {
        let page = FileTable.makePage(capacity: 64)
        current = Atomic(page)
        pages = [page]
    }

    deinit { for page in pages { page.deallocate() } }

    func file(_ id: UInt64) -> Unmanaged<ServedFile>? {
        let page = current.load(ordering: .acquiring)
        let mask = page.load(as: UInt64.self) &- 1
        var index = id & mask
        while true {
            let entry = page + 16 &* (1 &+ Int(truncatingIfNeeded: index))
            let key = farshore_load_acquire(entry.assumingMemoryBound(to: UInt64.self))
            if key == id {
                let file = farshore_load_acquire((entry + 8).assumingMemoryBound(to: UInt64.self))
                return UnsafeRawPointer(bitPattern: UInt(file)).map(Unmanaged.fromOpaque)
            }
            if key == 0 { return nil }
            index = (index &+ 1) & mask
        }
    }

    func insert(_ id: UInt64, _ file: ServedFile) {
        files.append(file)
        let page = current.load(ordering: .relaxed)
        let capacity = page.load(as: UInt64.self)
        guard UInt64(files.count) * 2 > capacity else { return FileTable.put(id, Unmanaged.passUnretained(file).toOpaque(), in: page) }
        let larger = FileTable.makePage(capacity: Int(capacity) * 2)
        for index in 1...Int(capacity) {
            let entry = page + 16 * index
            let key = entry.load(as: UInt64.self)
            if key != 0 { FileTable.put(key, (entry + 8).load(as: UnsafeMutableRawPointer.self), in: larger) }
        }
        FileTable.put(id, Unmanaged.passUnretained(file).toOpaque(), in: larger)
        pages.append(larger)
        current.store(larger, ordering: .releasing)
    }

    private static func put(_ id: UInt64, _ file: UnsafeMutableRawPointer, in page: UnsafeMutableRawPointer) {
        let mask = page.load(as: UInt64.self) - 1
        var index = id & mask
        while case let key = (page + 16 * (1 + Int(index))).load(as: UInt64.self), key != 0, key != id { index = (index + 1) & mask }
        let entry = page + 16 * (1 + Int(index))
        farshore_store_release((entry + 8).assumingMemoryBound(to: UInt64.self), UInt64(UInt(bitPattern: file)))
        farshore_store_release(entry.assumingMemoryBound(to: UInt64.self), id)
    }

    private static func makePage(capacity: Int) -> UnsafeMutableRawPointer {
        let page = UnsafeMutableRawPointer.allocate(byteCount: 16 * (capacity + 1), alignment: 16)
        page.initializeMemory(as: UInt8.self, repeating: 0, count: 16 * (capacity + 1))
        page.storeBytes(of: UInt64(capacity), as: UInt64.self)
        return page
    }
}
