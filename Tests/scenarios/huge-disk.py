"""A raw disk of 64 TiB, sparse, on xfs: protected, replicated by its holes, written at both ends, discarded as a whole, cut,
restored and mounted; the worker's memory follows the formula of docs/reference/limits.md."""
# Promise L4: The memory of a disk follows what its log holds and not its size.
import os
import subprocess
import time

from scenario import GIB, KIB, MIB, Scenario, check, requires, requires_root, run

requires("mkfs.xfs")
requires_root()
TIB = 1 << 40
SIZE = 64 * TIB


def resident(pid):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "VmPTE")) * KIB


def pread(path, count, offset):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)


def timed(name, limit, action):
    started = time.monotonic()
    result = action()
    seconds = time.monotonic() - started
    print(f"{name:34s} {seconds:6.2f} s")
    check(seconds <= limit, f"{name} took {seconds:.1f} s, at most {limit} are expected")
    return result


with Scenario() as s:
    with open(s.path("xfs.img"), "wb") as file:
        file.truncate(8 * GIB)
    run("mkfs.xfs", "-q", s.path("xfs.img"))
    s.mount_filesystem(s.loop(s.path("xfs.img")), s.path("xfs"))
    image = s.path("xfs", "huge.img")
    with open(image, "wb") as file:
        file.truncate(SIZE)
        file.seek(20 * TIB)
        file.write(b"middle" * 1000)
    url = s.make_vault()
    s.farshore("protect", image, "--name", "huge", "--vault", url, "--key-file", s.key(), "--log-budget", 512 * MIB)
    process, mnt = timed("mount", 20, s.mount)
    worker = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()[0])
    raw = os.path.join(mnt, "huge", "disk.raw")
    check(os.listdir(os.path.join(mnt, "huge")) == ["disk.raw"], "disk.vhd is there above 2,040 GiB")
    check(os.stat(raw).st_size == SIZE, "wrong size")
    idle = resident(worker)
    timed("initial replication", 30, lambda: s.farshore("upload", "--once"))

    first, last = s.random.randbytes(64 * KIB), s.random.randbytes(64 * KIB)
    fd = os.open(raw, os.O_RDWR)
    os.pwrite(fd, first, 0)
    os.pwrite(fd, last, SIZE - 64 * KIB)
    check(os.pwrite(fd, b"x" * 8192, SIZE - 4096) == 4096, "a write at the end is not cut short there")
    os.pwrite(fd, last[-4096:], SIZE - 4096)
    os.fsync(fd)
    check(os.pread(fd, 12, 20 * TIB) == b"middlemiddle" and os.pread(fd, 64 * KIB, 0) == first, "wrong data")
    written = resident(worker)
    check(written - idle < 2 * MIB, f"two writes take {(written - idle) / MIB:.1f} MiB")

    def find_data():
        places, position = [], 0
        while True:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError:
                return places
            places.append(data)
            position = os.lseek(fd, data, os.SEEK_HOLE)
    places = timed("SEEK_DATA over all of it", 20, find_data)
    check(places == [0, 20 * TIB, SIZE - 64 * KIB], f"data at {places}")
    for place in range(0, SIZE, TIB // 4):
        os.pread(fd, 4096, place + 12345 * 4096)
    read = resident(worker)
    check(read - written < 4 * MIB, f"256 reads take {(read - written) / MIB:.1f} MiB")

    point = s.farshore_json("point", "cut", "huge", "--tag", "ends")[0]["sequence"]
    timed("upload", 20, lambda: s.farshore("upload", "--once"))
    target = s.path("xfs", "restored.img")
    timed("restore", 30, lambda: s.farshore("restore", "huge", "--vault", url, "--key-file", s.key(), "--at", "ends", "--to", target))
    check(os.stat(target).st_size == SIZE and os.stat(target).st_blocks * 512 < 16 * MIB, "the restored image is not sparse")
    for place, expected in ((0, first), (SIZE - 64 * KIB, last), (20 * TIB, b"middle" * 1000)):
        check(pread(target, len(expected), place) == expected, f"wrong data at {place}")
    os.unlink(target)
    points = s.path("points")
    mounted = s.mount_points(points, "--vault", url, "--key-file", s.key(), "--disk", "huge", "--at", f"#{point}")
    shown = os.path.join(points, "huge", str(point), "disk.raw")
    check(pread(shown, 64 * KIB, SIZE - 64 * KIB) == last and pread(shown, 64 * KIB, 0) == first, "wrong data in the point")
    check(not os.path.exists(os.path.join(points, "huge", str(point), "disk.vhd")), "a point has a disk.vhd above 2,040 GiB")
    s.stop(mounted)

    # As mkfs does: 8 bytes for each 2 MiB until that is merged, then nothing.
    timed("discard of all of it", 10, lambda: run("fallocate", "--punch-hole", "--offset", 0, "--length", SIZE, raw))
    check(os.pread(fd, 64 * KIB, 0) == bytes(64 * KIB), "discarded data reads back")
    covered = resident(worker)
    deadline = time.monotonic() + 60
    while s.farshore_json("status", "huge")["disks"][0]["undestagedBytes"] and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(1)
    merged = resident(worker)
    print(f"memory: idle {idle / MIB:.1f} MiB, written {(written - idle) / MIB:+.1f}, read {(read - idle) / MIB:+.1f}, "
          f"all discarded {(covered - idle) / MIB:+.0f}, merged {(merged - idle) / MIB:+.1f}")
    check(covered - idle < 300 * MIB, f"the discard takes {(covered - idle) / MIB:.0f} MiB")
    check(merged - idle < 16 * MIB, f"after the merge {(merged - idle) / MIB:.0f} MiB are left")
    check(pread(image, 64 * KIB, 0) == bytes(64 * KIB), "the image was not discarded")
    os.close(fd)
    s.stop(process)
