"""One disk on storage that hangs while it is opened: the mount answers for the others, takes new ones in and lets old ones go.
And the log of a disk that is served hangs: the others go on to get their points."""
import os
import subprocess
import threading
import time

from scenario import KIB, MIB, Scenario, check, requires, requires_root, run

requires_root()
requires("mkfs.ext4", "losetup", "fsfreeze")

with Scenario() as s:
    url = s.make_vault()
    with open(s.path("volume"), "wb") as file:
        file.truncate(256 * MIB)
    device, volume = s.loop(s.path("volume")), s.path("logs")
    run("mkfs.ext4", "-q", "-F", device)
    s.mount_filesystem(device, volume)

    def protect(name, *options):
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(8 * MIB)
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(1), *options, timeout=60)

    def write(name):
        with open(os.path.join(mnt, name, "disk.raw"), "r+b", buffering=0) as file:
            file.write(s.random.randbytes(64 * KIB))
            os.fsync(file.fileno())

    protect("good")
    protect("slow", "--log-dir", os.path.join(volume, "slow.log"), "--log-budget", str(16 * MIB))
    os.rename(s.path("slow.img"), s.path("aside"))
    process, mnt = s.mount(served="good")
    check(sorted(os.listdir(mnt)) == ["good"], str(os.listdir(mnt)))
    run("fsfreeze", "-f", volume)
    s.at_end(lambda: subprocess.run(["fsfreeze", "-u", volume], capture_output=True))
    os.rename(s.path("aside"), s.path("slow.img"))
    # It is tried every 5 s; by now an attempt hangs.
    time.sleep(12)
    began = time.monotonic()
    check([disk["disk"] for disk in s.farshore_json("status", "good", timeout=60)["disks"]] == ["good"], "no status")
    protect("third")
    # The one that is being opened has its place; who uses it waits.
    check(sorted(set(os.listdir(mnt)) - {"slow"}) == ["good", "third"], str(os.listdir(mnt)))
    write("good"), write("third")
    s.farshore("point", "cut", "good", timeout=60)
    s.farshore("unprotect", "third", timeout=60)
    check(sorted(set(os.listdir(mnt)) - {"slow"}) == ["good"], str(os.listdir(mnt)))
    print(f"with one disk's storage hung the others were served, added and released in {time.monotonic() - began:.1f} s")
    run("fsfreeze", "-u", volume)
    deadline = time.monotonic() + 60
    while "slow" not in os.listdir(mnt):
        check(time.monotonic() < deadline, "the disk is not served though its storage is back: " + open(process.log).read())
        time.sleep(0.2)
    write("slow")

    # A point of the disk whose log hangs cannot be cut; the threads that try are not those of the others.
    run("fsfreeze", "-f", volume)
    hung = threading.Thread(target=write, args=("slow",))
    hung.start()
    time.sleep(4)
    for _ in range(3):
        points = len(s.farshore_json("point", "list", "good"))
        write("good")
        deadline = time.monotonic() + 10
        while len(s.farshore_json("point", "list", "good")) == points:
            check(time.monotonic() < deadline, "no point is cut on a disk whose log does not hang")
            time.sleep(0.2)
    check(hung.is_alive(), "the write of the hung log has ended")
    run("fsfreeze", "-u", volume)
    hung.join()
    print("with one disk's log hung the other one got its points")
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
