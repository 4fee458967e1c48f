"""The power fails: image, log, site and vault lie on ext4 and on xfs on a device whose every write is logged (QEMU's blklogwrites
driver). The device is rebuilt at many places of that log, once as it was written, once with sectors lost and torn that no
flush covers; the filesystem replays its journal, another boot id is shown to Farshore, and the disks are opened."""
# Promise D1: A write is durable when fsync, fdatasync or a write with O_SYNC or O_DSYNC was acknowledged after it.
# Promise D4: After a power loss the disk holds a prefix of its writes in sequence order, and at least every durable one.
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

from scenario import KIB, MIB, ROOT, SCALE, Failed, Scenario, check, requires, requires_root, run

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
import logstate
from numbered import RUN, NumberedDisk, Wrong
from sites import LEAVE_OUT, Faults
from writelog import WriteLog

FILESYSTEMS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
POINTS = max(5, int(25 * SCALE))
SECONDS = min(20, 4 + int(2 * SCALE))
DEVICE_BYTES, DISK_BYTES = 512 * MIB, 64 * MIB
# Small ones, so that sealing, recycling and destage are met at every few writes.
SEGMENT_BYTES, BUDGET_BYTES = MIB, 24 * MIB
# Files whose syncs are left out in runs that must fail, and the exit status of such a run.
UNSYNCED, CAUGHT = ("/segment-", "/vhd.img$"), 3
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 4 << 30 else None


class Device:
    """A file that is attached to a loop device and mounted while it is looked at."""

    def __init__(self, s, directory):
        self.s, self.directory, self.loop = s, directory, None
        s.at_end(self.detach)

    def attach(self, file, *options):
        self.loop = run("losetup", "--find", "--show", file).stdout.strip()
        os.makedirs(self.directory, exist_ok=True)
        run("mount", *options, self.loop, self.directory)

    def detach(self):
        if os.path.ismount(self.directory):
            run("umount", self.directory)
        if self.loop:
            run("losetup", "-d", self.loop)
            self.loop = None


