"""Every place where the mount or the uploader writes, syncs, makes, renames, removes or reads a file fails: with EIO and with ENOSPC, once and until
it is mended, and with a part of the bytes; under load, at the start (after a clean end, a kill, a failed sync), at the end. Then: nothing
acknowledged is lost or torn, on the disk and restored from the vault; the guest or `farshore status` was told; nothing trapped, hung or ended with
another status than documented; once the place works again so does the disk, by itself or, where it says so, after a new mount."""
# Promise F2: After fsync failed once, the disk refuses writes until it is opened again.
# Promise F6: A failed write to the log is not acknowledged and leaves no trace that later hides another record.
# Promise F10: A local file call that fails, at whatever place, is told to the guest or in health where it has a
# consequence; nothing acknowledged is lost, and reads that do not need the file go on.
import collections
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from scenario import KIB, MIB, ROOT, SCALE, Failed, Scenario, check, requires

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
import sites
from lives import Mounts, World
from numbered import Wrong

requires("nm")
# Each place once in each form from 20 on.
LIVES = 6 if SCALE < 2 else int(60 * SCALE) if SCALE < 20 else sys.maxsize
READS = ("pread", "preadv2", "read")
SYNCS = ("fsync", "fdatasync", "sync_range")
NEED_SPACE = ("write", "pwrite", "ftruncate", "fallocate", "create", "rename", "renameat", "link", "linkat", "mkdir", "mkdirat") + SYNCS
CALLS = NEED_SPACE + READS + ("unlink", "unlinkat", "rmdir")
FORMS = {"EIO once": (errno.EIO, 1), "ENOSPC": (errno.ENOSPC, 0), "EIO": (errno.EIO, 0), "ENOSPC once": (errno.ENOSPC, 1), "short": (sites.SHORT, 0)}
# What the kernel or a peer serves, and the logs of the scenario itself: no files of ours.
NO_FILES = ("/dev/", "/proc/", "socket:", "pipe:", "anon_inode", "memfd:", "/memfd:", "/sys/")
STATUSES, NO_SPACE = range(12), 8
TRIES = 2
VAULT_EVERY = 12


class Places(sites.Places):
    """`origin`: how the life began, and in which part of it the place was first met."""

    def __init__(self, s):
        super().__init__(s)
        self.origin = {}
        self.logs = s.dir

    def learn(self, beginning, part):
        self.read()
        for key in self.met:
            self.origin.setdefault(key, (beginning, part))

    def forms(self, key):
        call, path, _ = self.met[key]
        inside = os.path.basename(path)
        if call not in CALLS or path.startswith(NO_FILES) or not path.strip() or (os.path.dirname(path) == self.logs and inside.endswith(".log")):
            return []
        forms = ["EIO once", "EIO"]
        if call in NEED_SPACE:
            forms += ["ENOSPC", "ENOSPC once"]
        return forms + (["short"] if call in READS + ("write", "pwrite") else [])

    def pairs(self, rng):
        """All of them; each place in one form before any comes in a second one."""
        keys = sorted(key for key in self.origin if self.forms(key))
        rng.shuffle(keys)
        left = {key: rng.sample(self.forms(key), len(self.forms(key))) for key in keys}
        while any(left.values()):
            for key in keys:
                if left[key]:
                    yield key, left[key].pop()


class Reader:
    """A guest that reads all the while; what it reads must be what somebody wrote there."""

    def __init__(self, mounts, disks, rng):
        self.errors, self.wrong = collections.Counter(), None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(mounts, disks, rng), daemon=True)
        self._thread.start()

    def _run(self, mounts, disks, rng):
        try:
            files = [(disk, os.open(mounts.file(disk), os.O_RDONLY)) for disk in disks]
        except OSError as error:
            self.errors[error.errno] += 1
            return
        while not self._stop.wait(0.01) and files:
            disk, fd = rng.choice(files)
            writer = rng.choice(disk.writers)
            try:
                writer.found_in(rng.choice(writer.runs), lambda offset, count: os.pread(fd, count, offset))
            except OSError as error:
                self.errors[error.errno] += 1
            except Wrong as wrong:
                self.wrong = wrong
        for _, fd in files:
            os.close(fd)

    def stop(self):
        self._stop.set()
        self._thread.join(120)
        check(not self._thread.is_alive(), "a read has not returned for 120 s")
        check(self.wrong is None, f"a read returned what nobody wrote: {self.wrong}")


