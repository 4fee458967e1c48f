"""kill -9 of every Farshore process at each place of the program that makes a system call: on the write path, in sealing, recycling,
destage, points, recovery, the first replication and the later ones. A library between the program and libc notes the places and
kills the process group there. Afterwards every acknowledged write is there, none torn; the vault is whole and restores."""
# Promise D2: kill -9 of every Farshore process loses no acknowledged write.
# Promise D3: A read returns each 4 KiB block as one write left it, never a mixture of two states.
import bisect
import collections
import os
import shutil
import signal
import subprocess
import sys
import time

from scenario import KIB, MIB, PROGRAM, ROOT, SCALE, Scenario, check, requires, run

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
import logstate
import sites
from numbered import RUN, NumberedDisk

requires("nm")
KILLS = 10 if SCALE < 2 else int(25 * SCALE)
SECONDS = 1.2 if SCALE < 2 else 2.0
DISK_BYTES, SEGMENT_BYTES, BUDGET_BYTES = 16 * MIB, 256 * KIB, 12 * MIB
# Before these a kill finds another state on disk than before the call that went before; the others come after them.
CHANGING = ("write", "writev", "pwrite", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate", "ftruncate64", "fallocate",
            "create", "rename", "renameat", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "send", "sendmsg")
TRIES = 4
# After this many kills the disks begin anew, so that the first replication and its freeze are met again.
LIFE = 6


class Places:
    """The places met so far, by the program's role."""

    def __init__(self, s):
        self.files = {role: s.path("places-" + role) for role in ("mount", "upload")}
        self.met = {}
        self.killed = collections.Counter()
        self.missed = collections.Counter()

    def read(self):
        for role, file in self.files.items():
            if not os.path.exists(file):
                continue
            with open(file, errors="replace") as lines:
                for line in lines:
                    fields = line.rstrip("\n").split("\t")
                    if len(fields) == 4:
                        self.met.setdefault((role, fields[0]), fields[1:])

    def left(self):
        """Those no kill has met yet; what was tried often enough and never met again is left out."""
        self.read()
        return [key for key in self.met if not self.killed[key] and self.missed[key] < TRIES]

    def next(self, rng):
        """The least tried first, and of these the ones that change something."""
        left = self.left()
        if not left:
            return rng.choice(sorted(key for key in self.met if self.killed[key]))
        rank = lambda key: (self.missed[key], self.met[key][0] not in CHANGING)
        least = min(map(rank, left))
        return rng.choice(sorted(key for key in left if rank(key) == least))

    def a_flush(self):
        """A place that is met under load, and a count that lets the load begin."""
        self.read()
        return next(key for key in sorted(self.met) if key[0] == "mount" and self.met[key][0] == "pwrite" and "/segment-" in self.met[key][1]), 20

    def names(self):
        """Address to function, for the list that is printed."""
        table = []
        for line in run("nm", "--defined-only", PROGRAM).stdout.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in "tT":
                table.append((int(words[0], 16), words[2]))
        table.sort()
        symbols = {}
        for _, _, frames in self.met.values():
            for frame in frames.split():
                at = bisect.bisect_right(table, (int(frame, 16), "~")) - 1
                symbols[frame] = table[at][1] if at >= 0 else "?"
        mangled = sorted(set(symbols.values()))
        demangle = shutil.which("swift-demangle") or shutil.which("c++filt")
        plain = subprocess.run([demangle, "--simplified"] if demangle and "swift" in demangle else [demangle or "cat"],
                               input="\n".join(mangled), capture_output=True, text=True).stdout.splitlines()
        told = dict(zip(mangled, plain))
        return {frame: told.get(symbol, symbol) for frame, symbol in symbols.items()}

    def list(self):
        names = self.names()
        lines = []
        for key, (call, path, frames) in sorted(self.met.items(), key=lambda one: (one[0][0], one[1])):
            chain = " < ".join(names[frame].split("(")[0][-60:] for frame in frames.split()[:3])
            lines.append(f"{self.killed[key]:3d} {key[0]:6s} {call:12s} {os.path.basename(path)[:28]:28s} {chain}")
        return lines


class World:
    """Site, vault and two disks, which live through kills and begin anew from a copy."""

    def __init__(self, s):
        self.s, self.home = s, s.path("world")
        s.site = os.path.join(self.home, "site")
        os.mkdir(self.home)
        self.url = s.make_vault("file://" + os.path.join(self.home, "vault"))
        with open(self.image("raw"), "wb") as file:
            file.truncate(DISK_BYTES)
        run(sys.executable, os.path.join(ROOT, "Tests", "tools", "vhd.py"), "make", self.image("vhd"), s.path("empty.raw"),
            "--size", DISK_BYTES, "--block", 512 * KIB, "--filled", "0")
        for name in ("raw", "vhd"):
            s.farshore("protect", self.image(name), "--name", name, "--vault", self.url, "--key-file", s.key(), "--interval", "1")
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
        self.disks = [NumberedDisk("raw", list(range(0, 4 * MIB, RUN)), seed), NumberedDisk("vhd", list(range(0, DISK_BYTES, 256 * KIB)), seed + 1)]


