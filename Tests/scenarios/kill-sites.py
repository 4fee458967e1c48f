"""kill -9 of every Farshore process at each place of the program that makes a system call: on the write path, in sealing, recycling,
destage, points, recovery, the first replication and the later ones. A library between the program and libc notes the places and
kills the process group there. Afterwards every acknowledged write is there, none torn; the vault is whole and restores."""
# Promise D2: kill -9 of every Farshore process loses no acknowledged write.
# Promise D3: A read returns each 4 KiB block as one write left it, never a mixture of two states.
import collections
import os
import signal
import sys
import time

from scenario import ROOT, SCALE, Scenario, check, requires

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
import sites
from lives import CHANGING, Mounts, World

requires("nm")
KILLS = 10 if SCALE < 2 else int(25 * SCALE)
SECONDS = 1.2 if SCALE < 2 else 2.0
TRIES = 4
# After this many kills the disks begin anew, so that the first replication and its freeze are met again.
LIFE = 6


class Places(sites.Places):
    def __init__(self, s):
        super().__init__(s)
        self.killed = collections.Counter()
        self.missed = collections.Counter()

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

    def list(self):
        names = self.names()
        return [f"{self.killed[key]:3d} {self.told(key, names)}" for key in sorted(self.met, key=lambda key: (key[0], self.met[key]))]


class Round(Mounts):
    """One life of the mount and the uploader, ended by a kill."""

    def __init__(self, s, world, places):
        super().__init__(s, world)
        self.places = places
        self.library = sites.build(s.dir)

    def environment(self, role, target, count):
        return sites.places(self.library, self.places.files[role], target[1] if target and target[0] == role else None, count)

    def run(self, seconds, target=None, count=1):
        """True when the target was met; else the end is a clean one, in which it may be met too."""
        mount = self.start(self.environment("mount", target, count))
        uploader, writing = None, False
        try:
            if not self.wait(mount, self.served):
                return self.ended(mount, target, "mount")
            if self.verify_unless_killed(mount):
                uploader = self.s.start("upload", "--foreground", env=self.environment("upload", target, count))
                for disk in self.world.disks:
                    disk.start(self.file(disk), rate=400)
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
            self.detach()
            if writing:
                for disk in self.world.disks:
                    disk.stop()

    def verify_unless_killed(self, mount):
        """False when the kill came in between."""
        try:
            self.verify()
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


def vault_is_whole(world, one):
    """What was replicated through all the kills restores to exactly the disk."""
    check(not one.run(0.5), "killed without a target")
    world.check_vault()


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
            vault_is_whole(world, one)
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
        if lives % 25 == 0:
            print(f"{lives} lives, {kills} kills at {len(+places.killed)} places, {len(places.left())} left", flush=True)
        check(missed < 2 * kills + 40, "most places are not met again")
    vault_is_whole(world, one)
    places.read()
    if SCALE >= 2 or os.environ.get("FARSHORE_LIST"):
        print("\n".join(places.list()))
    changing = [key for key in places.met if places.met[key][0] in CHANGING]
    print(f"{len(places.met)} places met, killed at {len([key for key in places.met if places.killed[key]])} of them; {len(changing)} of them change something, "
          f"killed at {len([key for key in changing if places.killed[key]])}; {kills} kills, {missed} lives without one; "
          f"{world.operations()} acknowledged operations since the last new beginning, none lost")
    if SCALE >= 2:
        check(len([key for key in changing if places.killed[key]]) > 0.9 * len(changing), "too many places were never met again")