class Life(Mounts):
    """One life with a fault; `signs` is how it was told."""

    def __init__(self, s, world, places):
        super().__init__(s, world)
        self.places = places
        self.faults = {role: sites.Faults(s.dir, "faults-" + role) for role in places.files}
        self.environment = {role: {**faults.environment, "FARSHORE_PLACES": places.files[role]} for role, faults in self.faults.items()}

    def run(self, target=None, form=None, beginning="clean"):
        """Whether the target was met."""
        self.target, self.form = target, form
        self.beginning, self.part = self.places.origin[target] if target else (beginning, None)
        self.signs, self.mount, self.uploader, self.reader, self.writing = collections.Counter(), None, None, None, []
        try:
            self.prepare()
            if self.part == "alone":
                self.alone()
            else:
                self.live()
            met = target is not None and self.faults[target[0]].failed() > 0
            self.disarm()
            return met
        finally:
            self.disarm()
            for process in (self.mount, self.uploader):
                if process:
                    self.kill(process)
            self.detach()

    # --- the fault

    def enter(self, part):
        """From here on what is met belongs to `part`."""
        if self.target is None and self.before:
            self.places.learn(self.beginning, self.before)
        self.before = part
        if self.target and self.part == part:
            error, times = FORMS[self.form]
            self.faults[self.target[0]].arm(self.places.met[self.target][0], "", error, times=times, place=int(self.target[1], 16))

    def disarm(self):
        for faults in self.faults.values():
            faults.disarm()

    def is_met(self):
        return self.target is None or self.faults[self.target[0]].failed() > 0

    def fault_is_in(self, *calls):
        return self.target is not None and self.places.met[self.target][0] in calls

    # --- the parts of a life

    def prepare(self):
        self.before = None
        if self.beginning == "new":
            self.world.begin()
        if self.beginning in ("kill", "unsynced"):
            mount = self.mount = self.start({}) if self.beginning == "kill" else self.start(self.faults["mount"].environment)
            check(self.wait(mount, self.served), "the mount before the fault did not start")
            if self.beginning == "unsynced":
                self.faults["mount"].arm("fdatasync", "/segment-", errno.EIO)
            self.begin_writing(self.world.disks)
            time.sleep(0.4)
            self.kill(mount)
            self.detach()
            self.end_writing(wanted=(errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.ENODEV))
            self.disarm()

    def alone(self):
        """The uploader without a mount."""
        self.enter("alone")
        done = self.s.farshore("upload", "--once", env=self.environment["upload"], ok=False)
        self.note_exit("upload --once", done.returncode, done.stderr)
        self.enter(None)

    def live(self):
        self.enter("start")
        self.mount = self.start(self.environment["mount"])
        if not self.wait(self.mount, lambda: "serving at" in open(self.mount.log).read()):
            self.note_exit("mount", self.mount.returncode, open(self.mount.log).read())
            check(not os.path.ismount(self.mnt), "the mount that did not start left a mount behind")
            return
        self.enter("uploader")
        self.start_uploader()
        self.enter("load")
        served = [disk for disk in self.world.disks if os.path.exists(self.file(disk))]
        self.begin_writing(served)
        self.reader = Reader(self, served, self.s.random)
        self.exercise()
        self.disarm()
        self.recover(served)
        self.end_writing()
        self.reader.stop()
        check(not self.reader.errors or self.fault_is_in(*READS) or self.part == "start",
              f"reads failed: {dict(self.reader.errors)}")
        self.end()

    def start_uploader(self):
        self.uploader = self.s.start("upload", "--foreground", env=self.environment["upload"])
        self.wait(self.uploader, lambda: "is ready" in open(self.uploader.log).read())

    def begin_writing(self, disks):
        for disk in disks:
            disk.refused.clear()
            disk.start(self.file(disk), rate=300)
        self.writing = list(disks)

    def end_writing(self, wanted=()):
        for disk in self.writing:
            errors = [error for error in disk.stop(120) if getattr(error, "errno", None) not in wanted]
            check(not errors, f"{disk.name}: a writer saw {errors}")
        self.writing = []

    def exercise(self):
        """Until the fault was met and has had a moment, and for the lasting ones until somebody was told."""
        began, met_at = time.monotonic(), None
        while True:
            now = time.monotonic()
            met_at = met_at or (now if self.is_met() else None)
            self.look()
            if now > began + (2.5 if self.target is None else 0.8 if self.part == "end" else 4) and (self.target is None or met_at is None):
                return
            if self.target and met_at and now > met_at + 0.6:
                if self.signs or FORMS[self.form][1] or self.form == "short" or now > met_at + 8:
                    return
            self.ended()
            time.sleep(0.05)

    def look(self):
        """What an administrator sees now."""
        cut = self.s.farshore("point", "cut", "raw", "vhd", ok=False, timeout=180)
        check(cut.returncode in STATUSES, f"point cut: {cut.returncode}")
        if cut.returncode:
            self.signs["point cut failed"] += 1
        told = self.s.farshore_json("status", timeout=180)
        for disk in told["disks"]:
            if disk["health"] != "normal":
                self.signs[f"{disk['health']}: {self.plain(disk['reason'])}"] += 1
                check(disk.get("remedy") and "no longer in the log" not in disk["reason"], f"not a good word: {disk}")
        for warning in told["warnings"]:
            self.signs["warning: " + self.plain(warning["text"])] += 1
        for disk in self.writing:
            for number in disk.refused:
                self.signs["guest " + errno.errorcode[number]] += 1
        return told

    def plain(self, text):
        return text.replace(self.s.dir, "")[:150]

    def recover(self, served):
        """The place works again: so does the disk, or it says that a new mount is needed, and refuses writes until then."""
        if self.target is None or self.part == "end":
            return
        self.ended()
        if self.uploader.poll() is not None:
            self.start_uploader()
        deadline = time.monotonic() + 100
        while True:
            self.s.farshore("resume", "raw", ok=False)
            told = self.look()["disks"]
            failed = [disk for disk in told if "until the mount is restarted" in disk.get("reason", "")]
            left = [disk for disk in told if disk["health"] != "normal" and disk not in failed]
            before = [sum(disk.acknowledged()) for disk in served]
            time.sleep(0.3)
            stuck = [disk.name for disk, count in zip(served, before) if sum(disk.acknowledged()) == count and disk.name not in [one["disk"] for one in failed]]
            if not left and not stuck and (failed or len(served) == 2 or self.served()):
                break
            # Points shared with a failed disk, and its data, do not come any more.
            if failed and not stuck:
                break
            check(time.monotonic() < deadline, f"100 s after the fault: {left}, writes stand still: {stuck}\n{open(self.uploader.log).read()[-2000:]}")
        for disk in failed:
            self.check_refuses(next(one for one in self.world.disks if one.name == disk["disk"]), disk["reason"])

    def check_refuses(self, disk, reason):
        fd = os.open(self.file(disk), os.O_RDWR)
        try:
            if reason.startswith("the change log failed"):
                before = disk.refused[errno.EIO], sum(disk.acknowledged())
                time.sleep(0.3)
                check(disk.refused[errno.EIO] > before[0] and sum(disk.acknowledged()) == before[1], f"{disk.name} takes writes though {reason}")
                disk.check(lambda offset, count: os.pread(fd, count, offset), disk.acknowledged())
            self.signs["until a new mount"] += 1
        finally:
            os.close(fd)

    def end(self):
        self.enter("end")
        uploader, mount, self.uploader, self.mount = self.uploader, self.mount, None, None
        for name, process in (("upload", uploader), ("mount", mount)):
            status = self.s.stop(process)
            # SIGTERM may come before the process has said what it does then.
            if status != -signal.SIGTERM:
                self.note_exit(name, status, open(process.log).read())
        self.check_log(mount)
        self.enter(None)

    # --- what must never be

    def ended(self):
        """A service that ended by itself says why."""
        for name, process in (("upload", self.uploader), ("mount", self.mount)):
            if process.poll() is None:
                continue
            self.note_exit(name, process.returncode, open(process.log).read())
            check((self.part, name) == ("uploader", "upload"), f"{name} ended: {process.returncode}\n{open(process.log).read()}")
        self.check_log(self.mount)

    def note_exit(self, name, status, text):
        check(status in STATUSES, f"{name} ended with {status}:\n{text}")
        check(status in (0, NO_SPACE) or not text.split("\nTry: ")[0].endswith("No space left on device"), f"{name} ended with {status} for want of space:\n{text}")
        if status:
            check("Try: " in text, f"{name} ended with {status} and says nothing about it:\n{text}")
            self.signs[f"{name} exit {status}: {self.plain(next((line for line in text.splitlines() if line.startswith('Error: ') or line.startswith('farshore: ')), text[-200:]))}"] += 1

    def check_log(self, mount):
        text = open(mount.log).read()
        check("starting its successor" not in text and "Fatal error" not in text, f"the worker died:\n{text}")


