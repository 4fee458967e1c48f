"""Failovers between two sites over one vault, with numbered records: every write is one record, made durable before the next one begins.

A test failover beside running replication; the source killed with all its processes and failed over: what is found on the other site is
a prefix of the records, and only those are missing that were younger than the lag shown before. Written on there, begun again with another
point, taken back: the source goes on and has lost nothing. Then planned: not one record is missing.
"""
# Promise T5: A test failover changes nothing of the unit in the vault but the pins that keep its point.
import json
import os
import signal
import socket
import subprocess
import threading
import time

from scenario import Scenario, check, requires

requires("fusermount3")
BLOCK, BLOCKS = 4096, 4096


class Recorder(threading.Thread):
    """Writes the numbers from `first` on, each into its own block, durable one by one."""

    def __init__(self, path, first):
        super().__init__()
        self.path, self.count, self.times = path, first - 1, {}
        self.stopping, self.error = threading.Event(), None

    def run(self):
        try:
            file = os.open(self.path, os.O_RDWR)
            try:
                while not self.stopping.is_set():
                    number = self.count + 1
                    os.pwrite(file, number.to_bytes(8, "little") * (BLOCK // 8), number % BLOCKS * BLOCK)
                    os.fsync(file)
                    self.count, self.times[number] = number, time.time()
                    time.sleep(0.004)
            finally:
                os.close(file)
        except OSError as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.join()
        return self.count


def records(path):
    """The highest number on the disk, after checking that all before it are there."""
    with open(path, "rb") as file:
        data = file.read(BLOCKS * BLOCK)
    found = [int.from_bytes(data[at:at + 8], "little") for at in range(0, len(data), BLOCK)]
    newest = max(found)
    for number in range(max(newest - BLOCKS + 1, 1), newest + 1):
        check(found[number % BLOCKS] == number, f"record {number} is missing, though {newest} is there")
    return newest


def killed(process, directory):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if directory:
        subprocess.run(["umount", "-l", directory], capture_output=True)


with Scenario(seed=6) as s:
    there, url = s.path("there"), s.make_vault()
    key = ("--vault", url, "--key-file", s.key())
    image = s.path("db.raw")
    with open(image, "wb") as file:
        file.truncate(BLOCKS * BLOCK)
    s.farshore("protect", image, "--name", "db", *key, "--policy", s.policy(1))
    mount, mnt = s.mount(s.path("mnt"), served="db")
    served = os.path.join(mnt, "db", "disk.raw")
    s.farshore("upload", "--once")

    def replicated():
        return s.farshore_json("status", "db")["disks"][0]["replicatedSequence"]

    empty = replicated()
    uploader = s.start("upload", "--foreground")
    writer = Recorder(served, 1)
    writer.start()
    deadline = time.monotonic() + 30
    # The first publication behind it may end at a point that was cut before the first record.
    while replicated() <= empty + 2:
        check(time.monotonic() < deadline, "no record was replicated")
        time.sleep(0.2)

    # A test, beside everything.
    test = s.farshore_json("failover", "test", "db", *key, "--name", "rehearsal", "--check", 'test -s "$FARSHORE_DISK_1"', site=there)["test"]
    s.at_end(lambda: subprocess.run(["umount", "-l", os.path.join(there, "tests/rehearsal/mnt")], capture_output=True))
    rehearsed, at = records(test["disks"][0]["path"]), test["disks"][0]["sequence"]
    check(rehearsed > 0, "the test has no record")
    with open(test["disks"][0]["path"], "r+b") as file:
        file.write(b"scribble" * 512)
        os.fsync(file.fileno())
    check(s.farshore_json("failover", "show", "db", *key, site=there)["standing"]["state"] == "replicating", "a test changed the state")
    s.farshore("failover", "run", "db", "--planned", *key, site=there, status=12)
    active = s.farshore_json("failover", "show", "db", *key, site=there)["standing"]["active"]
    refused = s.farshore("failover", "run", "db", *key, "--direction", f"{active}:elsewhere", site=there, status=12).stderr
    check(f"would go from {active} to {socket.gethostname()}, not {active}:elsewhere" in refused, refused)
    time.sleep(2)

    # The source is gone.
    asked = time.time()
    lag = s.farshore_json("status", "db")["disks"][0]["lagSeconds"]
    proven = max([number for number, when in dict(writer.times).items() if when < asked - lag - 0.2], default=0)
    killed(uploader, None)
    killed(mount, mnt)
    acknowledged = writer.stop()
    s.mount(s.path("mnt-there"), site=there)
    began = time.monotonic()
    done = s.farshore("failover", "run", "db", *key, "--source-command", "exit 1", "--direction", f"{active}:{socket.gethostname()}", "--json", site=there)
    report = json.loads(done.stdout)
    check(f"db: from {active} to {socket.gethostname()}, this host, at latest\n  latest: db #" in done.stderr and "latest-processed: db #" in done.stderr, done.stderr)
    recovered_path = report["disks"][0]["path"]
    recovered = records(recovered_path)
    print(f"unplanned: {recovered} of {acknowledged} records after {time.monotonic() - began:.2f} s; lag was {lag:.2f} s, {acknowledged - recovered} lost, at most {acknowledged - proven}")
    check(proven <= recovered <= acknowledged, f"{recovered} recovered; {proven} were older than the lag")
    check(rehearsed < recovered, "replication stood still beside the test")
    check(any("could not be stopped" in warning for warning in report["warnings"]), "nothing is said of the source that could not be stopped")

    # Said again, it chooses no other point; what guests write is replicated by nobody, and status says so.
    check("change-point" in s.farshore("failover", "run", "db", *key, "--at", f"#{at}", site=there, status=12).stderr, "another point was not refused")
    check(s.farshore_json("failover", "run", "db", *key, site=there)["isRepeated"], "a second run is not told from the first")
    health = s.farshore_json("status", site=there)["disks"][0]
    check(health["health"] == "warning" and "is not replicated" in health["reason"] and health["remedy"] == "farshore failover commit db, then farshore reprotect db", f"{health}")

    # Its uploader says what the vault lacks, and sends nothing.
    refused = s.farshore("upload", "--once", status=7).stderr
    check("was failed over to" in refused and "records" in refused, refused)
    writing_on = Recorder(recovered_path, recovered + 1)
    writing_on.start()
    time.sleep(0.5)
    check(writing_on.stop() > recovered and writing_on.error is None, f"the recovery disk cannot be written: {writing_on.error}")
    check(records(recovered_path) == writing_on.count, "what was written after the failover is not there")

    # Another point, then back.
    with open(recovered_path, "rb"):
        s.farshore("failover", "change-point", "db", "--at", f"#{at}", site=there, status=9)
    s.farshore("failover", "change-point", "db", "--at", f"#{at}", site=there)
    check(records(recovered_path) == rehearsed, "the other point holds something else")
    s.farshore("failover", "cancel", "db", site=there)
    check(not os.path.exists(recovered_path), "the recovery disk is still served")
    mount, mnt = s.mount(s.path("mnt"), served="db")
    # The write that the kill interrupted may be there as well.
    found = records(served)
    check(acknowledged <= found <= acknowledged + 1, f"the source has {found} of {acknowledged} acknowledged records")
    s.farshore("upload", "--once")
    uploader = s.start("upload", "--foreground")

    # Planned.
    writer = Recorder(served, found + 1)
    writer.start()
    time.sleep(1)
    s.farshore("failover", "prepare", "db", status=9)
    last = writer.stop()
    check(writer.error is None, f"a refused prepare disturbed the guest: {writer.error}")
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60")
    check(not os.path.exists(served), "a prepared disk is still served")
    report = s.farshore_json("failover", "planned", "db", *key, site=there)
    check(records(report["disks"][0]["path"]) == last, "a planned failover lost records")
    print(f"planned: {last} of {last} records")
    s.farshore("failover", "commit", "db", site=there)
    s.farshore("failover", "cancel", "db", site=there, status=12)
    check(records(report["disks"][0]["path"]) == last, "the commit changed the disk")

    check([test["name"] for test in s.farshore_json("failover", "tests", site=there)] == ["rehearsal"], "the test is not listed")
    held = s.farshore_json("status", site=os.path.join(there, "tests/rehearsal"))["disks"][0]["filling"]
    check("totalBytes" not in held and "doneBytes" not in held, f"a test fetches what nobody reads: {held}")
    with open(os.path.join(there, "tests/rehearsal/mnt/db/disk.raw"), "rb"):
        s.farshore("failover", "cleanup", "rehearsal", site=there, status=9)
    s.farshore("failover", "cleanup", "rehearsal", "--notes", "came up", site=there)
    check(s.farshore_json("failover", "tests", site=there) == [] and not os.path.exists(os.path.join(there, "tests/rehearsal")), "the test is still there")
    check(any("came up" in event["text"] for event in s.farshore_json("events", site=there)), "the notes are not remembered")
