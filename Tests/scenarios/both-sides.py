"""Both sides were written to after a failover that is committed and reprotected, and the home's writes are to be kept: the way that docs/operating/failover.md shows,
with numbered blocks. The replica's disk is unprotected, its points stay; the home's is released, with all of its log in the image, and protected under another name.
"""
import os
import signal
import subprocess
import time

from scenario import MIB, Scenario, check, requires

requires("fusermount3")
BLOCK = 4096


def write(path, first, count, mark):
    with open(path, "r+b", buffering=0) as file:
        for number in range(first, first + count):
            os.pwrite(file.fileno(), (mark + str(number)).encode().ljust(BLOCK, b"."), number * BLOCK)
        os.fsync(file.fileno())


with Scenario() as s:
    there, url, image = s.path("there"), s.make_vault(), s.path("db.raw")
    key = ("--vault", url, "--key-file", s.key())
    with open(image, "wb") as file:
        file.write(s.random.randbytes(16 * MIB))
    s.farshore("protect", image, "--name", "db", *key, "--policy", s.policy(1))
    mount, mnt = s.mount(s.path("mnt"), served="db")
    served = os.path.join(mnt, "db", "disk.raw")
    s.farshore("upload", "--once")
    write(served, 10, 50, "home")
    with open(served, "rb") as file:
        at_home = file.read()
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    subprocess.run(["umount", "-l", mnt], capture_output=True)

    s.mount(s.path("mnt-there"), site=there)
    away = s.farshore_json("failover", "run", "db", *key, site=there)["disks"][0]["path"]
    s.farshore("failover", "commit", "db", "--keep-points", site=there)
    s.farshore("reprotect", "db", site=there)
    write(away, 40, 50, "away")
    with open(away, "rb") as file:
        at_other = file.read()
    s.farshore("upload", "--once", site=there)

    # The steps of the page, once the replica's image stands alone.
    deadline = time.monotonic() + 60
    while "filling" in s.farshore_json("status", "db", site=there)["disks"][0]:
        check(time.monotonic() < deadline, "the replica is never filled")
        time.sleep(0.2)
    s.farshore("unprotect", "db", site=there)
    s.farshore("failover", "release", "db", status=1)
    s.farshore("failover", "release", "db", "--drop-writes")
    with open(image, "rb") as file:
        check(file.read() == at_home, "the home's image lacks writes of the home")
    s.farshore("protect", image, "--name", "db-home", *key, "--policy", s.policy(1))

    def size():
        folder = url.removeprefix("file://")
        return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)

    before = size()
    s.farshore("upload", "--once")
    sent = size() - before
    check(sent < 4 * MIB, f"{sent} bytes were sent though the vault had most of it")
    for name, content in (("db-home", at_home), ("db", at_other)):
        s.farshore("restore", name, *key, "--at", "latest", "--to", s.path(name + ".restored"))
        with open(s.path(name + ".restored"), "rb") as file:
            check(file.read() == content, f"{name} holds something else")
    print(f"the home's writes are kept as db-home with {sent} bytes sent, the other side's stay readable as db")
