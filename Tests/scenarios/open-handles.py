"""Thousands of open handles, many guests at once, and an image on a slow device: reads and writes of the log go on at its
speed, at the budget writes wait for destage, and the worker stops in bounded time all the same.
"""
# Promise L6: While the image's device is slow, writes go on at the log's speed until the budget is used up and then wait
# for it, reads of what the log holds do not wait for it, and an unmount waits for one image request at most.
import os
import subprocess
import sys
import threading
import time

from scenario import KIB, MIB, ROOT, Scenario, check

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
from sites import Faults  # noqa: E402

HANDLES, FOLDERS, THREADS, GUESTS = 5000, 500, 64, 16
GUEST = """
import os, random, sys, time
path, number, guests, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
fd, rng, held, count = os.open(path, os.O_RDWR), random.Random(number), {}, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    block = rng.randrange(256) * guests + number
    data = rng.randbytes(4096)
    assert os.pwrite(fd, data, block * 4096) == 4096
    held[block] = data
    seen = rng.choice(list(held))
    assert os.pread(fd, 4096, seen * 4096) == held[seen], f"guest {number}: block {seen} is another"
    if count % 50 == 0: os.fsync(fd)
    count += 1
for block in held: assert os.pread(fd, 4096, block * 4096) == held[block]
print(count)
"""


def percentile(values, part):
    return sorted(values)[int(len(values) * part)]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


with Scenario() as s:
    faults = Faults(s.dir)
    url = s.make_vault()
    for name in ("busy", "slow"):
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(256 * MIB)
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--vault", url, "--key-file", s.key(), "--log-budget", 96 * MIB, "--policy", s.policy(1))
    mnt = s.path("mnt")
    os.makedirs(mnt)
    s.at_end(lambda: os.system(f"umount -l {mnt} 2>/dev/null"))
    process = s.start("mount", mnt, "--foreground", env=faults.environment, wait_for=lambda: os.path.ismount(mnt) and len(os.listdir(mnt)) == 2)
    worker = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()[0])
    s.farshore("upload", "--once")
    uploader = s.start("upload", "--foreground", wait_for=lambda: s.farshore_json("status")["isUploading"])
    busy = os.path.join(mnt, "busy", "disk.raw")

    # --- handles
    before = descriptors(worker)
    handles = [os.open(busy, os.O_RDWR) for _ in range(HANDLES)] + [os.open(os.path.dirname(busy), os.O_RDONLY) for _ in range(FOLDERS)]
    problems = []

    def use(number):
        try:
            for count in range(40):
                fd = handles[(number * 79 + count * 613) % HANDLES]
                place = (number * 40 + count) * 4 * KIB
                data = (place + 1).to_bytes(8, "little") * 512
                os.pwrite(fd, data, place)
                if os.pread(handles[(number + count) % HANDLES], 4 * KIB, place) != data:
                    problems.append(f"wrong data at {place}")
        except OSError as error:
            problems.append(str(error))
    threads = [threading.Thread(target=use, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not problems, str(problems[:3]))
    check(os.listdir(handles[-1]) == os.listdir(os.path.dirname(busy)), "a directory handle lists something else")
    print(f"{HANDLES} handles of one disk, {FOLDERS} of its folder, {THREADS} threads: descriptors of the worker {before} -> {descriptors(worker)}")
    check(descriptors(worker) - before < 50, "handles of guests cost the worker descriptors")
    for fd in handles:
        os.close(fd)

    # --- guests
    guests = [subprocess.Popen([sys.executable, "-c", GUEST, busy, str(n), str(GUESTS), "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
              for n in range(GUESTS)]
    done = [guest.communicate(timeout=120) for guest in guests]
    check(all(guest.returncode == 0 for guest in guests), next((err for _, err in done if err), ""))
    print(f"{GUESTS} guests: {sum(int(out) for out, _ in done)} writes, all read back")

    # --- a slow image
    slow = os.open(os.path.join(mnt, "slow", "disk.raw"), os.O_RDWR)
    image_read = s.random.randrange(200, 250) * MIB
    faults.arm("pwrite", "/slow.img$", 0, rule=0, delay_us=60_000)
    faults.arm("pread", "/slow.img$", 0, rule=1, delay_us=300_000)
    times, written, deadline = [], 0, time.monotonic() + 12
    while time.monotonic() < deadline:
        # Some 20 MiB/s: the uploader keeps up, so that the budget is used up by what is not merged and nothing else.
        time.sleep(0.003)
        started = time.monotonic()
        try:
            # Every other block, so that each is an image write of its own.
            os.pwrite(slow, written.to_bytes(8, "little") * 8192, (written * 2 % 3000) * 64 * KIB)
        except OSError as error:
            raise AssertionError(f"a write failed after {written}: {error}")
        times.append(time.monotonic() - started)
        written += 1
        if times[-1] > 1:
            now = s.farshore_json("status", "slow")["disks"][0]
            if now["logBytes"] >= now["logBudgetBytes"] * 7 // 8:
                break
    report = s.farshore_json("status", "slow")["disks"][0]
    at_speed = [t for t in times if t < 0.25]
    print(f"slow image: {written} writes of 64 KiB, {written * 64 / 1024:.0f} MiB, median {percentile(times, .5) * 1000:.2f} ms, longest {max(times) * 1000:.0f} ms; "
          f"log {report['logBytes'] // MIB} of {report['logBudgetBytes'] // MIB} MiB, {report['health']}")
    check(len(at_speed) * 64 * KIB > 40 * MIB and percentile(at_speed, .5) < 0.02, "writes do not go at the log's speed")
    started = time.monotonic()
    last = (written - 1) * 2 % 3000 * 64 * KIB
    check(os.pread(slow, 64 * KIB, last) == (written - 1).to_bytes(8, "little") * 8192, "wrong data from the log")
    from_log = time.monotonic() - started
    check(from_log < 0.25, f"a read of the log took {from_log:.2f} s")
    started = time.monotonic()
    check(os.pread(slow, 4 * KIB, image_read) == bytes(4 * KIB), "wrong data from the image")
    print(f"read from the log {from_log * 1000:.1f} ms, from the image {(time.monotonic() - started) * 1000:.0f} ms")
    expected = {}
    for number in range(max(0, written - 1400), written):
        expected[(number * 2 % 3000) * 64 * KIB] = number
    os.close(slow)
    started = time.monotonic()
    s.stop(process, timeout=120)
    stopped = time.monotonic() - started
    print(f"unmount with a slow image {stopped:.1f} s")
    check(stopped < 10, "the unmount waits for the merge")
    faults.disarm()
    process, _ = s.mount(mnt)
    slow = os.open(os.path.join(mnt, "slow", "disk.raw"), os.O_RDONLY)
    for place, number in s.random.sample(sorted(expected.items()), min(200, len(expected))):
        check(os.pread(slow, 64 * KIB, place) == number.to_bytes(8, "little") * 8192, f"wrong data at {place} after the stop")
    os.close(slow)
    s.stop(uploader)
    s.stop(process)
