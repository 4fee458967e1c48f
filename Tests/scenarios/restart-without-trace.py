"""The worker dies, hangs and is upgraded again and again while gigabytes of the log are not merged into the images: fio
verifies every block, no program sees an error, and the pauses are printed."""
# Promise R1: The death, a hang or an upgrade of the worker is a pause to programs, never an error, however much of the log
# is not merged yet.
import ctypes
import glob
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

from scenario import GIB, KIB, MIB, PROGRAM, SCALE, Scenario, check, requires, requires_root, run

requires("fio", "mkswap", "swapon")
requires_root()
DISKS = ("a", "b", "c", "d")
# The long form (scale 20 and more, make soak) has 2 GiB of 4 KiB records for each disk that only the log holds.
LONG = SCALE >= 20
UNMERGED = 2 * GIB if LONG else 64 * MIB
KILLS = int(os.environ.get("FARSHORE_KILLS", 50 * SCALE if LONG else 12))
SMALL, LARGE, OWN = 64 * MIB, 128 * MIB, MIB
DISK = UNMERGED + SMALL + LARGE + OWN
# Nothing is merged or uploaded here, so the log keeps every write. fio runs at full depth when the worker is killed and stands still
# otherwise; for how long it runs follows from what its writes may take of the log.
GROWTH = 5 * GIB if LONG else 512 * MIB
BUDGET = UNMERGED + UNMERGED // 16 + 2 * GROWTH
BURST_SECONDS = 0.02
KILLS_BETWEEN_LOOKS = 10
HANG_SECONDS = 5
MADV_PAGEOUT, SYS_process_madvise, SYS_pidfd_open = 21, 440, 434
libc = ctypes.CDLL(None, use_errno=True)


def control(s, request):
    with socket.socket(socket.AF_UNIX) as connection:
        for attempt in range(300):  # a successor may be starting
            if connection.connect_ex(os.path.join(s.site, "run", "control.sock")) == 0:
                break
            time.sleep(0.1)
        connection.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(connection.makefile().readline())


def children_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def worker_of(process):
    for pid in children_of(process):
        try:
            with open(f"/proc/{pid}/comm") as name:
                if name.read().strip() == "farshore-worker":
                    return pid
        except FileNotFoundError:
            pass
    return None


def page_out(pid):
    """Takes the worker's pages from it, as memory pressure does; what is not locked is read again from its file, or from swap,
    when it is touched."""
    handle = libc.syscall(SYS_pidfd_open, pid, 0)
    if handle < 0:
        return 0
    taken = 0
    try:
        with open(f"/proc/{pid}/maps") as file:
            ranges = [line.split()[0].split("-") for line in file if "[v" not in line]
        for start, end in ranges:
            part = (ctypes.c_uint64 * 2)(int(start, 16), int(end, 16) - int(start, 16))
            if libc.syscall(SYS_process_madvise, handle, ctypes.byref(part), 1, MADV_PAGEOUT, 0) > 0:
                taken += 1
    except (FileNotFoundError, ProcessLookupError):
        pass
    finally:
        os.close(handle)
    return taken


def drop_log(s):
    """Takes the logs' pages from the page cache, but for those that are not written yet."""
    for path in glob.glob(s.path("**", "segment-*"), recursive=True):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def add_swap(s, size):
    """Only with swap can memory that is no file's be taken from the worker."""
    path = s.path("swap")
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    os.chmod(path, 0o600)
    run("mkswap", path)
    run("swapon", path)
    s.at_end(lambda: run("swapoff", path))


