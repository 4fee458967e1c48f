// Names, attributes and everything that is refused, through a real mount.

import Foundation
import Glibc
import Testing

@Suite(.enabled(if: canMount(), "needs /dev/fuse and fusermount3"), .serialized)
struct NameTests {
    @Test("directories list their files, links lead to them, sizes and modes are right")
    func tree() throws {
        let mount = try RawMount(sizeBytes: 4 << 20)
        let names = try FileManager.default.contentsOfDirectory(atPath: mount.directory).sorted()
        #expect(names == ["disk", "link-to-disk"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: mount.directory + "/disk").sorted() == ["disk.raw", "disk.vhd"])
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: mount.directory + "/link-to-disk") == "disk/disk.raw")
        var info = stat()
        #expect(stat(mount.directory + "/link-to-disk", &info) == 0)
        #expect(info.st_size == 4 << 20)
        #expect(info.st_mode & 0o777 == 0o600)
        #expect(stat(mount.vhd, &info) == 0)
        #expect(info.st_size == (4 << 20) + 512)
        #expect(info.st_mode & 0o777 == 0o400)
        let listing = try run("ls", "-laR", mount.directory)
        #expect(listing.status == 0, "\(listing.text)")
        let file = try OpenFile(mount.raw, O_RDONLY)
        var system = statvfs()
        #expect(fstatvfs(file.descriptor, &system) == 0)
        #expect(system.f_bsize == 4096)
    }

    @Test("what cannot be done says so: truncate, create, remove, rename, chmod, times, attributes")
    func refusals() throws {
        let mount = try RawMount(sizeBytes: 4 << 20)
        let folder = mount.directory + "/disk"
        #expect(errorCode { Int(truncate(mount.raw, 1 << 20)) } == EPERM)
        #expect(errorCode { Int(truncate(mount.raw, 8 << 20)) } == EFBIG)
        #expect(truncate(mount.raw, 4 << 20) == 0)
        #expect(errorCode { Int(open(mount.raw, O_RDWR | O_TRUNC)) } == EPERM)
        #expect(errorCode { Int(open(folder + "/snapshot.qcow2", O_RDWR | O_CREAT, 0o600)) } == EROFS)
        #expect(errorCode { Int(mkdir(folder + "/sub", 0o700)) } == EROFS)
        #expect(errorCode { Int(unlink(mount.raw)) } == EROFS)
        #expect(errorCode { Int(rmdir(folder)) } == EROFS)
        #expect(errorCode { Int(rename(mount.raw, folder + "/other")) } == EROFS)
        #expect(errorCode { Int(link(mount.raw, folder + "/other")) } == EROFS)
        #expect(errorCode { Int(symlink("x", folder + "/other")) } == EROFS)
        #expect(errorCode { Int(chmod(mount.raw, 0o644)) } == EPERM)
        #expect(errorCode { Int(chown(mount.raw, 1, 1)) } == EPERM)
        #expect(errorCode { Int(utimes(mount.raw, nil)) } == EPERM)
        #expect(errorCode { Int(access(folder + "/none", F_OK)) } == ENOENT)
        #expect(errorCode { Int(access(folder + "/" + String(repeating: "n", count: 250), F_OK)) } == ENOENT)
        #expect(errorCode { Int(access(folder + "/" + String(repeating: "n", count: 300), F_OK)) } == ENAMETOOLONG)
    }

    @Test("extended attributes are not supported, and say so", .enabled(if: canMount("python3"), "needs python3"))
    func extendedAttributes() throws {
        let mount = try RawMount(sizeBytes: 1 << 20)
        for call in ["setxattr(f,'user.a',b'1')", "getxattr(f,'user.a')", "listxattr(f)"] {
            let output = try run("python3", "-c", "import os,sys; f=sys.argv[1]; os.\(call)", mount.raw)
            #expect(output.text.contains("Operation not supported") || (call.hasPrefix("list") && output.status == 0), "\(output.text)")
        }
    }

    @Test("a read-only disk refuses writing, its bytes can be read")
    func readOnly() throws {
        let mount = try RawMount(readOnly: true) { image in
            let file = try OpenFile(image, O_RDWR)
            _ = file.write([5], at: 77)
        }
        #expect(errorCode { Int(open(mount.raw, O_RDWR)) } == EROFS)
        #expect(errorCode { Int(open(mount.raw, O_WRONLY)) } == EROFS)
        let file = try OpenFile(mount.raw, O_RDONLY)
        #expect(file.read(1, at: 77) == [5])
    }
}
