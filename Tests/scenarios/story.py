"""The whole story on real parts. examples/failover-drill: a guest that writes numbered records is lost with its site, goes on elsewhere, comes home,
and changes sides as planned, a round for each FARSHORE_CAMPAIGN_SCALE.

Then a group of three machines, one of them with three disks, under a writer that goes from disk to disk: write n+1 is issued after n is acknowledged on
another disk. The source is killed; what a failover to any point finds never holds n+1 without n.
"""
import os
import signal
import subprocess
import sys
import threading
import time

from scenario import MIB, PROGRAM, ROOT, SCALE, Scenario, check, requires, requires_root

requires("fusermount3", "qemu-system-x86_64", "mkfs.ext4")
requires_root()
BLOCK, PLACES = 4096, 64
ROUNDS, POINTS = max(1, min(int(SCALE), 100)), max(2, min(int(5 * SCALE), 500))
DISKS = {"shop-root": "shop", "shop-data": "shop", "shop-logs": "shop", "mail": "mail", "web": "web"}


class Writer(threading.Thread):
    """Writes 1, 2, 3 … round the disks; `acknowledged` is the last one that returned."""

    def __init__(self, paths):
        super().__init__()
        self.paths, self.acknowledged, self.stopping, self.error = paths, 0, threading.Event(), None

    def run(self):
        try:
            files = [os.open(path, os.O_RDWR) for path in self.paths]
            while not self.stopping.is_set():
                number = self.acknowledged + 1
                os.pwrite(files[number % len(files)], number.to_bytes(8, "little") * (BLOCK // 8), number // len(files) % PLACES * BLOCK)
                self.acknowledged = number
                time.sleep(0.0005)
        except OSError as error:
            self.error = error
        finally:
            for file in files:
                os.close(file)


def newest(paths, what):
    """The highest number on the disks, after checking that all before it are there."""
    found = {}
    for disk, path in enumerate(paths):
        with open(path, "rb") as file:
            data = file.read(PLACES * BLOCK)
        for place in range(PLACES):
            found[place * len(paths) + disk] = int.from_bytes(data[place * BLOCK:place * BLOCK + 8], "little")
    last = max(found.values())
    for number in range(max(1, last - PLACES * len(paths) + 1), last + 1):
        check(found[number % (PLACES * len(paths))] == number, f"{what}: holds {last} without {number}")
    return last


def drill(s):
    words = [os.path.join(ROOT, "examples/failover-drill/run"), "--rounds", str(ROUNDS), "--folder", s.dir]
    process = subprocess.Popen(words, env=dict(os.environ, FARSHORE=PROGRAM), stdin=subprocess.DEVNULL)
    s.at_end(lambda: process.poll() is None and (process.terminate(), process.wait(120)))
    check(process.wait() == 0, f"the drill exited {process.returncode}")


def across_disks(s):
    there, url = s.path("there"), s.make_vault()
    key = ("--vault", url, "--key-file", s.key())
    for name, machine in DISKS.items():
        with open(s.path(name + ".raw"), "wb") as file:
            file.truncate(4 * MIB)
        s.farshore("protect", s.path(name + ".raw"), "--name", name, *key, "--machine", machine, "--group", "business", "--policy", s.policy(1))
    mount, mnt = s.mount(served="web")
    s.farshore("upload", "--once")
    uploader = s.start("upload", "--foreground")
    writer = Writer([os.path.join(mnt, name, "disk.raw") for name in DISKS])
    writer.start()
    try:
        for _ in range(2 + POINTS // 2):
            time.sleep(1)
            s.farshore("point", "cut", "--group", "business")
        wait = time.monotonic() + 30
        while len(points(s, key)) < 3:
            check(time.monotonic() < wait, "no points of the group come to the vault")
            time.sleep(0.2)
    finally:
        for process in (uploader, mount):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(["umount", "-l", mnt], capture_output=True)
        writer.stopping.set()
        writer.join()

    s.mount(s.path("mnt-there"), site=there)
    choices = points(s, key)
    held = {}
    for number in s.random.sample(choices, min(POINTS, len(choices))):
        words = ["change-point", "business"] if held else ["run", "business", *key]
        report = s.farshore_json("failover", *words, "--at", f"#{number}", site=there)
        paths = {disk["disk"]: disk["path"] for disk in report["disks"]}
        check({disk["sequence"] for disk in report["disks"]} == {number}, f"not all disks are at #{number}: {report['disks']}")
        held[number] = newest([paths[name] for name in DISKS], f"point #{number}")
    kept = deleted_but_open(s.path("mnt-there"))
    check(len(kept) < 8, f"the mount keeps files open that are deleted: {kept}")
    numbers = [held[number] for number in sorted(held)]
    check(numbers == sorted(numbers) and 0 < numbers[-1] <= writer.acknowledged, f"the points hold up to {numbers}, {writer.acknowledged} were acknowledged")
    s.farshore("failover", "commit", "business", site=there)
    print(f"a group of 3 machines with {len(DISKS)} disks: {len(held)} of {len(choices)} points failed over to, {writer.acknowledged} writes: none out of order")


def deleted_but_open(folder):
    """The files below a deleted recovery disk's name that processes of this mount hold: their space stays taken."""
    found = []
    for process in os.listdir("/proc"):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                if folder.encode() not in file.read().split(b"\0"):
                    continue
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                target = os.readlink(f"/proc/{process}/fd/{descriptor}")
                found += [target] if target.endswith(" (deleted)") and "/recovery/" in target else []
        except OSError:
            pass
    return found


def points(s, key):
    """The points all disks of the group have."""
    lists = [{point["sequence"] for point in s.farshore_json("point", "list", name, *key)} for name in DISKS]
    return sorted(set.intersection(*lists))


with Scenario() as s:
    across_disks(s)
    drill(s)
