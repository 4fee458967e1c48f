"""A site with a raw disk and a dynamic VHD that share points, a directory vault, and the lives of a mount and an uploader under load: what
the campaigns at single places of the program (kill-sites, faults) have in common. Not a scenario.
"""
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import logstate
from numbered import RUN, NumberedDisk
from scenario import KIB, MIB, ROOT, check, run

DISK_BYTES, SEGMENT_BYTES, BUDGET_BYTES = 16 * MIB, 256 * KIB, 12 * MIB
# Before these a kill finds another state on disk than before the call that went before; the others come after them.
CHANGING = ("write", "writev", "pwrite", "pwrite64", "pwritev", "fsync", "fdatasync", "sync_range", "ftruncate", "ftruncate64", "fallocate",
            "create", "rename", "renameat", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "send", "sendmsg")


class World:
    """Site, vault and two disks of one machine, which live on from mount to mount and begin anew from a copy."""

    def __init__(self, s, tolerated=(errno.ENOSPC,)):
        self.s, self.tolerated, self.home = s, tolerated, s.path("world")
        s.site = os.path.join(self.home, "site")
        os.mkdir(self.home)
        self.url = s.make_vault("file://" + os.path.join(self.home, "vault"))
        with open(self.image("raw"), "wb") as file:
            file.truncate(DISK_BYTES)
        run(sys.executable, os.path.join(ROOT, "Tests", "tools", "vhd.py"), "make", self.image("vhd"), s.path("empty.raw"),
            "--size", DISK_BYTES, "--block", 512 * KIB, "--filled", "0")
        for name in ("raw", "vhd"):
            s.farshore("protect", self.image(name), "--name", name, "--machine", "guest", "--vault", self.url, "--key-file", s.key(), "--policy", s.policy(1))
            logstate.edit(self.image(name) + ".log", {"segment-bytes": SEGMENT_BYTES, "budget-bytes": BUDGET_BYTES})
        run("cp", "-a", self.home, s.path("template"))
        self.begin()

    def image(self, name):
        return os.path.join(self.home, name + ".img")

    def begin(self):
        shutil.rmtree(self.home)
        # A host that restores remembers the heads it saw, and would take the vault of the next life for a rolled back one.
        self.elsewhere = self.s.path(f"elsewhere-{self.s.random.getrandbits(64):x}")
        run("cp", "-a", self.s.path("template"), self.home)
        seed = self.s.random.getrandbits(32)
        self.disks = [NumberedDisk("raw", list(range(0, 4 * MIB, RUN)), seed, tolerated=self.tolerated),
                      NumberedDisk("vhd", list(range(0, DISK_BYTES, 256 * KIB)), seed + 1, tolerated=self.tolerated)]

    def operations(self):
        return sum(sum(disk.acknowledged()) for disk in self.disks)

    def check_vault(self):
        """What is in the vault, once all of it was sent, restores to exactly the disks."""
        self.s.farshore("upload", "--once")
        self.s.farshore("vault", "check", self.url, "--key-file", self.s.key(), "--read-data")
        for disk in self.disks:
            out = self.s.path("restored.raw")
            self.s.farshore("restore", disk.name, "--vault", self.url, "--key-file", self.s.key(), "--at", "latest", "--to", out, site=self.elsewhere)
            with open(out, "rb") as file:
                disk.check(lambda offset, count: os.pread(file.fileno(), count, offset), disk.acknowledged())
            os.unlink(out)


class Mounts:
    """The mount of a world, again and again."""

    def __init__(self, s, world):
        self.s, self.world = s, world
        self.mnt = s.path("mnt")
        os.makedirs(self.mnt, exist_ok=True)
        s.at_end(lambda: subprocess.run(["umount", "-l", self.mnt], capture_output=True))

    def served(self):
        return os.path.ismount(self.mnt) and all(os.path.exists(self.file(disk)) for disk in self.world.disks)

    def file(self, disk):
        return os.path.join(self.mnt, disk.name, "disk.raw")

    def start(self, environment):
        return self.s.start("mount", self.mnt, "--foreground", env=environment)

    def wait(self, process, condition, seconds=120):
        """False when the process ended before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if process.poll() is not None:
                return False
            check(time.monotonic() < deadline, "the mount did not get ready\n" + open(process.log).read())
            time.sleep(0.01)
        return True

    def verify(self):
        for disk in self.world.disks:
            fd = os.open(self.file(disk), os.O_RDONLY)
            try:
                disk.check(lambda offset, count: os.pread(fd, count, offset), disk.acknowledged())
            finally:
                os.close(fd)

    def kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def detach(self):
        if os.path.ismount(self.mnt):
            run("umount", "-l", self.mnt)