class Round:
    """One life of the mount and the uploader, ended by a kill."""

    def __init__(self, s, world, places):
        self.s, self.world, self.places = s, world, places
        self.library = sites.build(s.dir)
        self.mnt = s.path("mnt")
        os.makedirs(self.mnt, exist_ok=True)
        s.at_end(lambda: subprocess.run(["umount", "-l", self.mnt], capture_output=True))

    def environment(self, role, target, count):
        return sites.places(self.library, self.places.files[role], target[1] if target and target[0] == role else None, count)

    def run(self, seconds, target=None, count=1):
        """True when the target was met; else the end is a clean one, in which it may be met too."""
        served = lambda: os.path.ismount(self.mnt) and all(os.path.exists(os.path.join(self.mnt, disk.name, "disk.raw")) for disk in self.world.disks)
        mount = self.s.start("mount", self.mnt, "--foreground", env=self.environment("mount", target, count))
        uploader, writing = None, False
        try:
            if not self.wait(mount, served):
                return self.ended(mount, target, "mount")
            if self.verify(mount):
                uploader = self.s.start("upload", "--foreground", env=self.environment("upload", target, count))
                for disk in self.world.disks:
                    disk.start(os.path.join(self.mnt, disk.name, "disk.raw"), rate=400)
                writing = True
                self.exercise(mount, uploader, seconds)
            errors = [error for disk in self.world.disks for error in disk.stop()] if writing else []
            writing = False
            for process, role in ((uploader, "upload"), (mount, "mount")):
                if process and (self.ended(process, target, role) or self.stop(process) and self.ended(process, target, role)):
                    return True
            check(not errors, f"a writer saw {errors}")
            return False
        finally:
            for process in (mount, uploader):
                if process:
                    self.kill(process)
            if os.path.ismount(self.mnt):
                run("umount", "-l", self.mnt)
            if writing:
                for disk in self.world.disks:
                    disk.stop()

    def wait(self, process, condition):
        deadline = time.monotonic() + 60
        while not condition():
            if process.poll() is not None:
                return False
            check(time.monotonic() < deadline, "the mount did not get ready\n" + open(process.log).read())
            time.sleep(0.01)
        return True

    def verify(self, mount):
        """False when the kill came in between."""
        try:
            for disk in self.world.disks:
                fd = os.open(os.path.join(self.mnt, disk.name, "disk.raw"), os.O_RDONLY)
                try:
                    disk.check(lambda offset, count: os.pread(fd, count, offset), disk.acknowledged())
                finally:
                    os.close(fd)
        except OSError:
            if mount.poll() is None:
                mount.wait(30)
            return False
        return True

    def exercise(self, mount, uploader, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until and mount.poll() is None and uploader.poll() is None:
            self.s.farshore("point", "cut", "raw", "vhd", ok=False)
            self.s.farshore("status", ok=False)
            time.sleep(0.1)

    def stop(self, process):
        """False after a clean end. SIGTERM may come before the process has said what it does then."""
        return self.s.stop(process) not in (0, -signal.SIGTERM)

    def ended(self, process, target, role):
        if process.poll() is None:
            return False
        check(process.returncode == -signal.SIGKILL and target and target[0] == role,
              f"{role} ended by itself: {process.returncode}\n{open(process.log).read()}")
        return True

    def kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def vault_is_whole(s, world, one):
    """What was replicated through all the kills restores to exactly the disk."""
    check(not one.run(0.5), "killed without a target")
    s.farshore("upload", "--once")
    s.farshore("vault", "check", world.url, "--key-file", s.key(), "--read-data")
    for disk in world.disks:
        out = s.path("restored.raw")
        s.farshore("restore", disk.name, "--vault", world.url, "--key-file", s.key(), "--at", "latest", "--to", out, site=world.elsewhere)
        with open(out, "rb") as file:
            disk.check(lambda offset, count: os.pread(file.fileno(), count, offset), disk.acknowledged())
        os.unlink(out)


with Scenario() as s:
    places = Places(s)
    world = World(s)
    one = Round(s, world, places)
    # What there is: lives with the first replication, with its end, with recovery after a kill.
    one.run(2)
    one.run(2, *places.a_flush())
    one.run(1)
    kills = missed = lives = 0
    while kills < KILLS or SCALE >= 2 and places.left():
        if lives % LIFE == 0:
            vault_is_whole(s, world, one)
            world.begin()
        lives += 1
        target = places.next(s.random)
        count = s.random.randrange(1, 40) if places.killed[target] else s.random.choice((1, 1, 1, 3))
        if one.run(SECONDS, target, 1 if places.missed[target] else count):
            places.killed[target] += 1
            kills += 1
        else:
            places.missed[target] += 1
            missed += 1
        check(missed < 2 * kills + 40, "most places are not met again")
    vault_is_whole(s, world, one)
    places.read()
    if SCALE >= 2 or os.environ.get("FARSHORE_LIST"):
        print("\n".join(places.list()))
    operations = sum(disk.acknowledged()[n] for disk in world.disks for n in range(len(disk.writers)))
    changing = [key for key in places.met if places.met[key][0] in CHANGING]
    print(f"{len(places.met)} places met, killed at {len([key for key in places.met if places.killed[key]])} of them; {len(changing)} of them change something, "
          f"killed at {len([key for key in changing if places.killed[key]])}; {kills} kills, {missed} lives without one; "
          f"{operations} acknowledged operations since the last new beginning, none lost")
    if SCALE >= 2:
        check(len([key for key in changing if places.killed[key]]) > 0.9 * len(changing), "too many places were never met again")
