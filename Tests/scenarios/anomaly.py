"""Ordinary loads on real ext4 raise no alarm, and an encryptor does: the point from before is pinned by itself and restores to the files as they were.

Loads that may raise it though nothing is wrong are run and printed as well: docs/operating/anomalies.md quotes what was seen.
"""
import base64
import os
import shutil
import sqlite3
import subprocess
import time

from scenario import MIB, Scenario, check, requires, requires_root, run, tree_digest

requires_root()
requires("mkfs.ext4", "losetup", "fstrim")
SIZE = 384 * MIB


def wait(what, ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < deadline, "waited in vain: " + what)
        time.sleep(0.1)


with Scenario(seed=50) as s:
    url = s.make_vault()
    s.farshore("policy", "create", "quick", "--interval", "1s", "--retention", "forever")
    ordinary = ["database", "compressed files, fresh", "mkfs", "rewritten files, discard"]
    unsure = ["compressed files, freed space"]
    attacks = ["encrypted in place", "encrypted copies, old ones removed"]
    names = {load: f"d{number}" for number, load in enumerate(ordinary + unsure + attacks)}
    for name in names.values():
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(SIZE)
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--vault", url, "--key-file", s.key(), "--policy", "quick")
    process, mnt = s.mount()
    s.start("upload", "--foreground", log=s.path("upload.log"))

    def disk(name):
        return next(one for one in s.farshore_json("status")["disks"] if one["disk"] == name)

    def events(name):
        return [event["text"] for event in s.farshore_json("events", "--limit", "500") if event.get("disk") == name]

    def replicated(name):
        at = s.farshore_json("point", "cut", name)[0]["sequence"]
        wait(f"{name} in the vault", lambda: (disk(name)["replicatedSequence"] or 0) >= at)
        return at

    def fill(folder, count, text=True):
        os.makedirs(folder, exist_ok=True)
        for number in range(count):
            data = s.random.randbytes(MIB)
            with open(os.path.join(folder, f"file{number}"), "wb") as file:
                file.write(base64.b64encode(data[:MIB * 3 // 4]) if text else data)

    def database(at):
        base = sqlite3.connect(os.path.join(at, "base.db"))
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER, note TEXT)")
        for _ in range(2):
            with base:
                base.executemany("INSERT INTO account (name, balance, note) VALUES (?, ?, ?)",
                                 ((f"customer {n}", n, base64.b64encode(s.random.randbytes(300)).decode()) for n in range(40_000)))
        for _ in range(60):
            with base:
                for _ in range(400):
                    base.execute("UPDATE account SET balance = balance + 1, note = ? WHERE id = ?",
                                 (base64.b64encode(s.random.randbytes(300)).decode(), s.random.randrange(1, 80_001)))
        base.close()

    def encrypt_in_place(folder):
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                file.write(s.random.randbytes(size))
                os.fsync(file.fileno())

    def encrypt_copies(folder):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            with open(path + ".locked", "wb") as file:
                file.write(s.random.randbytes(os.path.getsize(path)))
                os.fsync(file.fileno())
            os.unlink(path)

    alarms = {}
    for load, name in names.items():
        wait(f"{name} replicated", lambda: disk(name)["phase"] == "delta")
        device = s.loop(os.path.join(mnt, name, "disk.raw"))
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", device)
        at = s.path("fs-" + name)
        s.mount_filesystem(device, at, *(["-o", "discard"] if "discard" in load else []))
        files = os.path.join(at, "files")
        if load != "compressed files, fresh":
            fill(files, 120 if load in attacks else 160)
        os.sync()
        digest = tree_digest(files) if load in attacks else None
        before = replicated(name)
        if load == "database":
            database(at)
        elif load == "compressed files, fresh":
            fill(files, 200, text=False)
        elif load == "mkfs":
            run("umount", at)
            run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", device)
            s.mount_filesystem(device, at)
        elif load == "rewritten files, discard":
            fill(os.path.join(at, "packed"), 60, text=False)
            for folder in (files, os.path.join(at, "packed")):
                for number in range(60):
                    shutil.copyfile(os.path.join(folder, f"file{number}"), os.path.join(folder, "moved"))
                    os.replace(os.path.join(folder, "moved"), os.path.join(folder, f"file{number}"))
        elif load == "compressed files, freed space":
            shutil.rmtree(files)
            os.sync()
            fill(files, 200, text=False)
        elif load == "encrypted in place":
            encrypt_in_place(files)
        else:
            encrypt_copies(files)
        os.sync()
        run("umount", at)
        s.detach(device)
        replicated(name)
        alarms[load] = next((text for text in events(name) if "looks encrypted" in text and "no longer" not in text), None)
        print(f"{load}: {'ALARM: ' + alarms[load] if alarms[load] else 'no alarm'}")
        if load == "encrypted in place":
            check(alarms[load], "an encryptor raised no alarm")
            held = disk(name)
            check(held["health"] != "normal" and "looks encrypted" in (held["reason"] or ""), f"health says {held['health']}: {held['reason']}")
            pinned = int(alarms[load].split("point #")[1].split(" ")[0])
            check(pinned >= before, f"pinned #{pinned}, but #{before} was clean")
            out = s.path("restored.img")
            s.farshore("restore", name, "--vault", url, "--key-file", s.key(), "--at", str(pinned), "--to", out)
            device = s.loop(out)
            s.mount_filesystem(device, s.path("restored"))
            check(tree_digest(s.path("restored", "files")) == digest, "the files of the pinned point are not those from before")
            run("umount", s.path("restored"))
            s.detach(device)
            check(f"point unpin {name} --name anomaly-{pinned}" in held["remedy"], held["remedy"])
            s.farshore("point", "unpin", name, "--name", f"anomaly-{pinned}")
            check("unpin" not in (disk(name)["remedy"] or ""), f"the pin is gone, but health says: {disk(name)['remedy']}")
            print("the pinned point restores to the files as they were")
    check(not [load for load in ordinary if alarms[load]], "an ordinary load raised an alarm")
