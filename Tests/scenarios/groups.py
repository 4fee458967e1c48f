"""Groups of 1, 3 and 16 disks under load: points of all their disks, restored from the vault, hold the writes in one order.

Several writers count, each from disk to disk: number n+1 goes to another place, on another disk where there is one, only after n
was acknowledged. A point that holds n+1 and not n is wrong; so is one cut by hand that lacks what was acknowledged before it was
asked for, or has what was issued after it returned. Then: disks that cannot take part, that come, and that go.
"""
# Promise G1: Writes keep their order across the disks that share points: a point that holds
# a write holds every write that was acknowledged before that one was issued.
# Promise G3: Where one of the disks that share points cannot take part, no point is cut on the others, and health says so.
import os
import random
import subprocess
import threading
import time

from scenario import GIB, MIB, SCALE, Scenario, check, requires

requires("fusermount3")
POINTS = max(int(10 * SCALE), 4)  # of each size of group
WRITERS = 4
BLOCK = 4096


class Writer(threading.Thread):
    """Writes 1, 2, 3 … into its own places, round the disks. `issued` and `acknowledged` are read by who cuts."""

    def __init__(self, number, files, places, seed):
        super().__init__()
        self.number, self.files, self.places = number, files, places
        self.random = random.Random(seed * 100 + number)
        self.issued = self.acknowledged = 0
        self.stopping = threading.Event()
        self.error = None

    def place(self, count):
        """(disk, offset) of the write with this number."""
        slot = count % self.places
        return slot % len(self.files), (slot // len(self.files) * WRITERS + self.number) * BLOCK

    def run(self):
        fill = self.random.randbytes(256) * (BLOCK // 256 - 1)
        try:
            while not self.stopping.is_set():
                count = self.issued + 1
                disk, offset = self.place(count)
                self.issued = count
                data = count.to_bytes(8, "little") * 32 + fill
                check(os.pwrite(self.files[disk], data, offset) == BLOCK, "a short write")
                self.acknowledged = count
                if self.random.random() < 0.5:
                    time.sleep(self.random.random() / 1000)
        except Exception as error:
            self.error = error

    def found(self, read):
        """The highest number a point holds, after checking that it holds all before it. `read(disk, offset)` gives 8 bytes."""
        values = {}
        for slot in range(self.places):
            disk, offset = self.place(slot)
            values[slot] = int.from_bytes(read(disk, offset), "little")
        newest = max(values.values())
        for slot, value in values.items():
            expected = newest - (newest - slot) % self.places
            if value != max(expected, 0):
                raise AssertionError(f"writer {self.number}: holds {newest} but place {slot} has {value}, not {expected}")
        return newest


def protect(s, url, names, *options, directory="disks"):
    os.makedirs(s.path(directory), exist_ok=True)
    for name in names:
        image = s.path(directory, name + ".img")
        with open(image, "wb") as file:
            file.truncate(4 * MIB)
        s.farshore("protect", image, "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(1), "--log-budget", 2 * GIB, *options)


def listed(s, url, disk):
    return {p["sequence"]: p for p in s.farshore_json("point", "list", disk, "--vault", url, "--key-file", s.key())}


def campaign(s, url, count):
    names = [f"d{count}-{i:02}" for i in range(count)]
    group = f"g{count}"
    s.site = s.path(f"site{count}")
    # Half of them two disks of a machine, the others machines of their own.
    for i, name in enumerate(names):
        machine = names[i - 1] + "-machine" if i % 4 == 1 else name + "-machine"
        protect(s, url, [name], "--machine", machine, "--group", group)
    process, mnt = s.mount(s.path(f"mnt{count}"), served=names[-1])
    s.farshore("upload", "--once")
    files = [os.open(os.path.join(mnt, name, "disk.raw"), os.O_RDWR) for name in names]
    s.at_end(lambda: [os.close(f) for f in files])
    places = max(4, count) if count in (1, 16) else 2 * count
    writers = [Writer(number, files, places, s.seed + count) for number in range(WRITERS)]
    uploader = s.start("upload", "--foreground", wait_for=lambda: os.path.exists(os.path.join(s.site, "run", "upload.pid")))
    for writer in writers:
        writer.start()
    cuts = {}
    try:
        deadline = time.monotonic() + POINTS / 2 + 0.5
        while len(cuts) < POINTS / 2 or time.monotonic() < deadline:
            before = [w.acknowledged for w in writers]
            points = s.farshore_json("point", "cut", *random.Random(len(cuts)).choice([["--group", group], [names[0]], ["--machine", names[0] + "-machine"]]))
            after = [w.issued for w in writers]
            check(sorted(p["disk"] for p in points) == names, "a cut is not over all disks of the group")
            check(len({p["sequence"] for p in points}) == 1, "a cut has several numbers")
            cuts[points[0]["sequence"]] = (before, after)
            time.sleep(s.random.uniform(0, 2 * max(deadline - time.monotonic(), 0.2) / max(POINTS / 2 - len(cuts), 1)))
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
    for writer in writers:
        check(writer.error is None, f"writer {writer.number}: {writer.error}")
    check(s.stop(uploader) == 0, "the uploader did not stop cleanly")
    s.farshore("upload", "--once")

    lists = {name: listed(s, url, name) for name in names}
    first = min(cuts)
    numbers = {name: {n for n, p in found.items() if n >= first} for name, found in lists.items()}
    check(all(numbers[name] == numbers[names[0]] for name in names), "the disks list different points")
    check(set(cuts) <= numbers[names[0]], "a point that was cut by hand is not in the vault")
    check(all(p["disks"] == names for name in names for n, p in lists[name].items() if n >= first), "a point does not name its disks")

    points = s.path(f"points{count}")
    mounted = s.mount_points(points, "--vault", url, "--key-file", s.key(), "--group", group, site=s.path("elsewhere"))
    for number in sorted(numbers[names[0]]):
        opened = [os.open(os.path.join(points, name, str(number), "disk.raw"), os.O_RDONLY) for name in names]
        try:
            held = []
            for writer in writers:
                try:
                    held.append(writer.found(lambda disk, offset: os.pread(opened[disk], 8, offset)))
                except AssertionError as wrong:
                    check(False, f"{count} disks, point #{number}: {wrong}")
            for writer, newest in zip(writers, held):
                if number in cuts:
                    before, after = cuts[number][0][writer.number], cuts[number][1][writer.number]
                    check(before <= newest <= after, f"point #{number} has {newest} of writer {writer.number}; {before} were acknowledged before it, {after} issued when it was cut")
        finally:
            for file in opened:
                os.close(file)
    newest = os.readlink(os.path.join(points, names[0], "latest-multi")) if count > 1 else str(max(numbers[names[0]]))
    check(int(newest) == max(numbers[names[0]]), "latest-multi is not the newest point of all disks")
    check(s.stop(mounted) == 0, "the point mount did not stop cleanly")
    total = sum(w.acknowledged for w in writers)
    print(f"{count} disks: {len(numbers[names[0]])} points, {len(cuts)} of them by hand, over {total} writes: none out of order")
    for file in files:
        os.close(file)
    files.clear()
    s.farshore("unmount", mnt)
    return names, len(numbers[names[0]])


def membership(s, url):
    """Disks that cannot take part, that come and that go, on a live mount."""
    s.site = s.path("site-members")
    protect(s, url, ["m1", "m2", "m3"], directory="members")
    s.farshore("group", "create", "shop", "m1", "m2")
    process, mnt = s.mount(s.path("mnt-members"), served="m3")
    s.farshore("upload", "--once")

    def write(name, value):
        with open(os.path.join(mnt, name, "disk.raw"), "r+b", buffering=0) as file:
            file.write(bytes([value]) * BLOCK)

    def cut(*words):
        return {p["disk"]: p["sequence"] for p in s.farshore_json("point", "cut", *words)}

    for value, name in enumerate(["m1", "m2", "m3"], 1):
        write(name, value)
    early = cut("--group", "shop")
    check(set(early) == {"m1", "m2"}, "the cut is not that of the group")
    s.farshore("group", "add", "shop", "m3")
    check(set(cut("m1")) == {"m1", "m2", "m3"}, "a machine that joined on the live mount is not cut")
    s.farshore("upload", "--once")
    write("m3", 9)
    joined = cut("m3")
    s.farshore("upload", "--once")
    points = listed(s, url, "m1")
    check(points[early["m1"]]["disks"] == ["m1", "m2"], "a point from before has a disk that came later")
    check(points[joined["m3"]]["disks"] == ["m1", "m2", "m3"], "a point from after lacks the disk that joined")
    restored = set()
    for name in ("m1", "m2", "m3"):
        restored.add(s.farshore_json("restore", name, "--vault", url, "--key-file", s.key(), "--at", "latest-multi", "--to", s.path(name + ".out"))["sequence"])
    check(len(restored) == 1 and restored.pop() >= joined["m3"], "latest-multi is not the same number on each disk")
    with open(s.path("m3.out"), "rb") as file:
        check(file.read(1) == b"\x09", "m3 is not as it was at the point")
    # A group of another site, which this vault has by that name already.
    other = s.path("site-other")
    with open(s.path("other.img"), "wb") as file:
        file.truncate(MIB)
    refused = s.farshore("protect", s.path("other.img"), "--name", "other", "--vault", url, "--key-file", s.key(), "--group", "shop", site=other, ok=False)
    check(refused.returncode == 1 and "span" in refused.stderr, f"a group over two sites was not refused: {refused.stderr}")

    s.farshore("group", "remove", "shop", "m3")
    check(set(cut("m1")) == {"m1", "m2"}, "a machine that left is still cut")
    s.farshore("unmount", mnt)
    # One of the two cannot be served: no point on the other one either, and somebody says so.
    os.rename(s.path("members", "m2.img"), s.path("members", "away.img"))
    process, mnt = s.mount(s.path("mnt-members"), served="m1")
    failed = s.farshore("point", "cut", "m1", ok=False)
    check(failed.returncode == 1 and "m2" in failed.stderr, f"a cut without a disk of the group was not refused: {failed.stderr}")
    before = s.farshore_json("point", "list", "m1")
    write("m1", 7)
    deadline = time.monotonic() + 20
    while s.farshore_json("status", "m1")["disks"][0]["health"] == "normal" and time.monotonic() < deadline:
        time.sleep(0.1)
    report = s.farshore_json("status", "m1")["disks"][0]
    check(report["health"] == "warning" and "m2" in report["reason"], f"health does not say that the group gets no points: {report}")
    check(any("m2 belongs to them" in event["text"] for event in s.farshore_json("events")), "no event says that the group gets no points")
    check(s.farshore_json("point", "list", "m1") == before, "a point was cut on one disk of a group alone")
    s.farshore("unmount", mnt)
    os.rename(s.path("members", "away.img"), s.path("members", "m2.img"))
    s.farshore("accept", "m2")  # its times were moved by the rename
    process, mnt = s.mount(s.path("mnt-members"), served="m1")
    write("m1", 8)
    check(set(cut("m2")) == {"m1", "m2"}, "the group is not cut again")
    # A disk that is released does not hold the others up, here or in the vault; forgotten, it leaves them their points.
    s.farshore("upload", "--once")
    s.farshore("unprotect", "m2")
    last = cut("m1")
    s.farshore("upload", "--once")
    check(listed(s, url, "m1")[last["m1"]]["disks"] == ["m1"], "the point after the release is not there")
    s.farshore("vault", "forget", "m2", "--vault", url, "--key-file", s.key())
    check(listed(s, url, "m1")[early["m1"]]["disks"] == ["m1"], "the points that were shared are gone with the forgotten disk")
    report = s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")
    check(report["damaged"] == [], f"vault check: {report['damaged']}")
    # This uploader only takes note of the collection; the disk is still its own to release.
    s.farshore("upload", "--once")
    s.farshore("unmount", mnt)
    released = s.farshore_json("unprotect", "m1")
    check(not released["holdsUpCollections"], released)
    print("disks that join, leave, are missing, released and forgotten: as promised")


with Scenario() as s:
    url = s.make_vault()
    total = 0
    for count in (1, 3, 16):
        total += campaign(s, url, count)[1]
    membership(s, url)
    print(f"{total} points restored from the vault, none out of order")
