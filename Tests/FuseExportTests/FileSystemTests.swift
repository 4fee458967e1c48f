// A real filesystem on a loop device over a served disk, and a mount made by an ordinary user.

import Foundation
import FuseExport
import Glibc
import Testing

@Suite(.enabled(if: canMount(), "needs /dev/fuse and fusermount3"), .serialized)
struct FileSystemTests {
    @Test(
        "a file tree on ext4 over a loop device survives killed workers, a remount and fsck",
        .enabled(if: geteuid() == 0 && canMount("mkfs.ext4", "e2fsck", "losetup", "cp", "diff"), "needs root, e2fsprogs and loop devices"))
    func loopDevice() throws {
        let mount = try RawMount(sizeBytes: 256 << 20)
        #expect(try run("mkfs.ext4", "-q", "-F", mount.raw).status == 0)
        let place = mount.folder + "/fs"
        mkdir(place, 0o700)
        var device = try attach(mount, at: place)
        defer {
            umount2(place, Int32(MNT_DETACH))
            _ = try? run("losetup", "-d", device)
        }
        for round in 0..<3 {
            if let worker = mount.workerPID { kill(worker, SIGKILL) }
            let copied = try run("cp", "-r", "/usr/include/linux", "\(place)/tree\(round)")
            #expect(copied.status == 0, "\(copied.text)\n\(mount.log)")
        }
        #expect(umount2(place, 0) == 0)
        #expect(try run("losetup", "-d", device).status == 0)
        let checked = try run("e2fsck", "-fn", mount.raw)
        #expect(checked.status == 0, "\(checked.text)")
        device = try attach(mount, at: place)
        for round in 0..<3 {
            let difference = try run("diff", "-r", "/usr/include/linux", "\(place)/tree\(round)")
            #expect(difference.status == 0, "\(difference.text)")
        }
        #expect(umount2(place, 0) == 0)
        #expect(try run("losetup", "-d", device).status == 0)
        #expect(mount.stop() == .exited(0), "\(mount.log)")
    }

    private func attach(_ mount: RawMount, at place: String) throws -> String {
        let attached = try run("losetup", "-f", "--show", mount.raw)
        try #require(attached.status == 0, "\(attached.text)")
        let device = attached.text.trimmingCharacters(in: .whitespacesAndNewlines)
        let mounted = try run("mount", device, place)
        try #require(mounted.status == 0, "\(mounted.text)")
        return device
    }

    @Test(
        "an ordinary user mounts, writes, survives a killed worker and unmounts; others see nothing",
        .enabled(if: geteuid() == 0 && canMount("setpriv"), "needs root, to become nobody"))
    func ordinaryUser() throws {
        // The device is open to root only on some machines; for the time of this test it is as udev makes it elsewhere.
        var info = stat()
        try #require(stat("/dev/fuse", &info) == 0)
        chmod("/dev/fuse", 0o666)
        defer { chmod("/dev/fuse", info.st_mode & 0o7777) }
        let mount = try RawMount(asNobody: true)
        // Without --allow-other not even root looks in.
        #expect(errorCode { Int(access(mount.raw, R_OK)) } == EACCES)
        #expect(try asNobody("echo hello | dd of=\(mount.raw) conv=notrunc").status == 0)
        if let worker = mount.workerPID { kill(worker, SIGKILL) }
        #expect(try asNobody("head -c 5 \(mount.raw)").text == "hello")
        #expect(try asNobody("dd if=/dev/zero of=\(mount.raw) bs=3M count=4 conv=notrunc").status == 0, "\(mount.log)")
        #expect(mount.stop() == .exited(0), "\(mount.log)")
        #expect(try MountedExport.at(mount.directory) == nil)
    }

    private func asNobody(_ script: String) throws -> Output {
        try run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sh", "-c", script)
    }

    @Test("with --allow-other the files' modes decide", .enabled(if: geteuid() == 0 && canMount("setpriv"), "needs root, to become nobody"))
    func allowOther() throws {
        let mount = try RawMount(arguments: ["--allow-other"])
        chmod(mount.folder, 0o755)
        // raw-export shows everything as its owner's alone.
        let output = try asNobody("cat \(mount.raw) >/dev/null")
        #expect(output.status != 0)
        #expect(output.text.contains("Permission denied"), "\(output.text)")
    }
}