class Guest(threading.Thread):
    """One request at a time, each millisecond, and how long each took."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.random = __import__("random").Random(seed)
        self.file = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.page = mmap.mmap(-1, 4 * KIB)
        self.error, self.ended, self.begun, self.longest = None, False, 0.0, 0.0
        self.start()

    def run(self):
        try:
            for number in iter(int, 1):
                if self.ended:
                    return
                begun = time.monotonic()
                if number % 16 == 0:
                    os.pwritev(self.file, [self.page], DISK - OWN)
                else:
                    os.preadv(self.file, [self.page], self.random.randrange(UNMERGED // (4 * KIB)) * 4 * KIB)
                self.longest = max(self.longest, time.monotonic() - begun)
                self.begun = begun
                time.sleep(0.001)
        except Exception as error:
            self.error = error

    def answered_since(self, moment):
        return self.begun > moment or self.error is not None


def pause_of(guests, act):
    """Seconds in which some guest waited for an answer, when `act` is done to the worker; none when this process was stopped meanwhile."""
    for guest in guests:
        guest.longest = 0.0
    act()
    # What the dying worker still answered does not count.
    moment = seen = time.monotonic()
    stopped = 0.0
    while not all(guest.answered_since(moment + 0.002) for guest in guests):
        time.sleep(0.001)
        now = time.monotonic()
        stopped += max(0, now - seen - 1)
        seen = now
        check(now - moment - stopped < 120, "a request hangs")
    return None if stopped else max(guest.longest for guest in guests)


def print_pauses(what, pauses):
    ordered = sorted(1000 * pause for pause in pauses if pause is not None)
    if ordered:
        at = lambda part: ordered[min(len(ordered) - 1, int(len(ordered) * part))]
        print(f"{what}: {len(pauses)}, of {len(ordered)} pauses p50 {at(.5):.0f} ms, p99 {at(.99):.0f} ms, longest {ordered[-1]:.0f} ms", flush=True)


def fio_words(s, mnt, options, *jobs):
    """`options` are for all jobs: after a job's name they would be its own."""
    words = ["fio", "--ioengine=libaio", "--direct=1", "--thread", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
             f"--randseed={s.seed}", f"--aux-path={s.dir}", *options]
    for name in DISKS:
        for job, options in jobs:
            words += [f"--name={name}-{job}", f"--filename={mnt}/{name}/disk.raw", *options]
    return words


class Load:
    """fio at full depth with 4 KiB and 1 MiB requests on every disk, which verifies what it wrote; stands still between bursts."""

    def __init__(self, s, mnt):
        self.s, self.burst, self.looked, self.seen = s, BURST_SECONDS, 0, 0
        small = ("small", ["--bs=4k", "--iodepth=32", "--rw=randrw", f"--offset={UNMERGED}", f"--size={SMALL}"])
        large = ("large", ["--bs=1m", "--iodepth=4", "--rw=randrw", f"--offset={UNMERGED + SMALL}", f"--size={LARGE}"])
        self.fio = subprocess.Popen(
            # Without an io_size a job of fio 3.33 stops after some passes; where requests overlap it finds faults in any file.
            fio_words(s, mnt, ["--time_based", "--runtime=86400", "--io_size=1000g", "--serialize_overlap=1", "--verify_backlog=64",
                               f"--output={s.path('load.txt')}"], small, large),
            stdin=subprocess.DEVNULL, cwd=s.dir)
        s.at_end(self.fio.kill)

    def run(self):
        check(self.fio.poll() is None, "fio ended: " + (open(self.s.path("load.txt")).read() if self.fio.poll() is not None else ""))
        self.fio.send_signal(signal.SIGCONT)
        time.sleep(self.s.random.uniform(0, 2 * self.burst))

    def stop(self):
        self.fio.send_signal(signal.SIGSTOP)

    def undestaged(self):
        """Of each disk; a worker that has just been replaced serves them all after a moment."""
        for _ in range(50):
            disks = self.s.farshore_json("status")["disks"]
            if all("undestagedBytes" in disk for disk in disks):
                break
            time.sleep(0.1)
        return [disk["undestagedBytes"] for disk in disks]

    def keep_within(self, done, kills):
        """Longer or shorter bursts, so that the last kill meets a log that is nearly as long as it may be."""
        if done - self.looked < KILLS_BETWEEN_LOOKS or done >= kills:
            return
        grown = max(self.undestaged()) - UNMERGED
        each = max(grown - self.seen, 64 * KIB) / (done - self.looked)
        self.burst = min(0.2, max(0.001, self.burst * min(2, max(0, GROWTH - grown) / (kills - done) / each)))
        self.looked, self.seen = done, grown

    def end(self):
        """fio verifies what it wrote last, and ends by itself."""
        self.fio.send_signal(signal.SIGCONT)
        self.fio.send_signal(signal.SIGINT)
        check(self.fio.wait(300) in (0, 128), f"fio: exit {self.fio.returncode}\n" + open(self.s.path("load.txt")).read())
        report = open(self.s.path("load.txt")).read()
        check("verify" not in report.replace("verify=", "") and "error=" not in report, report)


