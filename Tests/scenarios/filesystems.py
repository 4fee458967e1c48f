"""ext4, xfs and NTFS on loop devices over served disks: real trees written, unmounted, checked clean, mounted again, compared."""
import os
import shutil

from scenario import GIB, MIB, Scenario, check, requires, requires_root, run, tree_digest, write_tree

MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "ntfs": ["mkntfs", "-q", "-f", "-F"]}
CHECK = {"ext4": ["e2fsck", "-f", "-n"], "xfs": ["xfs_repair", "-n"], "ntfs": ["ntfsfix", "-n"]}
MOUNT = {"ext4": [], "xfs": [], "ntfs": ["-t", "ntfs-3g"]}

requires_root()
requires("mkfs.ext4", "mkfs.xfs", "mkntfs", "ntfs-3g", "qemu-img", "losetup")

with Scenario(seed=1) as s:
    url = s.make_vault()
    formats = {"ext4": "vhd-dynamic", "xfs": "raw", "ntfs": "vhd-fixed"}
    for kind, image_format in formats.items():
        image = s.path(f"{kind}.img")
        if image_format == "raw":
            with open(image, "wb") as file:
                file.truncate(1 * GIB)
        else:
            run("qemu-img", "create", "-q", "-f", "vpc", "-o", f"subformat={image_format[4:]},force_size=on", image, str(1 * GIB))
        s.farshore("protect", image, "--name", kind, "--vault", url, "--key-file", s.key())
    process, mnt = s.mount()
    digests = {}
    for kind in formats:
        served = os.path.join(mnt, kind, "disk.raw")
        device = s.loop(served)
        run(*MAKE[kind], device)
        at = s.path("fs-" + kind)
        s.mount_filesystem(device, at, *MOUNT[kind])
        write_tree(at, s.random)
        shutil.rmtree(os.path.join(at, "dir3"))
        with open(os.path.join(at, "large.bin"), "wb") as file:
            for _ in range(48):
                file.write(s.random.randbytes(1 * MIB))
        if kind != "ntfs":
            run("fstrim", at)
        digests[kind] = tree_digest(at)
        run("umount", at)
        run(*CHECK[kind], device)
        s.detach(device)
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
    process, mnt = s.mount()
    for kind in formats:
        device = s.loop(os.path.join(mnt, kind, "disk.raw"))
        run(*CHECK[kind], device)
        at = s.path("again-" + kind)
        s.mount_filesystem(device, at, *MOUNT[kind])
        check(tree_digest(at) == digests[kind], f"{kind}: the tree differs after a remount")
        run("umount", at)
        s.detach(device)
        print(f"{kind} on {formats[kind]}: tree equal, file system check clean")
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    # Released, each image stands alone: QEMU reads the same file system from it.
    for kind in formats:
        s.farshore("unprotect", kind)
        flat = s.path("flat.raw")
        run("qemu-img", "convert", "-f", "raw" if formats[kind] == "raw" else "vpc", "-O", "raw", s.path(f"{kind}.img"), flat)
        device = s.loop(flat)
        at = s.path("alone-" + kind)
        s.mount_filesystem(device, at, *MOUNT[kind])
        check(tree_digest(at) == digests[kind], f"{kind}: the released image differs")
        run("umount", at)
        s.detach(device)
        os.unlink(flat)
        print(f"{kind}: the released image holds the same tree")
