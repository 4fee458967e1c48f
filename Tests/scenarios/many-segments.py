"""A sparse disk of 1 TiB with a long history: how soon a point of it is mounted, how soon a test failover of it is ready, when the first MiB is
there, and what memory the worker takes. Read cold: each time by a new site, with nothing remembered.

Short form: 1,000 segments in a directory, 2 test failovers at once. With FARSHORE_CAMPAIGN_SCALE=20: 10,000 segments in Ceph RGW, 20 at once, and
once more through a proxy that counts what the target is asked. That a point opens without a request for each segment is a test of RecoveryPointsTests.
"""
# Promise V4: The time to make a recovery disk and its worker's memory follow what the point's history has since its last map, what is
# read and what is written, not the disk's size.
import os
import subprocess
import time
from collections import Counter

from scenario import MIB, PROGRAM, SCALE, Scenario, check, requires, requires_root, run
import objects
from proxy import Proxy

requires("fusermount3")
requires_root()
LONG = SCALE >= 20
SEGMENTS, TESTS = (10_000, 20) if LONG else (1_000, 2)
# On a machine that does nothing else. Printed beside what was measured, and held times twenty: that finds what grows with the disk, on busy machines too.
GOAL_READY, GOAL_FIRST, GOAL_BYTES = 1.0, 0.2, 256 * MIB
SIZE, PARTS = 1 << 40, 16
if LONG:
    requires("ceph-mon", "ceph-osd", "radosgw")


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmRSS"].split()[0]) * 1024


def worker_of(directory):
    """The process that serves the mount at `directory`."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as name, open(f"/proc/{pid}/cmdline", "rb") as words:
                if name.read().startswith("farshore-worker") and directory.encode() in words.read().split(b"\0"):
                    return int(pid)
        except OSError:
            pass
    return None


def first_read(path, part):
    began = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        check(os.fstat(file.fileno()).st_size == SIZE, "wrong size")
        data = os.pread(file.fileno(), MIB, part * (SIZE // PARTS) + 77 * MIB)
    seconds = time.monotonic() - began
    check(len(data) == MIB and any(data), "nothing of what was written there is read")
    return seconds, data


def counted(what, proxy):
    """What the target was asked since the last call."""
    with proxy.lock:
        requests, proxy.requests[:] = list(proxy.requests), []
    kinds = Counter()
    for method, path, _, _ in requests:
        words = path.split("?")[0].strip("/").split("/")[2:] or ["the bucket"]
        kinds[f"{method} of {words[3] if words[0] == 'disks' else words[0]}"] += 1
    print(f"{what}: {len(requests)} requests: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


def told(what, seconds, goal):
    print(f"{what:<44} {seconds:7.3f} s (goal {goal:.1f})")
    check(seconds <= 20 * goal, f"{what} took {seconds:.2f} s")


with Scenario(seed=1) as s:
    environment = {}
    url = "file://" + s.path("vault")
    if LONG:
        _, port, bucket, environment = objects.start(s, "ceph-rgw")
        os.environ.update(environment)
        url = objects.location(bucket, port, "long")
    s.make_vault(url, "--key-file", s.key())
    began = time.monotonic()
    print(run(os.path.join(os.path.dirname(PROGRAM), "long-history"), url, s.key(), SEGMENTS, timeout=3000).stdout.strip() + f" ({time.monotonic() - began:.0f} s)")
    key = ("--vault", url, "--key-file", s.key())
    newest = s.farshore_json("point", "list", "long", *key, site=s.path("look"))[-1]["sequence"]

    began = time.monotonic()
    process = s.mount_points(s.path("points"), *key, "--disk", "long", "--at", f"#{newest}", site=s.path("cold"))
    path = s.path("points", "long", str(newest), "disk.raw")
    os.stat(path)
    told("point mount, cold", time.monotonic() - began, GOAL_READY)
    seconds, expected = first_read(path, 3)
    told("its first MiB", seconds, GOAL_FIRST)
    print(f"its worker's memory {resident(worker_of(s.path('points'))) / MIB:.0f} MiB")
    s.stop(process)

    # One, then the others at the same time, each of a site of its own: nothing is remembered.
    def begin(number):
        site = s.path(f"site-{number}")
        s.at_end(lambda: subprocess.run(["umount", "-l", os.path.join(site, "tests", "t", "mnt")], capture_output=True))
        command = subprocess.Popen([PROGRAM, "failover", "test", "long", *key, "--name", "t"], env=dict(os.environ, FARSHORE_SITE=site), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # Also of one whose end nobody waits for, because another one failed.
        s.at_end(lambda: (command.wait(300), s.farshore("failover", "cleanup", "t", site=site, ok=False)))
        return command

    def finish(number, command):
        said = command.communicate(timeout=300)[0]
        check(command.returncode == 0, said)
        site = s.path(f"site-{number}")
        return os.path.join(site, "tests", "t", "mnt")

    def look(directory):
        seconds, data = first_read(os.path.join(directory, "long", "disk.raw"), 3)
        check(data == expected, "a test failover reads something else than the point")
        memory = resident(worker_of(directory))
        check(memory < GOAL_BYTES, f"its worker takes {memory / MIB:.0f} MiB")
        return seconds, memory

    began = time.monotonic()
    directory = finish(0, begin(0))
    told("failover test, cold, ready", time.monotonic() - began, GOAL_READY)
    seconds, memory = look(directory)
    told("its first MiB", seconds, GOAL_FIRST)
    site = os.path.dirname(directory)
    with open(os.path.join(directory, "long", "disk.raw"), "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"w" * MIB, SIZE - MIB)
        os.fsync(file.fileno())
    kept = int(run("du", "-s", "-x", "--block-size=1", site).stdout.split()[0])
    print(f"its worker's memory {memory / MIB:.0f} MiB, its files {kept / MIB:.0f} MiB")
    check(kept < 256 * MIB, f"the files of a test take {kept / MIB:.0f} MiB")

    began = time.monotonic()
    directories = [finish(number, command) for number, command in [(number, begin(number)) for number in range(1, TESTS + 1)]]
    print(f"{TESTS} at once: all ready after {time.monotonic() - began:.2f} s")
    looks = [look(directory) for directory in directories]
    print(f"their first MiB {min(seconds for seconds, _ in looks):.3f} to {max(seconds for seconds, _ in looks):.3f} s, "
          f"memory of each worker up to {max(memory for _, memory in looks) / MIB:.0f} MiB, of all {sum(memory for _, memory in looks) / MIB:.0f} MiB")

    if LONG:
        proxy = Proxy("127.0.0.1", port)
        key = ("--vault", objects.location(bucket, proxy.port, "long"), "--key-file", s.key())
        process = s.mount_points(s.path("counted"), *key, "--disk", "long", "--at", f"#{newest}", site=s.path("counting"))
        path = s.path("counted", "long", str(newest), "disk.raw")
        os.stat(path)
        counted("point mount, cold", proxy)
        first_read(path, 3)
        counted("its first MiB", proxy)
        s.stop(process)
        finish("counting", begin("counting"))
        counted("failover test, cold, with what is filled in meanwhile", proxy)
