"""The worker of a mount is killed again and again: fio verifies every block it wrote, a filesystem stays whole, points go
on, and no program sees an error. A disk added meanwhile is served on, one that is in use is not let go."""
# Promise R2: A successor answers every request that was in hand and executes none twice that the log has.
import os
import signal
import subprocess
import threading
import time

from scenario import MIB, SCALE, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires("fio", "mkfs.ext4", "e2fsck", "losetup")
requires_root()
SECONDS = int(8 * SCALE)
# Nothing uploads here, so the log keeps every write: fio is slowed down to what it may take.
RATE_BYTES = 48 * MIB
LOG_BYTES = RATE_BYTES * SECONDS * 2 + 512 * MIB


def worker_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        for pid in file.read().split():
            try:
                with open(f"/proc/{pid}/comm") as name:
                    if name.read().strip() == "farshore-worker":
                        return int(pid)
            except FileNotFoundError:
                pass
    return None


with Scenario() as s:
    url = s.make_vault()
    for name in ("data", "files"):
        image = s.path(name + ".img")
        with open(image, "wb") as file:
            file.truncate(128 * MIB)
        s.farshore("protect", image, "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(1),
                   "--log-budget", LOG_BYTES)
    process, mnt = s.mount(served="files")
    stop, kills = threading.Event(), []

    def killer():
        while not stop.wait(s.random.uniform(0.15, 0.6)):
            pid = worker_of(process)
            if pid is None:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills.append(pid)
            # A successor that dies before it serves is begun ever later: this waits for its first answer.
            with open(os.path.join(mnt, "data", "disk.raw"), "rb", buffering=0) as file:
                file.read(1)

    run("mkfs.ext4", "-q", "-F", os.path.join(mnt, "files", "disk.raw"))
    device = s.loop(os.path.join(mnt, "files", "disk.raw"))
    s.mount_filesystem(device, s.path("fs"))
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        fio = subprocess.Popen(
            ["fio", "--name=verify", f"--filename={mnt}/data/disk.raw", "--rw=randrw", "--bs=4k-64k", "--iodepth=16", "--ioengine=libaio",
             "--direct=1", "--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", "--verify_fatal=1", "--time_based", f"--runtime={SECONDS}", "--size=128m", f"--rate=,{RATE_BYTES}",
             f"--output={s.path('fio.txt')}", f"--aux-path={s.dir}"], stdin=subprocess.DEVNULL, cwd=s.dir)
        s.at_end(fio.kill)
        write_tree(s.path("fs", "tree"), s.random)
        run("sync", "-f", s.path("fs"))
        check(fio.wait(SECONDS + 120) == 0, "fio: " + open(s.path("fio.txt")).read())
    finally:
        stop.set()
        thread.join()
    check(len(kills) >= SECONDS, f"only {len(kills)} kills in {SECONDS} s")
    digest = tree_digest(s.path("fs", "tree"))
    busy = s.farshore("unmount", mnt, ok=False)
    check(busy.returncode == 9 and device in busy.stderr, f"unmount of a mount in use: {busy.returncode} {busy.stderr}")
    run("umount", s.path("fs"))
    s.detach(device)
    run("e2fsck", "-fn", os.path.join(mnt, "files", "disk.raw"))
    s.farshore("point", "cut", "data", "files", "--tag", "afterwards")
    began = time.monotonic()
    s.farshore("unmount", mnt)
    check(process.wait(60) == 0, "the supervisor did not end cleanly\n" + open(process.log).read())
    print(f"{len(kills)} kills, unmounted in {time.monotonic() - began:.2f} s")

    # The same files after a restart, and nothing recovered: the stop was clean.
    process, mnt = s.mount(served="files")
    device = s.loop(os.path.join(mnt, "files", "disk.raw"))
    s.mount_filesystem(device, s.path("fs"))
    check(tree_digest(s.path("fs", "tree")) == digest, "the files differ after a restart")
    run("umount", s.path("fs"))
    s.detach(device)
    process.terminate()
    check(process.wait(60) == 0, "SIGTERM: exit " + str(process.returncode))
    check("without closing" not in open(process.log).read(), "a clean stop was taken for a kill")
    check(not os.path.ismount(mnt), "still mounted")
