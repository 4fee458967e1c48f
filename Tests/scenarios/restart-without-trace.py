"""The worker dies, hangs and is upgraded again and again while gigabytes of the log are not merged into the images: fio
verifies every block, no program sees an error, and the pauses are printed."""
# Promise R1: The death, a hang or an upgrade of the worker is a pause to programs, never an error, however much of the log
# is not merged yet.
import ctypes
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

requires("fio")
requires_root()
DISKS = ("a", "b", "c", "d")
# The long form (scale 20 and more, make soak) has 2 GiB of 4 KiB records for each disk that only the log holds.
UNMERGED = 64 * MIB if SCALE < 20 else 2 * GIB
KILLS = int(os.environ.get("FARSHORE_KILLS", 12 if SCALE < 20 else 50 * SCALE))
SMALL, LARGE, OWN = 64 * MIB, 128 * MIB, MIB
DISK = UNMERGED + SMALL + LARGE + OWN
# Nothing is merged or uploaded here, so the log keeps every write: fio writes what the kills leave time for.
GROWTH = 384 * MIB
SECONDS = KILLS * 0.75 + 10
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


def worker_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        for pid in file.read().split():
            try:
                with open(f"/proc/{pid}/comm") as name:
                    if name.read().strip() == "farshore-worker":
                        return int(pid)
            except FileNotFoundError:
                pass
    return None


def page_out(pid):
    """Takes the worker's pages from it; what is not locked is read again from its file, or from swap, when it is touched."""
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
                if number % 4 == 0:
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
    """Seconds in which some guest waited for an answer, when `act` is done to the worker."""
    for guest in guests:
        guest.longest = 0.0
    moment = time.monotonic()
    act()
    while not all(guest.answered_since(moment + 0.002) for guest in guests):
        check(time.monotonic() < moment + 120, "a request hangs")
        time.sleep(0.001)
    return max(guest.longest for guest in guests)


def print_pauses(what, pauses):
    if pauses:
        ordered = sorted(1000 * pause for pause in pauses)
        at = lambda part: ordered[min(len(ordered) - 1, int(len(ordered) * part))]
        print(f"{what}: {len(ordered)}, pause p50 {at(.5):.0f} ms, p99 {at(.99):.0f} ms, longest {ordered[-1]:.0f} ms")


def fio_words(s, mnt, *jobs):
    words = ["fio", "--ioengine=libaio", "--direct=1", "--thread", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
             f"--randseed={s.seed}", f"--aux-path={s.dir}"]
    for name in DISKS:
        for job, options in jobs:
            words += [f"--name={name}-{job}", f"--filename={mnt}/{name}/disk.raw", *options]
    return words


with Scenario() as s:
    url = s.make_vault()
    # A program of its own, to be replaced by the upgrades.
    program = s.path("farshore")
    shutil.copy(PROGRAM, program)
    for name in DISKS:
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(DISK)
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--vault", url, "--key-file", s.key(), "--interval", "3600",
                   "--log-budget", UNMERGED + UNMERGED // 16 + 2 * GROWTH + 256 * MIB)
    process, mnt = s.mount(None, "--hang-seconds", HANG_SECONDS, served="d", program=program)
    for name in DISKS:
        # As during an initial replication: the images stand still, the log keeps everything.
        check("frozen" in control(s, {"freeze": {"disk": name}}), "not frozen")
    fill = ("fill", ["--bs=4k", "--iodepth=32", f"--size={UNMERGED}", "--rw=randwrite"])
    run(*fio_words(s, mnt, fill), "--do_verify=0", cwd=s.dir)
    unmerged = {disk["disk"]: disk["undestagedBytes"] for disk in s.farshore_json("status")["disks"]}
    check(min(unmerged.values()) >= UNMERGED, f"not all is in the log: {unmerged}")
    print(f"not merged: {', '.join(f'{name} {size // MIB} MiB' for name, size in unmerged.items())}")

    rate = int(GROWTH / SECONDS / 3)
    small = ("small", ["--bs=4k", "--iodepth=32", "--rw=randrw", f"--offset={UNMERGED}", f"--size={SMALL}", f"--rate=16m,{rate}"])
    large = ("large", ["--bs=1m", "--iodepth=8", "--rw=randrw", f"--offset={UNMERGED + SMALL}", f"--size={LARGE}", f"--rate=32m,{2 * rate}"])
    load = subprocess.Popen([*fio_words(s, mnt, small, large), "--time_based", f"--runtime={int(SECONDS * 20)}", "--verify_backlog=64",
                             f"--output={s.path('load.txt')}"], stdin=subprocess.DEVNULL, cwd=s.dir)
    s.at_end(load.kill)
    guests = [Guest(os.path.join(mnt, name, "disk.raw"), s.seed + place) for place, name in enumerate(DISKS)]
    time.sleep(1)
    pauses = {"kills": [], "kills with the worker's pages taken": [], "hangs": [], "upgrades": []}
    upgrades = []

    def kill(pid):
        os.kill(pid, signal.SIGKILL)

    def upgrade():
        # A new file at the same path, as a package manager puts it there.
        shutil.copy(PROGRAM, program + ".new")
        os.rename(program + ".new", program)
        upgrades.append(s.farshore_json("upgrade", mnt)["pauseMilliseconds"])

    for number in range(KILLS):
        time.sleep(s.random.uniform(0.1, 0.7))
        check(load.poll() is None, "fio ended: " + open(s.path("load.txt")).read() if load.poll() is not None else "")
        pid = worker_of(process)
        if pid is None:
            continue
        if number % 25 == 8:
            pauses["upgrades"].append(pause_of(guests, upgrade))
        elif number % 100 == 9:
            pauses["hangs"].append(pause_of(guests, lambda: os.kill(pid, signal.SIGSTOP)))
        elif number % 3 == 2:
            pauses["kills with the worker's pages taken"].append(pause_of(guests, lambda: (page_out(pid), kill(pid))))
        else:
            pauses["kills"].append(pause_of(guests, lambda: kill(pid)))
    for guest in guests:
        guest.ended = True
        guest.join(10)
        check(guest.error is None, f"a guest saw {guest.error}")
        os.close(guest.file)
    # fio verifies what it wrote last, and ends by itself.
    load.send_signal(signal.SIGINT)
    check(load.wait(300) in (0, 128), f"fio: exit {load.returncode}\n" + open(s.path("load.txt")).read())
    report = open(s.path("load.txt")).read()
    check("verify" not in report.replace("verify=", "") and "error=" not in report, report)
    for what, found in pauses.items():
        print_pauses(what, found)
    if upgrades:
        print(f"upgrades, as they say themselves: {sorted(upgrades)} ms")
    log = open(process.log).read()
    check(log.count("stood still") == len(pauses["hangs"]), log)
    # What was written before the first kill is whole too.
    run(*fio_words(s, mnt, ("fill", ["--bs=4k", "--iodepth=32", f"--size={UNMERGED}", "--rw=randwrite", "--verify_only"])), cwd=s.dir)
    for name in DISKS:
        control(s, {"unfreeze": {"disk": name}})
    began = time.monotonic()
    s.farshore("unmount", mnt)
    check(process.wait(60) == 0, "the supervisor did not end cleanly\n" + open(process.log).read())
    print(f"unmounted in {time.monotonic() - began:.2f} s")