class Deaths:
    """The ways in which the worker's service ends, each under load."""

    def __init__(self, s, process, mnt, program, guests, load):
        self.s, self.process, self.mnt, self.program, self.guests, self.load = s, process, mnt, program, guests, load
        self.met, self.upgrades = [], []

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)

    def kill_twice(self, pid):
        """Its successor too, while most of its pages were never touched."""
        self.kill(pid)
        time.sleep(self.s.random.uniform(0, 0.1))
        for successor in children_of(self.process):
            if successor != pid:
                self.kill(successor)

    def stop(self, pid):
        os.kill(pid, signal.SIGSTOP)

    def upgrade(self, _):
        # A new file at the same path, as a package manager puts it there.
        shutil.copy(PROGRAM, self.program + ".new")
        os.rename(self.program + ".new", self.program)
        self.upgrades.append(self.s.farshore_json("upgrade", self.mnt)["pauseMilliseconds"])

    def meet(self, what, act, before=lambda pid: None):
        time.sleep(self.s.random.uniform(0.3, 0.5))
        pid = worker_of(self.process)
        check(pid is not None, "no worker serves\n" + open(self.process.log).read())
        before(pid)
        self.load.run()
        self.met.append((what, pause_of(self.guests, lambda: act(pid))))
        self.load.stop()

    def run(self, kills):
        plain = ("kills", self.kill)
        pages_taken = ("kills with the worker's pages taken", self.kill, page_out)
        log_dropped = ("kills with the log out of the page cache", self.kill, lambda pid: drop_log(self.s))
        twice = ("kills, and of the successor", self.kill_twice)
        ways = (plain, log_dropped, pages_taken, plain, twice, pages_taken)
        for number in range(kills):
            self.meet(*ways[number % len(ways)])
            if number % 10 == 3:
                # What the load alone makes a guest wait.
                self.meet("no death", lambda pid: None)
            if number % 25 == 8:
                self.meet("upgrades", self.upgrade)
            if number % 100 == 9:
                self.meet("hangs", self.stop)
            self.load.keep_within(number + 1, kills)
            if number % 50 == 49:
                print_pauses(f"kills {number - 48} to {number + 1}", self.killed()[-50:])
                print_unmerged(self.s)

    def killed(self):
        return [pause for what, pause in self.met if what.startswith("kills")]

    def tell(self):
        for kind in dict.fromkeys(what for what, _ in self.met):
            print_pauses(kind, [pause for what, pause in self.met if what == kind])
        print_pauses("all kills", self.killed())
        if self.upgrades:
            print(f"upgrades, as they say themselves: {sorted(self.upgrades)} ms")


def print_unmerged(s):
    unmerged = {disk["disk"]: disk["undestagedBytes"] for disk in s.farshore_json("status")["disks"]}
    check(min(unmerged.values()) >= UNMERGED, f"not all is in the log: {unmerged}")
    print(f"not merged: {', '.join(f'{name} {size // MIB} MiB' for name, size in unmerged.items())}", flush=True)


with Scenario() as s:
    url = s.make_vault()
    # A program of its own, to be replaced by the upgrades.
    program = s.path("farshore")
    shutil.copy(PROGRAM, program)
    for name in DISKS:
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(DISK)
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(3600),
                   "--log-budget", BUDGET)
    process, mnt = s.mount(None, "--hang-seconds", HANG_SECONDS, served="d", program=program)
    for name in DISKS:
        # As during an initial replication: the images stand still, the log keeps everything.
        check("frozen" in control(s, {"freeze": {"disk": name}}), "not frozen")
    fill = ("fill", ["--bs=4k", "--iodepth=32", f"--size={UNMERGED}", "--rw=randwrite"])
    run(*fio_words(s, mnt, ["--do_verify=0"], fill), cwd=s.dir)
    print_unmerged(s)
    if LONG:
        add_swap(s, 256 * MIB)

    load = Load(s, mnt)
    guests = [Guest(os.path.join(mnt, name, "disk.raw"), s.seed + place) for place, name in enumerate(DISKS)]
    time.sleep(1)
    load.stop()
    deaths = Deaths(s, process, mnt, program, guests, load)
    deaths.run(KILLS)
    for guest in guests:
        guest.ended = True
        guest.join(10)
        check(guest.error is None, f"a guest saw {guest.error}")
        os.close(guest.file)
    load.end()
    print_unmerged(s)
    deaths.tell()
    log = open(process.log).read()
    check(log.count("stood still") == [what for what, _ in deaths.met].count("hangs"), log)
    # What was written before the first kill is whole too.
    run(*fio_words(s, mnt, ["--verify_only"], fill), cwd=s.dir)
    for name in DISKS:
        control(s, {"unfreeze": {"disk": name}})
    began = time.monotonic()
    s.farshore("unmount", mnt)
    check(process.wait(60) == 0, "the supervisor did not end cleanly\n" + open(process.log).read())
    print(f"unmounted in {time.monotonic() - began:.2f} s")