# Of XFS: B-trees, directories, and clusters of inodes.
XFS_BLOCKS = (b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC", b"BMA3", b"XDB3", b"XDD3", b"XDF3")


def is_whole(offset, head):
    """The super blocks of ext4 and of its journal have 1,024 bytes, and ext4 cannot be mounted when one is torn. XFS takes a block whose
    first sector is new for one that need not be recovered from its log."""
    return offset == 0 or head == b"\xc0\x3b\x39\x98\0\0\0\4" or head[:4] in XFS_BLOCKS or head[:2] == b"IN"


def own_namespace():
    """Mounts of this process are its own, so that it may show Farshore another boot id than the kernel's."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rprivate", "/")


def copy_sparse(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            new.seek(at)
            while at < end:
                at += os.sendfile(new.fileno(), old.fileno(), at, end - at)


class Caught(Failed):
    """What was found at a point is not what must be there."""


class Campaign:
    def __init__(self, s, kind, unsynced=None):
        self.s, self.kind = s, kind
        self.env = None
        if unsynced:
            faults = Faults(s.dir)
            for place, call in enumerate(("fsync", "fdatasync")):
                faults.arm(call, unsynced, LEAVE_OUT, rule=place)
            self.env = faults.environment
        self.volume = s.path("volume")
        s.site = os.path.join(self.volume, "site")
        self.device = Device(s, self.volume)
        self.boot = s.path("boot-id")
        self.another_boot()
        run("mount", "--bind", self.boot, "/proc/sys/kernel/random/boot_id")
        scratch = MEMORY and os.path.join(MEMORY, f"farshore-power-loss-{os.getpid()}")
        self.scratch = scratch or s.path("scratch")
        os.makedirs(self.scratch)
        s.at_end(lambda: shutil.rmtree(self.scratch))
        self.url = "file://" + os.path.join(self.volume, "vault")
        self.log = s.path("writes.log")
        mark = lambda: os.stat(self.log).st_size
        # The VHD's blocks have 512 KiB: each run of 64 KiB lies in one of its own.
        self.disks = [NumberedDisk("raw", list(range(0, 8 * MIB, RUN)), s.seed, mark),
                      NumberedDisk("vhd", list(range(0, DISK_BYTES, 512 * KIB)), s.seed + 1, mark)]

    def another_boot(self):
        with open(self.boot, "w") as file:
            file.write(f"{uuid.UUID(int=self.s.random.getrandbits(128), version=4)}\n")

    def image(self, name):
        return os.path.join(self.volume, name + ".img")

    # --- recording

    def prepare(self):
        """The device as it is before the first write of interest."""
        self.before = s_path = self.s.path("before.img")
        with open(s_path, "wb") as file:
            file.truncate(DEVICE_BYTES)
        run(*FILESYSTEMS[self.kind], s_path)
        self.device.attach(s_path)
        self.s.make_vault(self.url)
        with open(self.image("raw"), "wb") as file:
            file.truncate(DISK_BYTES)
        run(sys.executable, os.path.join(ROOT, "Tests", "tools", "vhd.py"), "make", self.image("vhd"), self.s.path("empty.raw"),
            "--size", DISK_BYTES, "--block", 512 * KIB, "--filled", "0")
        for disk in self.disks:
            self.s.farshore("protect", self.image(disk.name), "--name", disk.name, "--vault", self.url, "--key-file", self.s.key(), "--policy", self.s.policy(1))
            logstate.edit(self.image(disk.name) + ".log", {"segment-bytes": SEGMENT_BYTES, "budget-bytes": BUDGET_BYTES})
        self.device.detach()

    def record(self):
        data, exported = self.s.path("data.img"), self.s.path("exported")
        copy_sparse(self.before, data)
        for path in (self.log, exported):
            open(path, "w").close()
        daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=data,filename={data},cache.no-flush=on,discard=unmap",
             "--blockdev", f"driver=file,node-name=log,filename={self.log},cache.no-flush=on",
             "--blockdev", "driver=blklogwrites,node-name=writes,file=data,log=log,log-sector-size=512,discard=unmap",
             "--export", f"type=fuse,id=export,node-name=writes,mountpoint={exported},writable=on"], stdin=subprocess.DEVNULL)
        self.s.at_end(daemon.kill)
        deadline = time.monotonic() + 20
        while os.stat(exported).st_size != DEVICE_BYTES:
            check(daemon.poll() is None and time.monotonic() < deadline, "qemu-storage-daemon does not serve the device")
            time.sleep(0.02)
        self.device.attach(exported, "-o", "discard")
        self.run_writers()
        self.device.detach()
        daemon.send_signal(signal.SIGTERM)
        check(daemon.wait(30) == 0, "qemu-storage-daemon failed")
        return data

    def run_writers(self):
        """Two runs of the mount: the first ends by kill -9, so that a recovery lies in the middle of the log."""
        for last in (False, True):
            process, mnt = self.s.mount(served="vhd", env=self.env)
            uploader = self.s.start("upload", "--foreground")
            for disk in self.disks:
                disk.start(os.path.join(mnt, disk.name, "disk.raw"), rate=150)
            until = time.monotonic() + SECONDS / 2
            while time.monotonic() < until:
                time.sleep(0.4)
                self.s.farshore("point", "cut", "raw", "vhd")
            if not last:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            errors = [error for disk in self.disks for error in disk.stop()]
            check(not (last and errors), f"a writer saw {errors}")
            check(self.s.stop(uploader) == 0, "the uploader failed\n" + open(uploader.log).read())
            if last:
                check(self.s.stop(process) == 0, "the mount did not stop cleanly\n" + open(process.log).read())
            else:
                run("umount", "-l", mnt)

    # --- replaying

    def replay(self, data):
        writes = WriteLog(self.log)
        count = len(writes.entries)
        flushes = [place + 1 for place, entry in enumerate(writes.entries) if entry.flags & 1]
        forward, point = os.path.join(self.scratch, "forward.img"), os.path.join(self.scratch, "point.img")
        copy_sparse(self.before, forward)
        fd = os.open(forward, os.O_RDWR)
        applied, lost, lengths = 0, 0, set()
        for number, (place, torn) in enumerate(self.choose(count, flushes)):
            flushed = writes.flush_before(place)
            writes.apply(fd, applied, flushed)
            applied = flushed
            copy_sparse(forward, point)
            rng = random.Random(f"{self.s.seed} {self.kind} {place} {torn}")
            with open(point, "r+b", buffering=0) as file:
                if torn:
                    lost += writes.apply_torn(file.fileno(), flushed, place, rng, is_whole)
                else:
                    writes.apply(file.fileno(), flushed, place)
            try:
                lengths.add(self.open_at(point, number, writes.entries[place - 1].end))
            except (Failed, Wrong, OSError) as error:
                kept = os.environ.get("FARSHORE_KEEP")
                if kept:
                    shutil.copy(point, kept)
                raise Caught(f"{self.kind}: after entry {place} of {count}, flushed up to {flushed}, {'torn' if torn else 'whole'}: {error}")
            if number % 100 == 99:
                print(f"{self.kind}: {number + 1} of {POINTS} points", flush=True)
        # The reader of the log is right: all of it is the device as QEMU left it.
        writes.apply(fd, applied, count)
        os.close(fd)
        run("cmp", forward, data)
        refusals = sum(disk.refused.total() for disk in self.disks)
        operations = sum(writer.acknowledged for disk in self.disks for writer in disk.writers)
        print(f"{self.kind}: {operations} acknowledged operations, {refusals} refused at the budget, {count} entries, {len(flushes)} flushes; "
              f"{number + 1} points opened, {len(lengths)} different states, {lost} sectors lost in torn ones")

    def choose(self, count, flushes):
        """Places in ascending order, each with whether it is torn: half of them just before a flush, where most is unflushed."""
        rng, chosen = self.s.random, []
        for number in range(POINTS):
            place = rng.choice(flushes) - 1 if number % 2 else rng.randrange(1, count + 1)
            chosen.append((max(place, 1), number % 3 != 0))
        return sorted(chosen)

    def open_at(self, point, number, mark):
        self.device.attach(point)
        self.another_boot()
        for disk in self.disks:
            self.s.farshore("image", "info", self.image(disk.name))
        least = {disk.name: disk.durable_at(mark) for disk in self.disks}
        lengths = self.serve(least, number % 8 == 0) if number % 2 == 0 else self.end_protection(least)
        self.device.detach()
        return lengths

    def serve(self, least, also_the_vault):
        """Through a real mount, which must take writes again."""
        process, mnt = self.s.mount(served="vhd")
        lengths = []
        for disk in self.disks:
            fd = os.open(os.path.join(mnt, disk.name, "disk.raw"), os.O_RDWR)
            lengths += disk.check(lambda offset, count: os.pread(fd, count, offset), least[disk.name])
            os.pwrite(fd, b"after the power came back".ljust(4096), DISK_BYTES - 4096)
            os.fsync(fd)
            os.close(fd)
        check(self.s.stop(process) == 0, "the mount did not stop cleanly\n" + open(process.log).read())
        if also_the_vault:
            # The vault lost power too; what it has is whole, and replication goes on in the new lineage.
            self.s.farshore("upload", "--once")
            self.s.farshore("vault", "check", self.url, "--key-file", self.s.key(), "--read-data")
        return tuple(lengths)

    def end_protection(self, least):
        """The log merged into the image, which then stands alone; the VHD is read by two other programs."""
        lengths, flat = [], os.path.join(self.scratch, "flat.raw")
        for disk in self.disks:
            self.s.farshore("unprotect", disk.name)
            image = self.image(disk.name)
            if disk.name == "vhd":
                run("qemu-img", "convert", "--image-opts", f"driver=vpc,force_size_calc=current_size,file.filename={image}", "-O", "raw", flat)
                run(sys.executable, os.path.join(ROOT, "Tests", "tools", "vhd.py"), "read", image, flat + ".2")
                run("cmp", flat, flat + ".2")
                image = flat
            with open(image, "rb") as file:
                lengths += disk.check(lambda offset, count: os.pread(file.fileno(), count, offset), least[disk.name])
        return tuple(lengths)


def campaign(kind, seed, unsynced=None):
    own_namespace()
    with Scenario(seed) as s:
        one = Campaign(s, kind, unsynced)
        one.prepare()
        began = time.monotonic()
        data = one.record()
        middle = time.monotonic()
        one.replay(data)
        print(f"{kind}: recorded in {middle - began:.0f} s, replayed in {time.monotonic() - middle:.0f} s")


def campaigns(seed, *words):
    """One process for each filesystem, at the same time; what they said and their exit statuses."""
    command = [sys.executable, os.path.abspath(__file__)]
    started = [subprocess.Popen([*command, kind, str(seed), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for kind in FILESYSTEMS]
    return [(process.communicate()[0], process.returncode) for process in started]


def main():
    requires("qemu-storage-daemon", "qemu-img", "mkfs.ext4", "mkfs.xfs", "losetup")
    requires_root()
    seed = int(os.environ.get("FARSHORE_SEED", random.SystemRandom().randrange(1 << 32)))
    done = campaigns(seed)
    print("".join(text for text, _ in done), flush=True)
    check(all(status == 0 for _, status in done), "a campaign failed")
    if SCALE < 2:
        return
    # The campaign can fail: with syncs left out that the promise rests on it must.
    for unsynced in UNSYNCED:
        for text, status in campaigns(seed, unsynced):
            print(f"{unsynced} not synced: {text.strip().splitlines()[-1]}")
            check(status == CAUGHT, f"not caught: {unsynced} is never synced\n{text}")


if len(sys.argv) > 1:
    try:
        campaign(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
    except Caught as caught:
        print(caught)
        sys.exit(CAUGHT)
else:
    main()
