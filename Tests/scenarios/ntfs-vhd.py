"""A Windows disk as it comes: a dynamic VHD with a partition table and NTFS in its partition, protected, changed by ntfs-3g over a loop
device on the mount, through a killed worker too, replicated, restored as each format: equal byte for byte and file for file."""
import hashlib
import os
import signal
import struct
import sys

from scenario import KIB, MIB, ROOT, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires_root()
requires("qemu-img", "mkfs.ntfs", "ntfs-3g", "losetup")
SIZE, START = 160 * MIB, MIB
TARGETS = {"raw": "raw", "vhd-fixed": "vpc", "vhd-dynamic": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def master_boot_record():
    """One partition of type 7 from START to the end; where it lies is told in sectors, the old addresses are "beyond"."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 7, b"\xfe\xff\xff", START // 512, (SIZE - START) // 512)
    return bytes(440) + b"FSHR\0\0" + entry + bytes(48) + b"\x55\xaa"


class Partition:
    """The first partition of a disk: its own loop device, for no kernel here looks for partitions on one."""

    def __init__(self, s, disk, read_only=False):
        words = ["losetup", "--find", "--show", "--offset", START, "--sizelimit", SIZE - START]
        self.device = run(*words, *(["--read-only"] if read_only else []), disk).stdout.strip()
        self.s, self.at, self.read_only, self.attached = s, s.path("ntfs"), read_only, True
        s.at_end(self.detach)

    def detach(self):
        """Once: the device may be somebody else's afterwards."""
        if self.attached:
            self.attached = False
            run("losetup", "-d", self.device)

    def __enter__(self):
        self.s.mount_filesystem(self.device, self.at, "-t", "ntfs-3g", *(["-o", "ro"] if self.read_only else []))
        return self.at

    def __exit__(self, *failure):
        run("umount", self.at)
        self.detach()


def change(s, disk, name):
    """Writes, grows, cuts, renames and deletes files; returns what is there then."""
    with Partition(s, disk) as at:
        write_tree(os.path.join(at, name), s.random, files=50)
        for folder, _, files in list(os.walk(at)):
            for file in sorted(files):
                path, lot = os.path.join(folder, file), s.random.random()
                if lot < 0.15:
                    os.unlink(path)
                elif lot < 0.3:
                    os.truncate(path, s.random.randrange(300 * KIB))
                elif lot < 0.4:
                    os.rename(path, path + ".переименован")
        return tree_digest(at)


def flat(s, image, driver):
    run("qemu-img", "convert", "-f", driver, "-O", "raw", image, s.path("flat.raw"))
    return s.path("flat.raw")


with Scenario(seed=41) as s:
    source = s.path("source.raw")
    with open(source, "wb") as file:
        file.truncate(SIZE)
        file.write(master_boot_record())
    made = Partition(s, source)
    run("mkfs.ntfs", "--quick", "--force", "--quiet", "--label", "Volume", "--partition-start", START // 512, made.device)
    made.detach()
    change(s, source, "before")
    url = s.make_vault()
    # One that goes by its geometry, as qemu-img makes them, and one that goes by its size, as Hyper-V does.
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic", source, s.path("qemu.vhd"))
    s.farshore("image", "convert", source, s.path("win.vhd"), "--to", "vhd-dynamic")
    disks = ("qemu", "win")
    for disk in disks:
        s.farshore("protect", s.path(disk + ".vhd"), "--name", disk, "--vault", url, "--key-file", s.key())
    process, mnt = s.mount(served="win")
    shown = {disk: os.path.join(mnt, disk, "disk.raw") for disk in disks}
    s.farshore("upload", "--once")
    for disk in disks:
        change(s, shown[disk], "during")
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        os.kill(int(file.read().split()[0]), signal.SIGKILL)
    trees = {disk: change(s, shown[disk], "after") for disk in disks}
    s.farshore("upload", "--once")
    cuts = {disk: digest(shown[disk]) for disk in disks}
    for disk in disks:
        for target, driver in TARGETS.items():
            out = s.path("out." + target)
            s.farshore("restore", disk, "--vault", url, "--key-file", s.key(), "--at", "latest", "--to", out, "--to-format", target)
            check(digest(flat(s, out, driver)) == cuts[disk], f"{disk} restored as {target} differs")
            with Partition(s, s.path("flat.raw"), read_only=True) as at:
                check(tree_digest(at) == trees[disk], f"{disk} restored as {target}: its files differ")
            os.unlink(out)
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
    for disk in disks:
        s.farshore("unprotect", disk)
        check(digest(flat(s, s.path(disk + ".vhd"), "vpc")) == cuts[disk], f"{disk}: the released image differs for QEMU")
        run(sys.executable, os.path.join(ROOT, "Tests", "tools", "vhd.py"), "read", s.path(disk + ".vhd"), s.path("flat.raw"))
        check(digest(s.path("flat.raw")) == cuts[disk], f"{disk}: the released image differs for vhd.py")
        print(f"{disk}: NTFS changed through the mount and a killed worker, restored as {', '.join(TARGETS)}: equal, {len(trees[disk].splitlines())} files")
