"""Many protected disks at once: time to mount, memory, descriptors, threads and processor of an idle disk, points, status,
the pause of a worker's death, and what an uploader without work costs. 60 disks; 500 with FARSHORE_CAMPAIGN_SCALE >= 4.
"""
# Promise L3: An idle protected disk takes at most 1 MiB of the worker's memory.
import os
import signal
import subprocess
import time

from scenario import KIB, MIB, SCALE, Scenario, check

DISKS = 500 if SCALE >= 4 else 60
IDLE_BYTES_MAX = MIB


def measure(pid):
    """Resident bytes, descriptors, threads and seconds of processor time."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    own = sum(int(fields[name].split()[0]) for name in ("RssAnon", "VmPTE")) * KIB
    ticks = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return own, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]), (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def timed(name, action, limit):
    started = time.monotonic()
    result = action()
    seconds = time.monotonic() - started
    print(f"{name:44s} {seconds:8.2f} s")
    check(seconds <= limit, f"{name} took {seconds:.1f} s, at most {limit} are promised")
    return result


with Scenario() as s:
    url = s.make_vault()
    names = [f"disk-{number:03d}" for number in range(DISKS)]

    def protect():
        for name in names:
            image = s.path(name + ".img")
            with open(image, "wb") as file:
                file.write(name.encode() * 512)
                file.truncate(64 * MIB)
            s.farshore("protect", image, "--name", name, "--vault", url, "--key-file", s.key(), "--log-budget", 16 * MIB, "--policy", s.policy(1))

    def worker():
        return int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()[0])

    def write(name, data, offset=0):
        fd = os.open(os.path.join(mnt, name, "disk.raw"), os.O_RDWR)
        os.pwrite(fd, data, offset)
        os.fsync(fd)
        os.close(fd)

    def read(name, count, offset=0):
        fd = os.open(os.path.join(mnt, name, "disk.raw"), os.O_RDONLY)
        try:
            return os.pread(fd, count, offset)
        finally:
            os.close(fd)

    timed(f"protect {DISKS} disks, one command each", protect, 1 * DISKS)
    process, mnt = timed("mount", s.mount, 10 + 0.1 * DISKS)
    check(len(os.listdir(mnt)) == DISKS, f"{len(os.listdir(mnt))} of {DISKS} are served")
    time.sleep(2 + DISKS / 100)
    before = measure(worker())
    time.sleep(5)
    resident, descriptors, threads, seconds = measure(worker())
    each = resident / DISKS
    print(f"idle worker: {resident / MIB:.1f} MiB, {each / KIB:.0f} KiB a disk; {descriptors} descriptors, {threads} threads; "
          f"{(seconds - before[3]) / 5 * 100:.1f} % of a processor")
    check(each <= IDLE_BYTES_MAX, f"an idle disk takes {each / KIB:.0f} KiB")
    check(threads <= 2 * DISKS + 104 and descriptors <= 10 * DISKS + 60, f"{threads} threads, {descriptors} descriptors")

    data = {name: s.random.randbytes(4 * KIB) for name in names}
    timed("write 4 KiB and fsync, each disk", lambda: [write(name, data[name], 8192) for name in names], 10 + 0.1 * DISKS)
    timed("status", lambda: s.farshore("status"), 5 + 0.05 * DISKS)
    sequences = {point["sequence"] for point in timed("one point over all of them", lambda: s.farshore_json("point", "cut"), 10 + 0.05 * DISKS)}
    check(len(sequences) == 1, f"one point has {len(sequences)} numbers")
    timed("upload --once, all for the first time", lambda: s.farshore("upload", "--once", timeout=1800), 10 * DISKS)
    timed("upload --once, nothing to do", lambda: s.farshore("upload", "--once", timeout=1800), 5 * DISKS)

    def restart():
        os.kill(worker(), signal.SIGKILL)
        return read(names[-1], 4 * KIB, 8192)
    time.sleep(1)
    check(timed("pause after kill -9 of the worker", restart, 5 + 0.05 * DISKS) == data[names[-1]], "the last write is lost")
    # The interval's points: each disk that was written has one at most two intervals later.
    cut = time.time()
    for name in names:
        write(name, data[name], 0)
    time.sleep(3)
    late = [disk["disk"] for disk in s.farshore_json("status")["disks"] if disk["lastPoint"] is None or disk["lagBytes"] is None]
    check(not late, f"no point by the interval of 1 s: {late[:5]}")
    for name in s.random.sample(names, min(DISKS, 40)):
        check(read(name, 4 * KIB, 8192) == data[name] and read(name, 4 * KIB, 0) == data[name], f"{name} is not as it was written")
    timed("unmount", lambda: s.stop(process, timeout=300), 10 + 0.1 * DISKS)
