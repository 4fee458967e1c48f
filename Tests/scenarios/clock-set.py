"""The wall clock of mount, uploader, retention and collection is set forward and back by years while they run: the points keep their
order, none goes, a pinned one least of all, locks hold, nothing is taken for late, and every point restores to the byte.

Promise K2: The newest point and pinned points stay, and no point goes before newer ones make it old, whatever
clocks do.
"""
import ctypes
import hashlib
import mmap
import os
import shutil
import sys
import time

from scenario import MIB, ROOT, Failed, Scenario, check, run

YEAR = 365 * 86400

compiler = shutil.which("cc") or shutil.which("clang")
if compiler is None:
    print("skipped: this machine lacks a C compiler")
    sys.exit(77)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_until(what, condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain: {what}\n{s.farshore('status').stdout}{s.farshore('events').stdout}")
        time.sleep(0.1)


with Scenario() as s:
    library = s.path("wallclock.so")
    run(compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, os.path.join(ROOT, "Tests", "tools", "wallclock.c"))
    with open(s.path("clock"), "w+b") as file:
        file.write(bytes(8))
        file.flush()
        memory = mmap.mmap(file.fileno(), 8)
    offset = ctypes.c_int64.from_buffer(memory)
    os.environ.update({"LD_PRELOAD": library, "FARSHORE_CLOCK": s.path("clock")})

    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(2 * MIB))
        file.truncate(8 * MIB)
    # Time counts by a day at most from one point to the next: so many jumps forward are less than a week.
    s.farshore("policy", "create", "quick", "--interval", "1s", "--point-every", "1h", "--retention", "all:7d", "--rpo", "30s")
    s.farshore("protect", s.path("disk.img"), "--name", "d", *vault, "--policy", "quick")
    _, mnt = s.mount(served="d")
    s.start("upload", "--foreground", log=s.path("upload.log"))
    served = os.path.join(mnt, "d", "disk.raw")

    def listed():
        return [point["sequence"] for point in s.farshore_json("point", "list", "d", *vault) if point["state"] == "replicated"]

    def status():
        return s.farshore_json("status", "d")["disks"][0]

    held, cut = {}, []

    def change():
        with open(served, "r+b", buffering=0) as file:
            for _ in range(20):
                file.seek(s.random.randrange(2000) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        cut.append(s.farshore_json("point", "cut", "d")[0]["sequence"])
        held[cut[-1]] = digest(served)

    wait_until("the first replication", lambda: status()["phase"] == "delta")
    change()
    wait_until("the first point", lambda: cut[-1] in listed())
    s.farshore("point", "pin", f"d/{cut[0]}", "--name", "keep", "--until", "90d", "--reason", "a test")
    jumps = [10, -20, 0, 30, -1, 29, 0]
    for number, years in enumerate(jumps):
        change()
        # Set while this is on its way.
        offset.value = years * YEAR
        change()
        wait_until(f"points cut with the clock set by {years} years", lambda: cut[-1] in listed())
        wait_until("health", lambda: status()["health"] == "normal")
        s.farshore("upload", "--once", status=9)
        collected = s.farshore_json("vault", "collect", url, "--key-file", s.key(), site=s.path("collect-site"))
        if number % 3 == 2:
            # A new uploader, by the clock as it is set now, has seen the collection's epoch at once.
            s.farshore("upload", "--stop")
            s.farshore("upload", "--once")
            s.start("upload", "--foreground", log=s.path(f"upload-{number}.log"))
    wait_until("all points", lambda: set(cut) <= set(listed()))
    found = [sequence for sequence in listed() if sequence in held]
    check(found == cut, f"the order of the points changed: {found}, cut {cut}")
    check(cut == sorted(cut), f"sequences fell: {cut}")
    for sequence in cut:
        out = s.path("restored.raw")
        s.farshore("restore", "d", *vault, "--at", f"#{sequence}", "--to", out, "--force", site=s.path("other-site"))
        check(digest(out) == held[sequence], f"#{sequence} restores to something else")
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], "damage")
    bad = [event for event in s.farshore_json("events") if event["severity"] != "information"]
    check(not bad, f"events: {bad}")
    print(f"clock set {len(jumps)} times by up to {max(map(abs, jumps))} years: {len(cut)} points in order, all restored, {collected['condemnedObjects']} objects condemned by the last collection, no warning")
    offset = None
