"""Disks that cannot be opened: the mount serves the others and names them, `unprotect` refuses without changing anything,
`--discard-log` is the way out, a disk whose unprotect began is left out loudly. And starting, naming and stopping the uploader."""
import fcntl
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import time

from scenario import KIB, MIB, Scenario, check

with Scenario() as s:
    url = s.make_vault()
    done = s.farshore("vault", "check", url, "--key-file", s.path("none.key"), status=10)
    check(s.path("none.key") in done.stderr and "vault --help" not in done.stderr, done.stderr)

    def protect(name):
        image = s.path(name + ".img")
        with open(image, "wb") as file:
            file.write(s.random.randbytes(MIB))
            file.truncate(8 * MIB)
        s.farshore("protect", image, "--name", name, "--vault", url, "--key-file", s.key())
        return image

    def write(mnt, name, data):
        fd = os.open(os.path.join(mnt, name, "disk.raw"), os.O_RDWR)
        os.pwrite(fd, data, 4 * MIB)
        os.fsync(fd)
        os.close(fd)

    def report(name):
        return s.farshore_json("status", name)["disks"][0]

    def mount():
        """In the background; what it said. Unmounted by `unmount` below, at the latest at the end."""
        return s.farshore_json("mount", mnt)

    good, changed = protect("good"), protect("changed")
    mnt = s.path("mnt")
    s.at_end(lambda: subprocess.run(["umount", "-l", mnt], capture_output=True))
    s.at_end(lambda: s.farshore("unmount", mnt, ok=False))
    done = mount()
    check(done["disks"] == ["changed", "good"] and done["refused"] == [], str(done))
    newest = s.random.randbytes(64 * KIB)
    write(mnt, "good", newest), write(mnt, "changed", newest)
    s.farshore("unmount", mnt)
    with open(changed, "r+b") as file:
        file.write(b"changed behind our back")
    with open(changed, "rb") as file:
        content = file.read()

    # The others are served; the changed one is named, in status too.
    done = s.farshore("mount", mnt)
    check("changed is not served" in done.stderr and "Try: " in done.stderr and "1 disk served" in done.stdout, done.stdout + done.stderr)
    check(os.listdir(mnt) == ["good"], str(os.listdir(mnt)))
    check(report("changed")["health"] == "critical" and "does not serve" in report("changed")["reason"], str(report("changed")))
    check(report("good")["isServed"], "the good disk is not served")
    events = s.farshore_json("events", "changed")
    check(any(event["severity"] == "critical" and "does not serve" in event["text"] for event in events), str(events))

    # unprotect refuses and changes nothing, as often as it is tried, mounted or not; upload says so too.
    for _ in range(2):
        done = s.farshore("unprotect", "changed", status=11)
        check("--discard-log" in done.stderr, done.stderr)
        check(report("changed")["state"] == "protected", "a refused unprotect changed the state")
        check(report("changed")["health"] == "critical", "a refused unprotect hid what is wrong")
    s.farshore("upload", "--once", status=11)
    s.farshore("unmount", mnt)
    s.farshore("unprotect", "changed", status=11)
    check(s.farshore_json("mount", mnt)["refused"][0]["disk"] == "changed", "not in the list of refused disks")

    # Taken as it is while the mount runs: it is served again, by its new log, and what was lost is said.
    done = s.farshore_json("accept", "changed", "--discard-log")
    check(done["discarded"]["lostBytes"] == 64 * KIB and report("changed")["isServed"], str(done))
    with open(os.path.join(mnt, "changed", "disk.raw"), "rb") as file:
        check(file.read() == content, "the disk is not the image that was accepted")
    write(mnt, "changed", newest)

    # And changed once more.
    s.farshore("unmount", mnt)
    with open(changed, "r+b") as file:
        file.write(b"changed behind our back")
    with open(changed, "rb") as file:
        content = file.read()
    mount()

    # The way out, also while the mount runs: what is lost is said, the image is not touched.
    done = s.farshore_json("unprotect", "changed", "--discard-log")
    check(done["discarded"]["lostBytes"] == 64 * KIB, str(done))
    check(not os.path.exists(changed + ".log"), "the log is still there")
    with open(changed, "rb") as file:
        check(file.read() == content, "--discard-log changed the image")

    # A served disk is let go, refused nothing, complete.
    s.farshore("unprotect", "good")
    with open(good, "rb") as file:
        check(file.read()[4 * MIB:4 * MIB + 64 * KIB] == newest, "the merged image lacks a write")
    s.farshore("unmount", mnt)

    # None opens: the mount fails with the first one's status, and names all of them.
    only = {name: protect(name) for name in ("only", "other")}
    mount()
    for name in only:
        write(mnt, name, newest)
    s.farshore("unmount", mnt)
    for image in only.values():
        with open(image, "r+b") as file:
            file.write(b"changed")
    done = s.farshore("mount", mnt, status=11)
    check(not os.path.ismount(mnt), "a mount that failed is still there")
    for name, image in only.items():
        check(f"{name} is not served: {image}" in done.stderr, done.stderr)
        check(f"Try: for {name}: farshore accept" in done.stderr, done.stderr)
        s.farshore("unprotect", name, "--discard-log")

    # A crash in the middle of an unprotect: shown, left out loudly, ended by the same command.
    image = protect("half")
    mount()
    write(mnt, "half", newest)
    s.farshore("unmount", mnt)
    with sqlite3.connect(os.path.join(s.site, "catalogue.sqlite")) as catalogue:
        catalogue.execute("UPDATE disk SET state = 'releasing' WHERE name = 'half'")
    catalogue.close()
    found = report("half")
    check(found["health"] == "critical" and "unprotect half" in found["remedy"], str(found))
    done = s.farshore("upload", "--once", status=9)
    check("verified" not in done.stdout and "unprotect" in done.stderr, done.stdout + done.stderr)
    s.farshore("mount", mnt, status=9)
    s.farshore("unprotect", "half")
    with open(image, "rb") as file:
        check(file.read()[4 * MIB:4 * MIB + 64 * KIB] == newest, "the merged image lacks a write")
    print("refused disks: named, left alone, ended on request")

    # A loop device writes without asking for a lock.
    attached = s.path("attached.img")
    with open(attached, "wb") as file:
        file.truncate(8 * MIB)
    device = s.loop(attached)
    said = s.farshore("protect", attached, "--name", "attached", "--vault", url, "--key-file", s.key(), status=9).stderr
    check(device in said, said)
    s.detach(device)

    # The uploader: named, its pid written, stopped by a command that waits.
    protect("last")
    s.farshore("upload", "--stop", status=10)
    s.at_end(lambda: s.farshore("upload", "--stop", ok=False))
    s.farshore("upload")
    pid = int(open(os.path.join(s.site, "run", "upload.pid")).read())
    check(open(f"/proc/{pid}/comm").read() == "farshore\n", "the uploader is named otherwise")
    check(s.farshore_json("upload", "--stop")["stopped"] == pid, "another process was stopped")
    # It has let go of the site; the kernel may still be ending it.
    for _ in range(100):
        try:
            if "\nState:\tZ" in open(f"/proc/{pid}/status").read():
                break
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.05)
    else:
        check(False, "it still runs")
    s.farshore("upload", "--stop", status=10)

    # A mount that starts while an uploader has the disk for one call waits for it.
    process = s.start("upload", "--foreground", wait_for=lambda: os.path.exists(os.path.join(s.site, "run", "upload.pid")))
    for _ in range(5):
        check(mount()["refused"] == [], "the mount did not wait for the uploader")
        write(mnt, "last", s.random.randbytes(64 * KIB))
        s.farshore("unmount", mnt)
    s.farshore("upload", "--stop")
    check(process.wait(10) == 0, "the uploader did not end cleanly")
    # Taken for less than the wait, with the uploader's lock held: by us, as an uploader that is slow.
    held = [os.open(path, os.O_RDWR) for path in (os.path.join(s.site, "upload.lock"), s.path("last.img.log", "owner.lock"))]
    for fd in held:
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
    starting = s.start("mount", mnt, "--foreground")
    time.sleep(2)
    check(starting.poll() is None and not os.path.ismount(mnt), "the mount did not wait")
    os.close(held[1])
    deadline = time.monotonic() + 20
    while not os.path.ismount(mnt) or not os.listdir(mnt):
        check(starting.poll() is None and time.monotonic() < deadline, "the mount did not come: " + open(starting.log).read())
        time.sleep(0.05)
    os.close(held[0])
    # The worker may open as many files as the host lets it.
    worker = next(pid for pid in os.listdir("/proc") if pid.isdigit() and os.path.exists(f"/proc/{pid}/stat")
                  and open(f"/proc/{pid}/stat").read().split(") ", 1)[1].split()[1] == str(starting.pid))
    limits = next(line.split() for line in open(f"/proc/{worker}/limits") if line.startswith("Max open files"))
    check(limits[3] == limits[4], f"soft limit {limits[3]}, hard limit {limits[4]}")
    check(s.stop(starting) == 0, "the mount did not end cleanly")
    print("uploader: named, stopped, waited for")

    # Only the mode moved: refused, accepted by word of the administrator, nothing of the log lost. And one image has one log.
    s.site = s.path("second-site")
    image = protect("moded")
    process, mnt = s.mount(s.path("second-mnt"), served="moded")
    write(mnt, "moded", newest)
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    os.chmod(image, 0o640)
    s.farshore("upload", "--once", status=11)
    s.farshore("accept", "moded")
    process, mnt = s.mount(s.path("second-mnt"), served="moded")
    with open(os.path.join(mnt, "moded", "disk.raw"), "rb") as file:
        file.seek(4 * MIB)
        check(file.read(len(newest)) == newest, "accepting the image lost what only the log held")
    check(s.stop(process) == 0, "the mount did not stop cleanly")

    # Another file takes the image's name while it is mounted: the disk goes on with its own, after its worker's death too, and what
    # lies there is not served by the next mount, nor merged into or replicated by any command.
    served, kept, other = s.random.randbytes(64 * KIB), s.path("kept.img"), s.path("other.img")
    process, mnt = s.mount(s.path("second-mnt"), served="moded")
    write(mnt, "moded", served)
    os.link(image, kept)
    shutil.copy(image, other)
    done = s.farshore("image", "convert", other, image, "--force", status=9)
    check("in use by another program" in done.stderr, done.stderr)
    os.rename(other, image)
    check(report("moded")["health"] == "critical" and "removed or replaced" in report("moded")["reason"], str(report("moded")))

    def worker_of(supervisor):
        with open(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children") as file:
            return int(file.read().split()[0])

    def until(what, condition):
        deadline = time.monotonic() + 30
        while not condition():
            check(time.monotonic() < deadline, what + ": " + open(process.log).read())
            time.sleep(0.2)

    os.kill(worker_of(process), signal.SIGKILL)
    with open(os.path.join(mnt, "moded", "disk.raw"), "rb") as file:
        file.seek(4 * MIB)
        check(file.read(len(served)) == served, "the successor lost a write")
    check(report("moded")["health"] == "critical", "the successor took the other file for the image")
    state = s.path("moded.img.log", "log.state")

    def kill_without_state():
        # Stopped first, so that it does not write the state anew.
        worker = worker_of(process)
        os.kill(worker, signal.SIGSTOP)
        os.rename(state, state + ".away")
        os.kill(worker, signal.SIGKILL)
        until("the disk was served without its log's state", lambda: "stay open until the mount ends" in (report("moded").get("reason") or ""))

    # A successor that cannot open the disk does not let go of the file that was served: the next attempt would find the other one.
    kill_without_state()
    os.rename(state + ".away", state)
    until("the disk did not come back", lambda: os.path.exists(os.path.join(mnt, "moded", "disk.raw")))
    with open(os.path.join(mnt, "moded", "disk.raw"), "rb") as file:
        file.seek(4 * MIB)
        check(file.read(len(served)) == served, "the disk was opened from the other file")
    until("the other file was taken for the image", lambda: "removed or replaced" in (report("moded").get("reason") or ""))
    check(s.stop(process) != 0, "a stop over another file was called clean")

    def put_back(loss):
        for command in (["mount", mnt], ["upload", "--once"], ["unprotect", "moded"]):
            check("removed or replaced" in s.farshore(*command, status=11).stderr, f"{command} took the other file for the image")
        os.rename(kept, image)
        s.farshore("accept", "moded")
        mounted, directory = s.mount(s.path("second-mnt"), served="moded")
        with open(os.path.join(directory, "moded", "disk.raw"), "rb") as file:
            file.seek(4 * MIB)
            check(file.read(len(served)) == served, loss)
        return mounted, directory

    process, mnt = put_back("a write was lost with the image that was put back")
    # The mount ends before a successor can open it.
    os.link(image, kept)
    shutil.copy(image, other)
    os.rename(other, image)
    kill_without_state()
    check(s.stop(process) != 0, "a stop over another file was called clean")
    os.rename(state + ".away", state)
    process, mnt = put_back("a write was lost with a mount that could not open the disk")
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    print("an image that is replaced under its mount is never taken for the one that was served")
    done = s.farshore("protect", image, "--name", "twice", "--vault", url, "--key-file", s.key(), "--log-dir", s.path("other-log"),
                      site=s.path("third-site"), status=9)
    check("unprotect" in done.stderr and "remove" not in done.stderr, done.stderr)
