"""kill -9 of the whole process group during writes, start again: everything acknowledged is there."""
# Promise D2: kill -9 of every Farshore process loses no acknowledged write.
import os
import signal
import sys
import time

from scenario import MIB, ROOT, SCALE, Scenario, check

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
from numbered import RUN, NumberedDisk

ROUNDS, DISK_BYTES = int((12 if SCALE < 20 else 25) * SCALE), 8 * MIB

with Scenario() as s:
    url = s.make_vault()
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    s.farshore("protect", image, "--name", "d", "--vault", url, "--key-file", s.key())
    disk = NumberedDisk("d", list(range(0, DISK_BYTES, RUN)), s.seed)
    for number in range(ROUNDS + 1):
        process, mnt = s.mount(served="d")
        path = os.path.join(mnt, "d", "disk.raw")
        with open(path, "rb", buffering=0) as file:
            disk.check(lambda offset, count: os.pread(file.fileno(), count, offset), disk.acknowledged())
        if number == ROUNDS:
            check(s.stop(process) == 0, "the mount did not stop cleanly\n" + open(process.log).read())
            break
        if number % 20 == 19:
            s.farshore("upload", "--once")
            print(f"{number + 1} rounds", flush=True)
        disk.start(path)
        time.sleep(s.random.uniform(0.05, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if number == 0:
            # The worker goes with its supervisor, and lets go of its locks when all of it is gone.
            deadline = time.monotonic() + 20
            report = s.farshore_json("status", "d")
            while not report["warnings"] and time.monotonic() < deadline:
                time.sleep(0.1)
                report = s.farshore_json("status", "d")
            check(report["warnings"] and "ended without closing" in report["warnings"][0]["text"] and report["disks"][0]["health"] == "critical", f"a dead mount is not told: {report}")
        os.system(f"umount -l {mnt}")
        disk.stop()
    told = [event for event in s.farshore_json("events") if "ended without closing" in event["text"]]
    check(told, "the mount that was killed is no event")
    print(f"{ROUNDS} rounds, {sum(disk.acknowledged())} acknowledged operations, none lost, no block torn")
