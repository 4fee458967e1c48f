// A worker's death is a pause, not an error; a stop is clean; nothing is left mounted.

import BlockIO
import Foundation
import FuseExport
import Glibc
import Testing

/// Soak runs multiply the campaigns.
let campaignScale = max(1, Int(ProcessInfo.processInfo.environment["FARSHORE_CAMPAIGN_SCALE"] ?? "1") ?? 1)

@Suite(.enabled(if: canMount(), "needs /dev/fuse and fusermount3"), .serialized)
struct SupervisionTests {
    @Test("fio verifies its data while the worker is killed again and again", .enabled(if: canMount("fio"), "needs fio"))
    func killedUnderLoad() throws {
        let mount = try RawMount(sizeBytes: 64 << 20)
        let fio = Process()
        fio.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        let seconds = 4 * campaignScale
        fio.arguments = [
            "fio", "--name=verify", "--filename=\(mount.raw)", "--rw=randrw", "--bs=4k-64k", "--iodepth=16", "--ioengine=libaio", "--direct=1",
            "--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", "--verify_fatal=1", "--time_based", "--runtime=\(seconds)", "--size=64m", "--output=\(mount.folder)/fio",
        ]
        try fio.run()
        var kills = 0
        while fio.isRunning {
            usleep(300_000)
            guard fio.isRunning, let worker = mount.workerPID else { continue }
            kill(worker, SIGKILL)
            kills += 1
        }
        let report = (try? String(contentsOfFile: mount.folder + "/fio", encoding: .utf8)) ?? ""
        #expect(fio.terminationStatus == 0, "\(report)\n\(mount.log)")
        #expect(kills >= 5)
        #expect(mount.stop() == .exited(0), "\(mount.log)")
    }

    @Test("SIGTERM unmounts and exits 0")
    func cleanStop() throws {
        let mount = try RawMount()
        #expect(try MountedExport.at(mount.directory)?.pid == mount.supervisor.pid)
        #expect(mount.stop() == .exited(0))
        #expect(try MountedExport.at(mount.directory) == nil)
    }

    @Test("an unmount by hand ends worker and supervisor cleanly")
    func unmountedByHand() throws {
        let mount = try RawMount()
        #expect(FuseMount.unmount(mount.directory) == .done)
        #expect(mount.waitForSupervisor() == .exited(0))
    }

    @Test("a mount in use is not unmounted by hand, its holder is named, and SIGTERM detaches it in the end")
    func busyStop() throws {
        let mount = try RawMount()
        let file = try OpenFile(mount.raw, O_RDWR)
        let sleeper = try ChildProcess.spawn("/bin/sh", ["-c", "exec sleep 1000 <\(mount.raw)"])
        defer {
            kill(sleeper.pid, SIGKILL)
            _ = sleeper.wait()
        }
        #expect(FuseMount.unmount(mount.directory) == .busy)
        for _ in 0..<200 where !MountHolders.of(mount.directory).contains("sleep (pid \(sleeper.pid))") { usleep(10_000) }
        #expect(MountHolders.of(mount.directory) == ["sleep (pid \(sleeper.pid))"])
        #expect(file.write([1], at: 0) == 1)
        #expect(mount.stop() == .exited(0))
        #expect(mount.log.contains("still in use"))
        #expect(mount.log.contains("pid \(getpid())"))
        #expect(errorCode { file.write([1], at: 0) } == ENOTCONN)
    }

    @Test("a mount whose supervisor and worker were killed is taken over by the next start")
    func deadMount() throws {
        let mount = try RawMount()
        let worker = try #require(mount.workerPID)
        mount.killSupervisor()
        kill(worker, SIGKILL)
        while kill(worker, 0) == 0 { usleep(1_000) }
        #expect(errorCode { Int(access(mount.directory, F_OK)) } == ENOTCONN)
        let again = try FuseMount.mount(at: mount.directory, allowOther: false)
        #expect(try MountedExport.at(mount.directory)?.pid == getpid())
        FuseMount.detach(again.directory)
    }

