"""The storage of one disk stands still (a frozen file system). An upgrade of the worker, which could not end then, is refused
and ends nothing: the other disk is served, and what waited goes on when the storage does."""
# Promise R1: The death, a hang or an upgrade of the worker is a pause to programs, never an error, however much of the log
# is not merged yet.
import glob
import mmap
import os
import threading
import time

from scenario import KIB, MIB, Scenario, check, requires, requires_root, run

requires("fsfreeze", "mkfs.ext4", "losetup")
requires_root()


def worker_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return int(file.read().split()[0])


def waits_for_storage(pid):
    for path in glob.glob(f"/proc/{pid}/task/*/stat"):
        with open(path) as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "D":
                return True
    return False


def write(path, fill, ended):
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4 * KIB)
    page[:] = bytes([fill]) * (4 * KIB)
    try:
        ended.append(os.pwritev(file, [page], 8 * MIB))
    except OSError as error:
        ended.append(error)
    os.close(file)


with Scenario() as s:
    url = s.make_vault()
    with open(s.path("storage.img"), "wb") as file:
        file.truncate(512 * MIB)
    run("mkfs.ext4", "-q", s.path("storage.img"))
    s.mount_filesystem(s.loop(s.path("storage.img")), s.path("storage"))
    for name, image in (("moving", s.path("moving.img")), ("still", s.path("storage", "still.img"))):
        with open(image, "wb") as file:
            file.truncate(32 * MIB)
        s.farshore("protect", image, "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(3600), "--log-budget", 64 * MIB)
    process, mnt = s.mount(served="still")
    moving, still = (os.path.join(mnt, name, "disk.raw") for name in ("moving", "still"))
    worker = worker_of(process)

    # The log's first segment is begun under its lock, which `upgrade` needs too: it would get no answer, instead of the supervisor's.
    first = []
    write(still, 1, first)
    check(first == [4 * KIB], f"{first}")
    run("fsfreeze", "--freeze", s.path("storage"))
    s.at_end(lambda: run("fsfreeze", "--unfreeze", s.path("storage"), ok=False))
    ended = []
    guest = threading.Thread(target=write, args=(still, 7, ended), daemon=True)
    guest.start()
    deadline = time.monotonic() + 30
    while not waits_for_storage(worker):
        check(time.monotonic() < deadline, "no thread of the worker waits for the frozen storage")
        time.sleep(0.05)
    refused = s.farshore("upgrade", mnt, status=1)
    check("has waited for storage" in refused.stderr and "was not asked to" in refused.stderr, refused.stderr)
    check(worker_of(process) == worker and not ended, f"the worker or the request was ended: {ended}")
    other = []
    write(moving, 8, other)
    check(other == [4 * KIB], f"the other disk is not served: {other}")

    run("fsfreeze", "--unfreeze", s.path("storage"))
    guest.join(30)
    check(ended == [4 * KIB], f"the write that waited: {ended}")
    s.farshore("upgrade", mnt)
    check(worker_of(process) != worker, "not upgraded when the storage was back")
    with open(still, "rb") as file:
        file.seek(8 * MIB)
        check(file.read(4 * KIB) == bytes([7]) * (4 * KIB), "the write that waited is not there")
    s.farshore("unmount", mnt)
    check(process.wait(60) == 0, "the supervisor did not end cleanly\n" + open(process.log).read())
