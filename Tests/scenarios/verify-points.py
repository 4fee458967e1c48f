"""Recovery points tried out while replication goes on: by the file systems' checkers, by a script over two disks of a machine, by a guest that
boots; verdicts that every host sees, the newest verified point, a bisection that is killed and goes on, the drill report and its audit chain."""
import json
import os
import signal
import subprocess
import time

from scenario import MIB, PROGRAM, Scenario, check, requires, requires_root, run

requires_root()
requires("mkfs.ext4", "e2fsck", "debugfs", "qemu-system-x86_64", "setpriv")
# Says so on the serial port and waits: a boot sector is guest enough.
SAID = b"small guest is up\n"
BOOT_SECTOR = (bytes.fromhex("31c08ed8" "baf803" "be157c" "ac" "84c0" "7403" "ee" "ebf8" "f4" "ebfd") + SAID).ljust(510, b"\0") + b"\x55\xaa"


def program(path, text):
    with open(path, "w") as file:
        file.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


with Scenario(seed=53) as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    for name, size in {"root": 24, "data": 24, "boot": 4}.items():
        with open(s.path(name + ".img"), "wb") as file:
            file.truncate(size * MIB)
    for name in ["root", "data"]:
        run("mkfs.ext4", "-q", "-F", s.path(name + ".img"))
        s.farshore("protect", s.path(name + ".img"), "--name", name, "--machine", "shop", *vault, "--policy", s.policy(3600))
    s.farshore("protect", s.path("boot.img"), "--name", "boot", *vault, "--policy", s.policy(3600))
    process, mnt = s.mount(served="boot")
    served = {name: os.path.join(mnt, name, "disk.raw") for name in ["root", "data", "boot"]}
    s.farshore("upload", "--once")
    at = {name: s.path("fs-" + name) for name in ["root", "data"]}
    devices = {name: s.loop(served[name]) for name in at}
    for name in at:
        s.mount_filesystem(devices[name], at[name])
    tags = [f"p{number:02}" for number in range(24)]
    lost = tags.index("p17")
    for number, tag in enumerate(tags):
        for name in at:
            with open(os.path.join(at[name], "counter"), "w") as file:
                file.write(str(number))
                file.flush()
                os.fsync(file.fileno())
        orders = os.path.join(at["data"], "orders")
        if number == lost:
            os.unlink(orders)
            run("sync", "-f", at["data"])
        elif number < lost:
            with open(orders, "a") as file:
                file.write(f"{number}\n")
                file.flush()
                os.fsync(file.fileno())
        s.farshore("point", "cut", "data", "--tag", tag)
    with open(served["boot"], "r+b") as file:
        file.write(BOOT_SECTOR)
    s.farshore("point", "cut", "boot", "--tag", "boots")
    with open(served["boot"], "r+b") as file:
        file.write(bytes(512))
    s.farshore("point", "cut", "boot", "--tag", "does-not")
    with open(served["boot"], "r+b") as file:
        file.write(bytes(511) + b"1")
    s.farshore("point", "cut", "boot", "--tag", "still-not")
    s.farshore("upload", "--once")

    # fsck: of file systems that were in use at every point. One of both disks at one point.
    good = s.farshore_json("verify", "--machine", "shop", "--at", "p16", *vault)
    check(good["isGood"] and good["check"] == "fsck" and "clean" in good["note"] and len({disk["sequence"] for disk in good["disks"]}) == 1, f"{good}")
    # Damage below the file system, as a broken controller leaves it: the directory's inode says nonsense.
    for name in at:
        run("umount", at[name])
    run("debugfs", "-w", "-R", "set_inode_field <2> links_count 77", devices["root"])
    run("sync", devices["root"])
    s.farshore("point", "cut", "root", "--tag", "broken")
    s.farshore("upload", "--once")
    bad = s.farshore("verify", "root", "--at", "broken", "--json", *vault, status=13)
    check(not json.loads(bad.stdout)["isGood"], bad.stdout)
    other = s.path("other-site")
    listed = {point.get("tag"): point for point in s.farshore_json("point", "list", "root", *vault, site=other)}
    check(listed["p16"]["verdicts"] == ["good fsck"] and listed["broken"]["verdicts"] == ["bad fsck"], f"{listed['p16']} {listed['broken']}")
    newest = s.farshore_json("restore", "root", "--at", "latest-verified", "--to", s.path("verified.raw"), *vault, site=other)
    check(newest["sequence"] == listed["p16"]["sequence"], f"latest-verified is #{newest['sequence']}")
    print("fsck: p16 good, the damaged point bad, seen from another site; latest-verified is p16")

    # A script over both disks; what it writes is thrown away.
    script = program(s.path("same.sh"), 'IFS=:; set -- $FARSHORE_ROOTS; [ "$(cat "$1/counter")" = "$(cat "$2/counter")" ] && echo spoiled >"$1/counter" && echo "both at $(cat "$2/counter")"\n')
    for _ in range(2):
        done = s.farshore_json("verify", "--machine", "shop", "--at", "p09", "--script", script, *vault)
        check(done["isGood"] and "both at 9" in done["note"] and done["check"] == "script-same.sh", f"{done}")
    slow = program(s.path("slow.sh"), "sleep 60\n")
    began = time.monotonic()
    s.farshore("verify", "data", "--at", "p01", "--script", slow, "--time-limit", "1", *vault, status=13)
    check(time.monotonic() - began < 20, "a script went on after its time")
    s.farshore("verify", "data", "--at", "p01", "--script", s.path("no-such-script"), *vault, status=10)
    print("a script over two disks at one point; its writes are thrown away, its time ends")

    # A guest.
    shot = s.path("screen.png")
    boot = s.farshore_json("verify", "boot", "--at", "boots", "--check", "boot", "--console", "guest is up", "--screenshot", shot, "--memory", "64", "--time-limit", "60", *vault)
    check(boot["isGood"], f"{boot}")
    with open(shot, "rb") as file:
        check(file.read(8) == b"\x89PNG\r\n\x1a\n", "no picture of the screen")
    s.farshore("verify", "boot", "--at", "does-not", "--check", "boot", "--console", "guest is up", "--memory", "64", "--time-limit", "6", *vault, status=13)
    print(f"a guest booted from a point in {boot['tookSeconds']:.1f} s, its screen is kept; where nothing boots the verdict is bad")

    # Bisection, killed after its first probes.
    there = program(s.path("there.sh"), 'sleep 0.3; [ -s "$FARSHORE_ROOTS/orders" ]\n')
    words = ["bisect", "data", "--script", there, "--from", "p00", *vault]
    killed = subprocess.Popen([PROGRAM, *words], env=dict(os.environ, FARSHORE_SITE=s.site), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = [killed.stderr.readline(), killed.stderr.readline()]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    check(": bad" in first[0], f"{first}")
    found = s.farshore_json(*words)
    check(found["newestGood"]["tag"] == "p16" and found["oldestBad"]["tag"] == "p17", f"{found}")
    probed = [probe["sequence"] for probe in found["probes"]]
    check(len(probed) == len(set(probed)) <= 8, f"{len(probed)} probes of {found['points']} points: {probed}")
    again = s.farshore_json(*words)
    check([probe["sequence"] for probe in again["probes"]] == probed, "a finished bisection probed again")
    # From before the disk was in use: the oldest point is bad too, and the border is found all the same.
    early = s.farshore_json("bisect", "data", "--script", program(s.path("early.sh"), '[ -s "$FARSHORE_ROOTS/orders" ]\n'), "--from", "1970-01-01T00:00:00Z", *vault)
    check(early["points"] > found["points"] and not early["probes"][1]["isGood"] and early["newestGood"]["tag"] == "p16" and early["oldestBad"]["tag"] == "p17", f"{early}")
    s.farshore("bisect", "data", "--script", program(s.path("never.sh"), "exit 1\n"), *vault, status=13)
    # Each guest is judged by its own console.
    guests = s.farshore_json("bisect", "boot", "--check", "boot", "--console", "guest is up", "--memory", "64", "--time-limit", "6", "--from", "boots", *vault)
    check(guests["newestGood"]["tag"] == "boots" and guests["oldestBad"]["tag"] == "does-not" and len(guests["probes"]) == 3, f"{guests}")
    print(f"bisect: p16 is the newest good of {found['points']} points, {len(probed)} tried, one run killed in between")

    # What was done, for whoever must show it.
    page = s.path("drills.html")
    report = s.farshore_json("drill", "report", "--html", page, *vault, site=other)
    events = [(drill["unit"], drill["check"], drill["isGood"]) for drill in report["drills"]]
    check(("shop", "fsck", True) in events and ("root", "fsck", False) in events and ("boot", "boot", True) in events and len(events) == 7, f"{events}")
    with open(page) as file:
        text = file.read()
    check(all(word in text for word in ["<table>", "shop", "is whole"]), "the page lacks something")
    check(s.farshore_json("audit", "check", *vault)["damaged"] == [], "audit check")
    record = s.path("vault", "audit", f"{3:020}")
    with open(record, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    s.farshore("audit", "check", *vault, status=6)
    s.farshore("drill", "report", *vault, status=6)
    print("drill report as JSON and HTML; a changed audit record is found")

    # Nothing of it disturbed the uploader.
    s.farshore("point", "cut", "boot")
    s.farshore("upload", "--once")
    s.farshore("vault", "check", url, "--key-file", s.key())
