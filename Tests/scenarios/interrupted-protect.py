"""`protect` is killed when its log is made and nothing is registered, then run again: as it was, with another vault and budget, with an image that
was resized meanwhile. The log is the one that was asked for last: a guest writes more than it may hold, and the vault has it. A log that
belongs to a disk is not taken for such a leftover."""
import hashlib
import os
import signal
import sys
import time

from scenario import MIB, ROOT, Scenario, check

sys.path.insert(0, os.path.join(ROOT, "Tests", "tools"))
from sites import KILL, Faults

BUDGET, WRITTEN = 16 * MIB, 48 * MIB

with Scenario(seed=17) as s:
    near, far = s.make_vault(), s.make_vault("file://" + s.path("far"), "--key-file", s.path("far.key"))
    keys = {near: s.key(), far: s.path("far.key")}
    faults = Faults(s.dir)
    # The sync of the log's folder comes when log.state has its name.
    faults.arm("fsync", ".raw.log$", KILL)

    def words(name, vault, budget):
        return "protect", s.path(name + ".raw"), "--name", name, "--vault", vault, "--key-file", keys[vault], "--log-budget", budget, "--policy", s.policy(1)

    def killed(name, vault, budget):
        with open(s.path(name + ".raw"), "wb") as file:
            file.truncate(64 * MIB)
        process = s.start(*words(name, vault, budget), env=faults.environment)
        check(process.wait(60) == -signal.SIGKILL, f"protect was not killed: {process.returncode}\n{open(process.log).read()}")
        return log(name)

    def log(name):
        with open(s.path(name + ".raw.log", "log.state")) as file:
            return dict(line.rstrip("\n").split(" ", 1) for line in file)

    same = killed("same", near, BUDGET)
    s.farshore(*words("same", near, BUDGET))
    check(log("same") == same, f"a log that fits was not taken over: {same}, {log('same')}")

    moved = killed("moved", near, 4 * BUDGET)
    s.farshore(*words("moved", far, BUDGET))
    now = log("moved")
    check(now["disk"] == moved["disk"] and now["target"] not in (moved["target"], same["target"]) and now["budget-bytes"] == str(BUDGET), f"{moved}, {now}")

    killed("resized", near, BUDGET)
    os.truncate(s.path("resized.raw"), 96 * MIB)
    s.farshore(*words("resized", near, BUDGET))
    check(log("resized")["disk-bytes"] == str(96 * MIB), f"{log('resized')}")

    with open(s.path("other.raw"), "wb") as file:
        file.truncate(MIB)
    refused = s.farshore(*words("other", near, BUDGET), "--log-dir", s.path("same.raw.log"), status=9).stderr
    check("is the change log of same" in refused and log("same") == same, refused)

    mount, mnt = s.mount(served="moved")
    s.farshore("upload", "--once")
    s.start("upload", "--foreground")
    deadline = time.monotonic() + 60
    while not os.path.exists(os.path.join(mnt, "resized", "disk.raw")):
        check(time.monotonic() < deadline, f"not served: {s.farshore('status').stdout}")
        time.sleep(0.1)
    check(os.path.getsize(os.path.join(mnt, "resized", "disk.raw")) == 96 * MIB, "the resized disk is served with its old size")
    model = bytearray(64 * MIB)
    disk = os.open(os.path.join(mnt, "moved", "disk.raw"), os.O_RDWR)
    for offset in range(0, WRITTEN, MIB):
        model[offset:offset + MIB] = s.random.randbytes(MIB)
        check(os.pwrite(disk, model[offset:offset + MIB], offset) == MIB, "a short write")
    os.fsync(disk)
    os.close(disk)
    s.farshore("point", "cut", "moved", "--tag", "written")
    while s.farshore("restore", "moved", "--vault", far, "--key-file", keys[far], "--at", "written", "--to", s.path("out.raw"), ok=False).returncode:
        check(time.monotonic() < deadline + 60, f"the vault lacks it: {s.farshore('status').stdout}")
        time.sleep(0.5)
    with open(s.path("out.raw"), "rb") as file:
        check(hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(model).digest(), "what was restored is something else")
    print(f"three logs left by a killed protect: one taken over, two made anew; {WRITTEN // MIB} MiB written through a log of {BUDGET // MIB} MiB, restored equal")