def close(life, world, s):
    """Without faults: all is there, and goes to the vault."""
    mount = life.start({})
    try:
        check(life.wait(mount, life.served, 30), "the mount after the fault did not start\n" + open(mount.log).read())
        life.verify()
        check(life.s.stop(mount) == 0, "the mount after the fault did not end well\n" + open(mount.log).read())
    finally:
        life.kill(mount)
        life.detach()
    s.farshore("upload", "--once")


def discover(life):
    for beginning in ("new", "kill", "clean", "unsynced"):
        life.run(beginning=beginning)
    # Without a mount the uploader owns the logs: one that was killed, and one that was closed.
    for beginning in ("kill", "clean", "new"):
        life.target, life.beginning, life.before, life.signs, life.mount, life.writing = None, beginning, None, collections.Counter(), None, []
        life.prepare()
        life.alone()


def soon(condition, what, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, what)
        time.sleep(0.1)


def not_closed(life, world, s):
    """A log that cannot be flushed at the end: the mount, `unmount` and an event say so, and the next mount has everything."""
    faults = life.faults["mount"]
    mount = life.start(faults.environment)
    try:
        check(life.wait(mount, life.served), "the mount did not start")
        with open(life.file(world.disks[0]), "r+b", buffering=0) as file:
            # The first write finds a segment for the second.
            os.pwrite(file.fileno(), bytes(KIB), 8 * MIB)
            faults.arm("fdatasync", "/segment-", errno.EIO)
            os.pwrite(file.fileno(), bytes(KIB), 8 * MIB)
        done = s.farshore("unmount", life.mnt, ok=False)
        check(done.returncode == 1, f"unmount: {done.returncode}, {done.stdout}{done.stderr}\n{open(mount.log).read()}, {faults.failed()} failed")
        check("not closed cleanly" in done.stderr and "Try: " in done.stderr, done.stderr)
        check(mount.wait(30) == 1 and "not closed cleanly" in open(mount.log).read(), open(mount.log).read())
        events = s.farshore_json("events", "raw")
        check(any(event["severity"] == "critical" and "not closed cleanly" in event["text"] for event in events), f"{events}")
    finally:
        faults.disarm()
        life.kill(mount)
        life.detach()


