// Opens the disks of a mount, several at a time: after a worker's death guests wait for it. Made once by each worker.

import BlockIO
import FuseExport
import Glibc
import Site
import Synchronization

struct DiskOpenings {
    /// Opening a disk whose log is in the page cache keeps a core busy; more threads help while some wait for storage.
    private static let threadsMax = 8

    private let all: [ProtectedDisk]
    private let disks: MountedDisks
    private let handed: [String: HandedLocks]

    init(_ all: [ProtectedDisk], _ disks: MountedDisks, _ locks: InheritedLocks) {
        self.all = all
        self.disks = disks
        let names = Set(all.map(\.name))
        handed = locks.descriptors.filter { names.contains($0.key) }.mapValues { HandedLocks($0) }
    }

    /// Shows all disks; one that cannot be shown says why when it is opened.
    func announceAll() {
        for disk in all { try? disks.announce(disk, handed[disk.name]) }
    }

    /// Returns when each disk is open or refused; those refused, in the order given. One must not take the others along.
    func openAll() throws(SystemError) -> [(disk: String, failure: Failure)] {
        let next = Atomic<Int>(0)
        let failures = Mutex<[Int: Failure]>([:])
        let work = { @Sendable in
            while case let index = next.add(1, ordering: .relaxed).oldValue, index < all.count {
                let disk = all[index]
                do { try disks.open(disk, handed: handed[disk.name]) } catch {
                    let failure = error as? Failure ?? Failure(.failed, "\(error)", try: "farshore doctor")
                    failures.withLock { $0[index] = failure }
                }
            }
        }
        var threads: [OwnThread] = []
        for _ in 0..<min(Self.threadsMax, all.count) { threads.append(try OwnThread(name: "open", work)) }
        for thread in threads { thread.join() }
        return failures.withLock { $0.sorted { $0.key < $1.key }.map { (all[$0.key].name, $0.value) } }
    }
}
