"""There and back between two sites over one vault, with numbered records: every write is one record, made durable before the next one begins.

Planned to the other site, reprotected there; the home's image follows the running replica, killed with -9 in the middle and gone on with; then
the last part, and guests go on at home, replicated from there again. Not one record is missing at any step, and nothing was replicated anew.
"""
import os
import random
import signal
import subprocess
import time

from scenario import Scenario, check, requires

requires("fusermount3")
BLOCK, BLOCKS = 4096, 16384
random.seed(7)


class Guest:
    """Writes numbered records at random blocks; knows what must be where."""

    def __init__(self):
        self.number, self.blocks = 0, {}

    def write(self, path, count):
        file = os.open(path, os.O_RDWR)
        for _ in range(count):
            self.number += 1
            block = random.randrange(BLOCKS)
            os.pwrite(file, random.Random(self.number).randbytes(BLOCK - 8) + self.number.to_bytes(8, "little"), block * BLOCK)
            self.blocks[block] = self.number
        os.fsync(file)
        os.close(file)

    def check(self, path, what):
        with open(path, "rb") as file:
            data = file.read()
        check(len(data) == BLOCK * BLOCKS, f"{what}: {len(data)} bytes")
        for block in range(BLOCKS):
            number = self.blocks.get(block, 0)
            expected = bytes(BLOCK) if number == 0 else random.Random(number).randbytes(BLOCK - 8) + number.to_bytes(8, "little")
            check(data[block * BLOCK:(block + 1) * BLOCK] == expected, f"{what}: block {block} does not hold record {number}")


with Scenario(seed=7) as s:
    there, url = s.path("there"), s.make_vault()
    key = ("--vault", url, "--key-file", s.key())
    image = s.path("db.raw")
    with open(image, "wb") as file:
        file.truncate(BLOCK * BLOCKS)
    guest = Guest()
    s.farshore("protect", image, "--name", "db", *key, "--policy", s.policy(1))
    mount, mnt = s.mount(s.path("mnt"), served="db")
    served = os.path.join(mnt, "db", "disk.raw")
    guest.write(served, 3000)
    s.farshore("upload", "--once")

    # Planned to the other site.
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60")
    s.mount(s.path("mnt-there"), site=there)
    away = s.farshore_json("failover", "run", "db", "--planned", *key, site=there)["disks"][0]["path"]
    guest.check(away, "after the failover")
    s.farshore("failback", "start", "db", status=12)
    s.farshore("failover", "commit", "db", site=there)
    s.farshore("reprotect", "db", site=there)
    guest.write(away, 2000)
    s.farshore("upload", "--once", site=there)
    points = len(s.farshore_json("point", "list", "db"))
    check(points > 2, f"{points} points after the other direction began")

    # The home follows, is killed, and goes on.
    killed = s.start("failback", "start", "db")
    mark = image + ".log/failback"
    deadline = time.monotonic() + 20
    while not os.path.exists(mark) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    check(os.path.exists(mark), "the failback was not begun")
    refused = s.farshore("accept", "db", status=9).stderr
    check("failback" in refused, refused)
    s.farshore("unprotect", "db", "--discard-log", status=9)
    guest.write(away, 500)
    s.farshore("upload", "--once", site=there)
    report = s.farshore_json("failback", "start", "db")["disks"][0]
    print(f"followed: {report['fetchedBytes']} bytes fetched, {report['writtenBytes']} written, of {BLOCK * BLOCKS}")
    check(report["fetchedBytes"] < 4 * 2500 * BLOCK, "far more was fetched than was written")
    guest.check(image, "the home's image")
    status = s.farshore_json("failback", "status", "db")["disks"][0]
    check(status["isBegun"] and status["sequence"] == status["replicaSequence"], f"{status}")

    # The replica is shut down; the rest, and guests go on at home.
    guest.write(away, 300)
    s.farshore("failback", "complete", "db", status=12)
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60", site=there)
    began = time.monotonic()
    s.farshore("failback", "complete", "db")
    print(f"completed in {time.monotonic() - began:.2f} s")
    guest.check(image, "the home's image at the end")
    guest.check(served, "the disk at home")
    guest.write(served, 500)
    s.farshore("failover", "commit", "db")
    s.farshore("reprotect", "db")
    vault = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(url.removeprefix("file://")) for name in names)
    s.farshore("upload", "--once")
    grown = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(url.removeprefix("file://")) for name in names) - vault
    check(grown < BLOCK * BLOCKS // 4, f"{grown} bytes were sent after 500 records: it was replicated anew")
    s.farshore("restore", "db", *key, "--at", "latest", "--to", s.path("restored.raw"))
    guest.check(s.path("restored.raw"), "the vault's newest point")
    s.farshore("failover", "release", "db", site=there)
    check(s.farshore_json("status", site=there)["disks"] == [], "the other site still has the disk")
    print(f"{guest.number} of {guest.number} records, there and back")
