"""A differencing VHD as a protected disk, from the command line: the mount shows the whole chain, writes go into the leaf only, also
across a killed worker; the vault gets the whole disk and restores it without a parent; a chain that breaks is Critical, named, and served
again when it is whole. The chain is made and read by Tests/tools/vhd.py, which knows nothing of ours."""
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

from scenario import KIB, MIB, ROOT, Scenario, check, requires, requires_root, run

requires("qemu-img")
requires_root()
TOOL = os.path.join(ROOT, "Tests", "tools", "vhd.py")


def vhd(*words):
    run(sys.executable, TOOL, *words)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, f"waited in vain: {what}")
        time.sleep(0.2)


with Scenario() as s:
    size = 24 * MIB
    for folder in ("base", "vm"):
        os.mkdir(s.path(folder))
    base, middle, leaf, model = s.path("base", "golden image.vhd"), s.path("vm", "middle.avhd"), s.path("vm", "диск.avhd"), s.path("model.raw")
    vhd("make", base, s.path("0.raw"), "--size", size, "--creator", "win", "--seed", s.seed)
    vhd("child", middle, s.path("1.raw"), "--parent", base, "--id", "01" * 16, "--creator", "win", "--block", 512 * KIB, "--filled", 0.4, "--seed", s.seed + 1,
        "--locators", "W2ku=C:\\hyper-v\\base\\golden image.vhd,W2ru=..\\base\\golden image.vhd", "--space", "bytes")
    vhd("child", leaf, model, "--parent", middle, "--id", "02" * 16, "--creator", "win", "--filled", 0.2, "--seed", s.seed + 2)
    parents = [base, middle]
    before = [digest(path) for path in parents]
    url = s.make_vault()

    # Outside of the disk's folders a parent is refused, by name; named folders are kept.
    done = s.farshore("protect", leaf, "--name", "vm", "--vault", url, "--key-file", s.key(), status=11)
    check("golden image.vhd (outside of " in done.stderr and "--parent-dir" in done.stderr, done.stderr)
    seen = s.farshore_json("image", "info", leaf, "--parent-dir", s.path("base"))
    check([parent["timeStamp"] for parent in seen["vhd"]["parents"]] == ["matches", "matches"] and seen["format"] == "vhd-differencing", str(seen))
    checked = s.farshore_json("image", "check", leaf, "--parent-dir", s.path("base"))
    check(len(checked["files"]) == 3 and checked["remarks"] == [], str(checked))
    made = s.farshore_json("protect", leaf, "--name", "vm", "--vault", url, "--key-file", s.key(), "--parent-dir", s.path("base"))
    check(made["format"] == "vhd-differencing" and made["warnings"] == [], str(made))

    mnt = s.path("mnt")
    s.at_end(lambda: subprocess.run(["umount", "-l", mnt], capture_output=True))
    s.at_end(lambda: s.farshore("unmount", mnt, ok=False))
    s.farshore("mount", mnt)
    raw = os.path.join(mnt, "vm", "disk.raw")
    run("cmp", raw, model)

    def write(rounds):
        with open(model, "r+b") as flat:
            disk = os.open(raw, os.O_RDWR)
            for _ in range(rounds):
                offset, data = s.random.randrange(size // 512) * 512, s.random.randbytes(s.random.choice([512, 4096, 70 * KIB]))
                data = data[:size - offset]
                os.pwrite(disk, data, offset)
                flat.seek(offset)
                flat.write(data)
            os.fsync(disk)
            os.close(disk)

    write(200)
    run("cmp", raw, model)
    # While the parents are in use nobody may write to them; reading is free.
    check(run("qemu-io", "-f", "vpc", "-c", "write 0 512", base, ok=False).returncode != 0, "a parent could be opened for writing")
    run("qemu-img", "info", "-f", "vpc", base)
    # The fixed VHD beside it stands alone.
    run("qemu-img", "compare", "-f", "raw", "-F", "vpc", model, os.path.join(mnt, "vm", "disk.vhd"))
    s.farshore("upload", "--once")
    write(100)

    def kill_worker():
        os.kill(int(run("pgrep", "-f", f"^farshore-worker.*{mnt}|serve-mount {mnt}").stdout.split()[-1]), signal.SIGKILL)

    kill_worker()
    write(100)
    run("cmp", raw, model)
    check(run("qemu-io", "-f", "vpc", "-c", "write 0 512", base, ok=False).returncode != 0, "after a worker's death a parent could be opened for writing")
    s.farshore("point", "cut", "vm", "--tag", "whole")
    s.farshore("upload", "--once")
    for form, driver in (("raw", "raw"), ("vhd-fixed", "vpc"), ("vhd-dynamic", "vpc")):
        out = s.path("restored-" + form)
        s.farshore("restore", "vm", "--vault", url, "--key-file", s.key(), "--at", "whole", "--to", out, "--to-format", form)
        run("qemu-img", "compare", "-f", "raw", "-F", driver, model, out)

    # What is no file is no image, and none is made in its place, by restore as by convert: told before anything is fetched.
    places = [s.path(name) for name in ("fifo", "device", "link", "dangling", "base")]
    os.mkfifo(places[0])
    os.mknod(places[1], stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.symlink(s.path("restored-raw"), places[2])
    os.symlink(s.path("nothing"), places[3])
    restore = ["restore", "vm", "--vault", url, "--key-file", s.key(), "--at", "whole", "--to"]
    for place in places:
        kind = stat.S_IFMT(os.lstat(place).st_mode)
        for command in (["image", "convert", s.path("0.raw"), place], restore + [place]):
            for force in ([], ["--force"]):
                done = s.farshore(*command, *force, status=11)
                check("exists and is no file" in done.stderr and "with dd" in done.stderr, done.stderr)
        check(stat.S_IFMT(os.lstat(place).st_mode) == kind, f"{place} is another thing now")
        check(not [name for name in os.listdir(s.dir) if "farshore-" in name], str(os.listdir(s.dir)))
    for place in places[:2] + places[4:]:
        for command in (["protect", place, "--name", "none", "--vault", url, "--key-file", s.key()], ["image", "info", place], ["image", "check", place],
                        ["image", "convert", place, s.path("never.raw")]):
            check("neither a file nor a block device" in s.farshore(*command, status=11).stderr, f"{command}")
    run("cmp", s.path("restored-raw"), model)

    # A parent that goes away while the disk is served.
    os.rename(middle, middle + ".away")
    until("health is critical", lambda: s.farshore_json("status", "vm")["disks"][0]["health"] == "critical")
    report = s.farshore_json("status", "vm")["disks"][0]
    check("middle.avhd" in report["reason"] and report["isServed"], str(report))
    run("cmp", raw, model)
    # The state of a chain that is not there cannot be noted: as after a kill, the next mount recovers.
    check("not closed cleanly" in s.farshore("unmount", mnt, status=1).stderr, "a lost parent was not told")

    # A broken chain: not served, Critical, named with its places, by every command.
    done = s.farshore("mount", mnt, status=11)
    for words in ("broken chain", "middle.avhd", "no such file", "01010101-0101-0101-0101-010101010101"):
        check(words in done.stderr, done.stderr)
    s.farshore("upload", "--once", status=11)
    report = s.farshore_json("status", "vm")["disks"][0]
    check(report["health"] == "critical" and "broken chain" in report["reason"] and s.path("vm", "middle.avhd") in report["reason"], str(report))
    s.farshore("unprotect", "vm", status=11)
    s.start("upload", "--foreground", log=s.path("upload.log"))
    until("the uploader is refused", lambda: "broken chain" in open(s.path("upload.log")).read(), 20)
    done = s.farshore("image", "info", leaf, status=11)
    check("broken chain" in done.stderr and "Try: bring the parent back" in done.stderr, done.stderr)
    shutil.copy(base, middle)
    done = s.farshore("image", "check", leaf, status=11)
    check("middle.avhd (another disk, id 00010203-" in done.stderr, done.stderr)
    os.rename(middle + ".away", middle)

    # Whole again, and unchanged but for a link: served. Changed: refused until accepted.
    os.link(base, s.path("base", "second name"))
    s.farshore("mount", mnt)
    run("cmp", raw, model)
    write(20)
    # By the uploader itself, which that disk's failure had stopped.
    until("replication goes on", lambda: s.farshore_json("status", "vm")["disks"][0]["health"] == "normal", 20)
    s.farshore("upload", "--stop")
    s.farshore("unmount", mnt)
    os.utime(base, (1_000_000_000, 1_000_000_000))
    done = s.farshore("mount", mnt, status=11)
    check("or a parent that it is read through" in done.stderr and "golden image.vhd), was changed" in done.stderr, done.stderr)
    done = s.farshore("image", "check", leaf, "--parent-dir", s.path("base"))
    check("another time than its child has noted" in done.stdout, done.stdout)
    s.farshore("accept", "vm")
    s.farshore("mount", mnt)
    run("cmp", raw, model)
    write(20)

    # Another disk takes a parent's name, with its unique id: successors serve what was served before, and nothing of it is replicated.
    saved = s.path("saved.vhd")
    shutil.copy2(base, saved)
    os.rename(base, base + ".away")
    vhd("make", base, "-", "--size", size, "--creator", "win", "--seed", s.seed + 7)
    vhd("read", middle, s.path("other.raw"))
    check(run("cmp", s.path("1.raw"), s.path("other.raw"), ok=False).returncode == 1, "the other parent makes no difference")
    kill_worker()
    run("cmp", raw, model)
    until("the successor says so", lambda: "golden image.vhd, which" in (s.farshore_json("status", "vm")["disks"][0].get("reason") or ""), 20)
    s.farshore("resync", "vm", "--now")
    done = s.farshore("upload", "--once", ok=False)
    check(done.returncode != 0 and "golden image.vhd was removed or replaced" in done.stderr, done.stdout + done.stderr)
    os.rename(base + ".away", base)
    s.farshore("upload", "--once")
    write(20)
    s.farshore("point", "cut", "vm", "--tag", "own")
    s.farshore("upload", "--once")
    s.farshore("restore", "vm", "--vault", url, "--key-file", s.key(), "--at", "own", "--to", s.path("own.raw"))
    run("cmp", model, s.path("own.raw"))
    # Its last name goes: it lives in the supervisor. And to open a pipe waits for its other end.
    os.unlink(base), os.unlink(s.path("base", "second name"))
    s.farshore("upgrade", mnt)
    run("cmp", raw, model)
    write(20)
    kill_worker()
    run("cmp", raw, model)
    os.mkfifo(base)
    done = s.farshore("unmount", mnt, status=1, timeout=60)
    check("not all files of vm" in done.stderr, done.stderr)
    os.unlink(base)
    shutil.move(saved, base)
    check("removed or replaced" in s.farshore("mount", mnt, status=11).stderr, "a parent that was replaced was served after the stop")
    s.farshore("accept", "vm")
    s.farshore("mount", mnt)
    run("cmp", raw, model)
    write(20)

    s.farshore("unmount", mnt)

    # Nobody holds the chain's locks now, and its disk is protected still: nothing takes its place, and no guest gets to write to its parents.
    for target in (leaf, middle, base):
        for command in (["image", "convert", s.path("0.raw"), target, "--force"], restore + [target, "--force"]):
            done = s.farshore(*command, status=9)
            check(("which this site protects" if target == leaf else "read through by " + leaf) in done.stderr and "unprotect vm" in done.stderr, done.stderr)
    for target in (middle, base):
        done = s.farshore("protect", target, "--name", "golden", "--vault", url, "--key-file", s.key(), "--parent-dir", s.path("base"), status=9)
        check(f"read through by {leaf}, the image of vm" in done.stderr and "unprotect vm" in done.stderr, done.stderr)
    over = s.path("vm", "over.avhd")
    vhd("child", over, "-", "--parent", leaf, "--id", "03" * 16, "--creator", "win")
    done = s.farshore("protect", over, "--name", "over", "--vault", url, "--key-file", s.key(), "--parent-dir", s.path("base"), status=9)
    check(f"read through {leaf}, the image of vm" in done.stderr and "unprotect vm" in done.stderr, done.stderr)
    done = s.farshore("unprotect", "vm")
    check("needs its parents" in done.stdout, done.stdout)
    vhd("read", leaf, s.path("back.raw"))
    run("cmp", model, s.path("back.raw"))
    s.farshore("image", "convert", leaf, s.path("flat.vhd"), "--to", "vhd-dynamic", "--parent-dir", s.path("base"))
    run("qemu-img", "compare", "-f", "raw", "-F", "vpc", model, s.path("flat.vhd"))
    check([digest(path) for path in parents] == before, "a parent was changed")
    print("a chain of three is one disk, written in its leaf only; a break is named and heals")