    @Test("a worker that outlives its supervisor serves on and stops at SIGTERM")
    func orphan() throws {
        let mount = try RawMount()
        let worker = try #require(mount.workerPID)
        mount.killSupervisor()
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.write([1, 2, 3], at: 9) == 3)
        close(dup(file.descriptor))
        kill(worker, SIGTERM)
        for _ in 0..<500 where kill(worker, 0) == 0 { usleep(10_000) }
        #expect(kill(worker, 0) != 0)
        #expect(try MountedExport.at(mount.directory) == nil)
    }

    @Test("SIGHUP replaces the worker by the program that is at the path now; one that is none, or does not serve, changes nothing")
    func upgrade() throws {
        let folder = FileManager.default.temporaryDirectory.path + "/farshore-upgrade-\(getpid())"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let program = folder + "/program"
        let upgraded = try RawMount(arguments: ["--program=\(program)"])
        let file = try OpenFile(upgraded.raw, O_RDWR)
        #expect(file.write([1, 2, 3], at: 9) == 3)
        func upgrade(to name: String, contents: String?, says text: String) throws {
            unlink(program)
            let path = folder + "/" + name
            if let contents {
                try contents.write(toFile: path, atomically: false, encoding: .utf8)
                chmod(path, 0o755)
            } else {
                try FileManager.default.copyItem(atPath: RawMount.executable.path, toPath: path)
            }
            symlink(path, program)
            kill(upgraded.supervisor.pid, SIGHUP)
            for _ in 0..<3000 where !upgraded.log.contains(text) { usleep(10_000) }
            #expect(upgraded.log.contains(text), "\(upgraded.log)")
            #expect(file.read(3, at: 9) == [1, 2, 3])
        }
        let first = upgraded.workerPID
        try upgrade(to: "no-program", contents: "text", says: "not upgraded, version raw-export serves on: \(program): cannot start: Exec format error")
        try upgrade(to: "other-program", contents: "#!/bin/sh\necho too old; exit 1\n", says: "not upgraded, version raw-export serves on: ")
        #expect(upgraded.workerPID == first)
        try upgrade(to: "dies-at-once", contents: nil, says: "not upgraded, version raw-export serves on: it ended by signal 9")
        try upgrade(to: "second", contents: nil, says: "upgraded from version raw-export to second in")
        try upgrade(to: "third", contents: nil, says: "upgraded from version second to third in")
        // A successor is of the version that served last, whatever lies at the path now.
        unlink(program)
        let worker = try #require(upgraded.workerPID)
        kill(worker, SIGKILL)
        #expect(file.read(3, at: 9) == [1, 2, 3])
        #expect(upgraded.stop() == .exited(0), "\(upgraded.log)")
    }

    @Test("a worker that stands still with requests in hand is ended and followed; one that waits for nobody's request is left alone")
    func hang() throws {
        let mount = try RawMount(arguments: ["--hang-seconds=1"])
        let worker = try #require(mount.workerPID)
        kill(worker, SIGSTOP)
        usleep(2_500_000)
        #expect(!mount.log.contains("stood still"), "\(mount.log)")
        let file = try OpenFile(mount.raw, O_RDWR)
        #expect(file.write([1, 2, 3], at: 9) == 3)
        #expect(file.read(3, at: 9) == [1, 2, 3])
        #expect(mount.log.contains("stood still for 1 s with"), "\(mount.log)")
        #expect(mount.log.contains("(farshore-worker) state T"), "\(mount.log)")
        #expect(mount.workerPID != worker)
        #expect(mount.stop() == .exited(0), "\(mount.log)")
    }

    @Test("a worker that dies after its first answer, before it said that it is ready, is followed")
    func diesBeforeReady() throws {
        let mount = try RawMount(arguments: ["--late"], waitsFor: .disk)
        #expect(!mount.log.contains("ready\n"), "\(mount.log)")
        kill(try #require(mount.workerPID), SIGKILL)
        #expect(try OpenFile(mount.raw, O_RDWR).write([1, 2, 3], at: 9) == 3)
        for _ in 0..<500 where !mount.log.contains("ready\n") { usleep(10_000) }
        #expect(mount.log.contains("ready\n"), "\(mount.log)")
        #expect(mount.stop() == .exited(0), "\(mount.log)")
    }

    @Test("a second mount, a full directory, a missing image, a worker that dies and too little locked memory are refused")
    func refusedStarts() throws {
        let mount = try RawMount()
        let second = try run(RawMount.executable.path, mount.directory, mount.image)
        #expect(second.status == 1)
        #expect(second.text.contains("another mount of farshore is there"), "\(second.text)")
        let full = try run(RawMount.executable.path, mount.folder, mount.image)
        #expect(full.text.contains("Directory not empty"), "\(full.text)")
        let missing = try run(RawMount.executable.path, mount.folder + "/other", mount.folder + "/none.img")
        #expect(missing.status == 1)
        #expect(missing.text.contains("No such file"), "\(missing.text)")
        let dead = try run(RawMount.executable.path, mount.folder + "/other", "--die", mount.image)
        #expect(dead.status == 1)
        #expect(dead.text.contains("signal 9"), "\(dead.text)")
        // A sanitizer makes mlock do nothing.
        guard geteuid() == 0, getenv("FARSHORE_SANITIZE") == nil else { return }
        let locked = try run("prlimit", "--memlock=65536", "--", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock",
            RawMount.executable.path, mount.folder + "/other", mount.image)
        #expect(locked.status == 1)
        #expect(locked.text.contains("in memory"), "\(locked.text)")
        #expect(try MountedExport.at(mount.folder + "/other") == nil)
    }

    @Test("the kernel's features are negotiated as asked")
    func negotiation() throws {
        let folder = try RawMount().folder  // the mount itself goes at once: only its free name is wanted
        mkdir(folder, 0o700)
        defer { rmdir(folder) }
        let mount = try FuseMount.mount(at: folder, allowOther: false, plan: .within(lockedBytesMax: 8 << 20))
        defer { FuseMount.detach(folder) }
        #expect(mount.kernel.hasParallelDirectWrites)
        #expect(mount.kernel.hasAsyncDirectIO)
        #expect(mount.kernel.maxWriteBytes == 256 << 10)
        let slots = try SlotMemory(descriptor: mount.slots.raw)
        #expect(slots.kernel == mount.kernel)
    }
}
