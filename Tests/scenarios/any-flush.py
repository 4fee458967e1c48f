"""Any flush as a recovery point: numbered records, each fsynced, on ext4 over a served disk while the uploader runs; then
moments picked by time and by number: the file system is whole and has exactly the records acknowledged by then.

Promise P5: Every acknowledged flush inside the vault's window is a boundary that opens: it holds every
write acknowledged before the flush was asked for and none issued after it returned. One that no
write followed before the worker died may be missing.
"""
import bisect
import datetime
import os
import re
import subprocess
import threading
import time

from scenario import MIB, SCALE, Scenario, check, requires, requires_root, run

requires_root()
requires("mkfs.ext4", "e2fsck", "debugfs", "losetup")
SECONDS, PICKS, RECORD = 8 * min(SCALE, 10), int(15 * SCALE), 64


def micros():
    return time.time_ns() // 1000


def rfc3339(at):
    return datetime.datetime.fromtimestamp(at // 1_000_000, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{at % 1_000_000:06d}Z"


def from_rfc3339(text):
    whole, fraction = re.fullmatch(r"(.*)\.(\d{6})Z", text).groups()
    return int(datetime.datetime.fromisoformat(whole + "+00:00").timestamp()) * 1_000_000 + int(fraction)


class Writer:
    """Appends records; knows when each was asked for and when its fsync had returned."""

    def __init__(self, directory, rng):
        self.directory, self.rng, self.asked, self.acknowledged = directory, rng, [], []
        self.file = os.open(os.path.join(directory, "records"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self):
        self.asked.append(micros())
        os.write(self.file, f"record {len(self.asked)}".ljust(RECORD - 1).encode() + b"\n")
        os.fsync(self.file)
        self.acknowledged.append(micros())
        time.sleep(0.0002 + self.rng.random() * 0.004)

    def disturb(self, stop):
        """Data nobody flushes, renames and deletions: between two fsyncs much else is written."""
        number = 0
        while not stop.is_set():
            path = os.path.join(self.directory, f"noise-{number % 23}")
            with open(path, "wb") as noise:
                noise.write(os.urandom(32_768))
            if number % 5 == 0:
                os.rename(path, path + "-old")
            if number % 7 == 0:
                os.sync()
            number += 1
            time.sleep(0.005)


def records_in(s, image, sure=None):
    """Of a restored file system: replayed as at a mount, checked in full, read. Preening repairs nothing that a crash does not explain.

    Above record `sure`, if given, the one that was on its way may be zeros: ext4 orders data before the commit of a file's
    size only for new blocks, and between two fsyncs the other thread's sync commits.
    """
    replayed = run("e2fsck", "-p", image, ok=False)
    check(replayed.returncode in (0, 1), f"the journal does not replay: {replayed.stdout}{replayed.stderr}")
    run("e2fsck", "-f", "-n", image)
    out = s.path("records.out")
    # debugfs says nothing of a file that is not there: before the first record's journal commit it is not.
    if os.path.exists(out):
        os.unlink(out)
    run("debugfs", "-R", f"dump /records {out}", image)
    if not os.path.exists(out):
        return 0
    with open(out, "rb") as file:
        data = file.read()
    count, rest = divmod(len(data), RECORD)
    check(rest == 0, f"{len(data)} bytes are no whole number of records")
    for number in range(count):
        found = data[number * RECORD:(number + 1) * RECORD]
        if found != f"record {number + 1}".ljust(RECORD - 1).encode() + b"\n":
            check(sure is not None and sure <= number == count - 1 and not any(found), f"record {number + 1} of {count} is torn or wrong: {found!r}")
            return number
    return count


with Scenario() as s:
    url, disk = s.make_vault(), s.path("disk.img")
    with open(disk, "wb") as file:
        file.truncate(128 * MIB)
    s.farshore("protect", disk, "--name", "d", "--vault", url, "--key-file", s.key(), "--policy", s.policy(2))
    vault = ("--vault", url, "--key-file", s.key())
    mounted, mnt = s.mount(served="d")
    raw = os.path.join(mnt, "d", "disk.raw")
    device = s.loop(raw)
    run("mkfs.ext4", "-q", "-F", device)
    s.mount_filesystem(device, s.path("fs"))
    os.sync()
    s.farshore("upload", "--once")
    uploader = s.start("upload", "--foreground")

    writer, stop = Writer(s.path("fs"), s.random), threading.Event()
    noise = threading.Thread(target=writer.disturb, args=(stop,))
    noise.start()
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            writer.append()
        # What was not sent yet is local, and known to the log.
        check(s.stop(uploader) == 0, "the uploader did not stop cleanly")
        for _ in range(40):
            writer.append()
    finally:
        stop.set()
        noise.join()
    local = s.farshore_json("point", "list", "d", "--flushes", "--limit", 100_000)
    check({point["state"] for point in local["points"]} == {"local", "replicated"}, "the log has both local and replicated boundaries")
    s.farshore("upload", "--once")
    listed = s.farshore_json("point", "list", "d", *vault, "--flushes", "--limit", 100_000)
    check(not listed["hasMore"] and listed["window"]["place"] == "vault", f"one page holds all: {listed['window']}")
    known = {point["sequence"]: point for point in listed["points"]}
    lost = [p["sequence"] for p in local["points"] if p["sequence"] > listed["window"]["fromSequence"] and p["sequence"] not in known]
    check(not lost, f"boundaries the log knew are not in the vault: {lost}")
    flushes = [point for point in listed["points"] if point["kind"] == "flush"]
    check(len(flushes) >= len(writer.asked) / 2, f"{len(flushes)} boundaries of {len(writer.asked)} fsyncs")

    def restored(at):
        out = s.path("out.raw")
        s.farshore("restore", "d", *vault, "--at", at, "--to", out, "--force")
        return out

    started = micros()
    for pick in range(PICKS):
        number = s.random.randrange(len(writer.asked) - 1)
        count = records_in(s, restored(rfc3339(writer.acknowledged[number])))
        check(count == number + 1, f"at the time of the answer to record {number + 1} there are {count} records")
    for pick in range(PICKS):
        point = s.random.choice(flushes)
        at = from_rfc3339(point["time"])
        least, most = bisect.bisect_right(writer.acknowledged, at), bisect.bisect_right(writer.asked, at)
        count = records_in(s, restored(f"#{point['sequence']}"), sure=least)
        # The first boundaries are older than the file's first record.
        check(least <= count <= most, f"#{point['sequence']} of {point['time']} has {count} records, not {least} to {most}")
    seconds = (micros() - started) / 1e6

    # A mount of a moment is the same state.
    at = rfc3339(writer.acknowledged[len(writer.asked) // 2])
    points = s.path("points")
    process = s.mount_points(points, *vault, "--disk", "d", "--at", at)
    (sequence,) = os.listdir(os.path.join(points, "d"))
    check(int(sequence) in known, f"a mount of {at} shows {sequence}, which the list does not have")
    run("cmp", os.path.join(points, "d", sequence, "disk.raw"), restored(f"#{sequence}"))
    s.stop(process)

    # Between two boundaries there is no third, and the error says which there are. Where a publication ended can be
    # opened too: looked for among what the last upload sent as one.
    order = sorted(sequence for sequence in known if sequence > max(p["sequence"] for p in local["points"] if p["state"] == "replicated"))
    below, above = next((a, b) for a, b in zip(order, order[1:]) if b - a > 1)
    refused = s.farshore("restore", "d", *vault, "--at", below + 1, "--to", s.path("none.raw"), status=10)
    check(f"#{below} and #{above}" in refused.stderr, refused.stderr)
    few = s.farshore_json("point", "list", "d", *vault, "--flushes", "--to", f"#{below}", "--limit", 3)
    check(few["hasMore"] and few["points"][-1]["sequence"] == below, f"{few}")

    # Without Farshore, by the format alone.
    plain = s.path("plain.raw")
    tool = os.path.join(os.path.dirname(__file__), "../../examples/restore-without-farshore/restore.py")
    at = writer.acknowledged[len(writer.asked) // 3]
    said = run("python3", tool, s.path("vault"), "d", plain, "--at", rfc3339(at), "--key-file", s.key()).stdout
    run("cmp", plain, restored(rfc3339(at)))
    check(records_in(s, plain) == len(writer.asked) // 3 + 1, said)
    print(f"{len(writer.asked)} fsyncs, {len(flushes)} boundaries, {2 * PICKS} picked in {seconds:.1f} s: each whole and exact")