def unrecorded_failure(life, world, s):
    """A failed attempt that the catalogue does not take is told, and ended by `resume`, once the catalogue works again."""
    mount, uploader = life.start({}), None
    try:
        check(life.wait(mount, life.served), "the mount did not start")
        uploader = s.start("upload", "--foreground")
        state = lambda: s.farshore_json("status", "raw")["disks"][0]
        soon(lambda: state()["health"] == "normal" and state().get("replicatedSequence"), f"not replicated: {state()}", 60)
        catalogue = sqlite3.connect(os.path.join(s.site, "catalogue.sqlite"), isolation_level=None, timeout=20)
        catalogue.execute("CREATE TRIGGER refuse BEFORE UPDATE ON replication BEGIN SELECT RAISE(FAIL, 'refused'); END")
        life.begin_writing(world.disks)
        soon(lambda: "cannot record" in open(uploader.log).read(), "no attempt failed")
        catalogue.execute("DROP TRIGGER refuse")
        catalogue.close()
        soon(lambda: state()["health"] != "normal", "the failed attempt was not told")
        s.farshore("resume", "raw")
        soon(lambda: state()["health"] == "normal", f"not resumed: {state()}")
        life.end_writing()
        check(s.stop(uploader) == 0 and s.stop(mount) == 0, "not ended well")
    finally:
        for process in (uploader, mount):
            if process:
                life.kill(process)
        life.detach()


with Scenario() as s:
    places = Places(s)
    world = World(s, tolerated=(errno.ENOSPC, errno.EIO))
    life = Life(s, world, places)
    discover(life)
    for told in (not_closed, unrecorded_failure):
        told(life, world, s)
        close(life, world, s)
    names = places.names()
    pairs = list(places.pairs(s.random))
    if os.environ.get("FARSHORE_PLACE"):
        pairs = [(key, form) for key, form in pairs if os.environ["FARSHORE_PLACE"] in places.told(key, names)]
    print(f"{len(places.met)} places met, {len({key for key, _ in pairs})} of them can fail, in {len(pairs)} ways", flush=True)
    tried, problems = collections.Counter(), []
    for number, (key, form) in enumerate(pairs):
        if tried["met"] >= LIVES:
            break
        began = time.monotonic()
        try:
            met = any(life.run(key, form) for _ in range(TRIES))
            close(life, world, s)
            if number % VAULT_EVERY == VAULT_EVERY - 1:
                world.check_vault()
        except (Failed, Wrong, OSError, subprocess.SubprocessError) as problem:
            problems.append(f"{form} at {key[1]} {places.told(key, names)}, {places.origin[key]}: {problem}")
            print("PROBLEM " + problems[-1], flush=True)
            if SCALE < 2:
                break
            world.begin()
            continue
        tried["met" if met else "missed"] += 1
        if SCALE >= 2 or os.environ.get("FARSHORE_LIST"):
            print(f"{'met' if met else 'MISSED'} {form:12s} {key[1]} {places.told(key, names)} {places.origin[key]} {time.monotonic() - began:.1f} s: "
                  f"{'; '.join(life.signs) or 'nothing told'}", flush=True)
    world.check_vault()
    print(f"{tried['met']} faults at {len(pairs)} of places and forms, {tried['missed']} not met again; {world.operations()} acknowledged operations "
          f"since the last new beginning, none lost")
    check(not problems, f"{len(problems)} problems:\n" + "\n".join(problems))
