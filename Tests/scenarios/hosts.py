"""The catalogue of a site is lost while its mount is dead: rebuilt from the vault and the logs, replication goes on with deltas, and every
point from before and after reads bit-exact.
"""
import hashlib
import os
import signal
import time

from scenario import MIB, Scenario, check


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_bytes(folder):
    return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


with Scenario() as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    os.makedirs(s.path("images"))
    s.farshore("policy", "create", "kept", "--interval", "1s", "--retention", "forever")
    for name in ("data", "log"):
        with open(s.path("images", name + ".raw"), "wb") as file:
            file.write(s.random.randbytes(8 * MIB))
        s.farshore("protect", s.path("images", name + ".raw"), "--name", name, "--machine", "shop", "--policy", "kept", *vault)
    s.farshore("machine", "set", "shop", "--cpus", "2")
    mount, mnt = s.mount(served="log")
    held = {}

    def write(tag):
        for name in ("data", "log"):
            with open(os.path.join(mnt, name, "disk.raw"), "r+b", buffering=0) as file:
                for _ in range(5):
                    file.seek(s.random.randrange(2000) * 4096)
                    file.write(s.random.randbytes(4096))
                os.fsync(file.fileno())
        sequence = s.farshore_json("point", "cut", "--machine", "shop", "--tag", tag)[0]["sequence"]
        held[sequence] = {name: digest(os.path.join(mnt, name, "disk.raw")) for name in ("data", "log")}

    def policy_of(name):
        return {disk["disk"]: disk for disk in s.farshore_json("status")["disks"]}[name]["policy"]

    write("first")
    s.farshore("upload", "--once")
    # What only the logs have, and everything is killed.
    write("unsent")
    s.farshore("site", "rebuild", *vault, status=9)
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    s.farshore("unmount", mnt)
    for end in ("", "-wal", "-shm"):
        if os.path.exists(s.path("site", "catalogue.sqlite" + end)):
            os.unlink(s.path("site", "catalogue.sqlite" + end))
    lost = s.farshore_json("site", "rebuild", *vault, status=1)
    check({one["subject"] for one in lost["missing"]} == {"data", "log"} and not lost["disks"], f"without the folder: {lost}")
    began = time.monotonic()
    found = s.farshore_json("site", "rebuild", *vault, "--folder", s.path("images"))
    took = time.monotonic() - began
    check([disk["disk"] for disk in found["disks"]] == ["data", "log"] and not found["missing"] and not found["warnings"], f"rebuilt {found}")
    check(policy_of("data") == "kept" and s.farshore_json("policy", "show", "kept")["retention"] == "forever", "the policy is not as it was")
    check(s.farshore_json("machine", "show", "shop")["settings"]["cpus"] == 2, "the machine's settings are not as they were")

    _, mnt = s.mount(served="log")
    for name in ("data", "log"):
        check(digest(os.path.join(mnt, name, "disk.raw")) == held[max(held)][name], f"{name} is not what it was")
    write("after")
    before = stored_bytes(s.path("vault"))
    s.farshore("upload", "--once")
    sent = stored_bytes(s.path("vault")) - before
    check(sent < MIB, f"{sent} bytes were sent: an initial replication of 16 MiB")
    listed = {point["sequence"] for point in s.farshore_json("point", "list", "data", *vault)}
    for sequence, digests in held.items():
        check(sequence in listed, f"point {sequence} is not in the vault")
        for name, value in digests.items():
            s.farshore("restore", name, *vault, "--at", f"#{sequence}", "--to", s.path("restored.raw"), "--force", site=s.path("other-site"))
            check(digest(s.path("restored.raw")) == value, f"{name} at #{sequence} restores to something else")
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], "damage")
    print(f"catalogue rebuilt in {took:.2f} s; {sent} bytes sent for what was new; {len(held)} points of 2 disks bit-exact")
