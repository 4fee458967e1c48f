"""Policies, pins, retention and collection with the real programs: a mount and an uploader that run while points are cut, the policy
is changed under them, points thin out, one is pinned, a reader has an old one open, and a collection runs from a site of its own.

Every point that is listed afterwards restores to what the disk held, with farshore and without it.
"""
import hashlib
import os
import subprocess
import sys
import time

from scenario import MIB, PROGRAM, Scenario, check, run

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/restore-without-farshore/restore.py")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_until(what, condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        check(time.monotonic() < deadline, "waited in vain: " + what)
        time.sleep(0.1)


with Scenario() as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(2 * MIB))
        file.truncate(8 * MIB)
    s.farshore("policy", "create", "quick", "--interval", "1h", "--point-every", "1h", "--retention", "all:2s,3s:30s")
    s.farshore("protect", s.path("disk.img"), "--name", "d", *vault, "--policy", "quick")
    s.farshore("policy", "delete", "quick", status=9)
    _, mnt = s.mount(served="d")
    s.start("upload", "--foreground", log=s.path("upload.log"))
    served = os.path.join(mnt, "d", "disk.raw")

    def listed():
        return {point["sequence"]: point for point in s.farshore_json("point", "list", "d", *vault)}

    wait_until("the first replication", lambda: s.farshore_json("status", "d")["disks"][0]["phase"] == "delta")
    # Intervals of an hour become a second; mount and uploader run on.
    s.farshore("policy", "edit", "quick", "--interval", "1s", "--point-every", "1s", "--bandwidth", "8MiB")
    with open(served, "r+b", buffering=0) as file:
        file.write(b"x" * 4096)
        os.fsync(file.fileno())
    wait_until("a point by the new interval", lambda: len(listed()) > 1, 15)

    held, reader = {}, None
    for number in range(14):
        with open(served, "r+b", buffering=0) as file:
            for _ in range(6):
                file.seek(s.random.randrange(2000) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        sequence = s.farshore_json("point", "cut", "d", "--tag", f"cut{number}")[0]["sequence"]
        held[sequence] = digest(served)
        if number == 2:
            wait_until("the point to pin", lambda: sequence in listed())
            pinned = s.farshore_json("point", "pin", "d/cut2", "--name", "keep", "--until", "90d", "--reason", "a test")
            check(pinned["sequence"] == sequence and pinned["disks"] == ["d"], f"pinned {pinned}")
            s.farshore("point", "pin", "d/cut2", "--name", "keep", status=9)
            points = s.path("points")
            s.mount_points(points, *vault, "--disk", "d", "--at", "cut2", site=s.path("reader-site"))
            reader = open(os.path.join(points, "d", str(sequence), "disk.raw"), "rb")
            check(len(reader.read(4096)) == 4096, "the open point does not read")
        time.sleep(0.5)
    pin = pinned["sequence"]
    newest = max(held)
    wait_until("the last point in the vault", lambda: newest in listed())
    wait_until("old points to go", lambda: len([point for point in listed() if point in held]) < len(held) - 3)

    # As the retention identity, which knows nothing but vault and key.
    deleted = 0
    collect = ["vault", "collect", url, "--key-file", s.key()]
    first = s.farshore_json(*collect, site=s.path("collect-site"))
    check(first["condemnedObjects"] > 0 and [one["group"] for one in first["waiting"]] == ["d"], f"collected {first}")
    # The running uploader would take note within the hour; a new one does so at once.
    s.farshore("upload", "--stop")
    s.farshore("upload", "--once")
    second = s.farshore_json(*collect, site=s.path("collect-site"))
    check(second["deletedObjects"] > 0, f"collected {second}")

    found = listed()
    check(pin in found and found[pin].get("pins") == ["keep"] and newest in found, f"listed {sorted(found)}, pinned {pin}, newest {newest}")
    gone = [sequence for sequence in held if sequence not in found]
    check(gone, "no point went")
    for sequence in sorted(set(found) & set(held)):
        out = s.path("restored.raw")
        s.farshore("restore", "d", *vault, "--at", f"#{sequence}", "--to", out, "--force", site=s.path("other-site"))
        check(digest(out) == held[sequence], f"#{sequence} restores to something else")
    for sequence in (pin, newest):
        run(sys.executable, TOOL, s.path("vault"), "d", s.path("plain.raw"), "--at", str(sequence), "--key-file", s.key())
        check(digest(s.path("plain.raw")) == held[sequence], f"restore.py: #{sequence} differs")
    s.farshore("restore", "d", *vault, "--at", f"#{gone[0]}", "--to", s.path("gone.raw"), status=10)
    # The point that was open all the time reads on, over what was collected.
    reader.seek(0)
    check(hashlib.sha256(reader.read()).hexdigest() == held[pin], "the open point reads something else")
    reader.close()
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], "damage")
    s.farshore("point", "unpin", "d", "--name", "keep")
    s.farshore("point", "unpin", "d", "--name", "keep", status=10)
    print(f"{len(held)} points cut by hand, {len(set(found) & set(held))} kept, all restored; {second['deletedObjects']} objects collected")

    # A limit that is lifted while something waits for it.
    s.farshore("policy", "edit", "quick", "--bandwidth", "16KiB")
    with open(served, "r+b", buffering=0) as file:
        file.seek(4 * MIB)
        file.write(s.random.randbytes(2 * MIB))
        os.fsync(file.fileno())
    began = time.monotonic()
    uploading = subprocess.Popen([PROGRAM, "upload", "--once"], env=dict(os.environ, FARSHORE_SITE=s.site), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s.at_end(uploading.kill)
    time.sleep(3)
    check(uploading.poll() is None, "2 MiB passed a limit of 16 KiB a second within 3 s")
    s.farshore("policy", "edit", "quick", "--bandwidth", "unlimited")
    check(uploading.wait(30) == 0, "the upload failed")
    print(f"2 MiB waited for a limit of 16 KiB a second, and went when it was lifted, after {time.monotonic() - began:.1f} s")
