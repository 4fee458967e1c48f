"""Versions of files across recovery points, on ext4 (a whole disk), XFS (second partition of a GPT) and NTFS (a partition of an MBR): what was
there at each point is listed, each version is copied out as it was, though nothing was unmounted and journals were never replayed; links of a
hostile disk lead nowhere, devices and pipes are refused, nothing is overwritten, and a killed listing leaves no mount and no loop device."""
import glob
import os
import signal
import subprocess
import time

from scenario import MIB, PROGRAM, SCALE, Scenario, check, requires, requires_root, run

requires_root()
requires("mkfs.ext4", "mkfs.xfs", "mkfs.ntfs", "ntfs-3g", "parted", "setpriv")
OUTSIDE = "/etc/hostname-of-nobody"


def partitioned(path, size, label, parts):
    with open(path, "wb") as file:
        file.truncate(size)
    run("parted", "-s", path, "mklabel", label, *[word for part in parts for word in ["mkpart", *part]])


class Volume:
    """A file system on a served disk, mounted by way of a loop device with an offset: no kernel here looks for partitions."""

    def __init__(self, s, disk, kind, offset, size):
        self.s, self.kind, self.at, self.disk = s, kind, s.path("fs-" + kind), disk
        self.window = ["--offset", offset, "--sizelimit", size]
        self.device = None

    def attach(self):
        self.device = run("losetup", "--find", "--show", *self.window, self.disk).stdout.strip()
        self.s.at_end(self.detach)

    def detach(self):
        if self.device:
            run("losetup", "-d", self.device)
            self.device = None

    def make(self, *words):
        self.attach()
        run(*words, self.device)
        self.detach()

    def begin(self):
        if not os.path.ismount(self.at):
            self.attach()
            self.s.mount_filesystem(self.device, self.at, "-t", "ntfs-3g" if self.kind == "ntfs" else self.kind)

    def end(self):
        """NTFS has no journal that ntfs-3g would write: it is unmounted. The others stay as they are."""
        run("sync", "-f", self.at)
        if self.kind == "ntfs":
            run("umount", self.at)
            self.detach()


def write(path, text, mode=0o640):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, mode)
    os.utime(path, ns=(1_700_000_000_123_456_700, 1_700_000_000_123_456_700 + len(text) * 10**9))


with Scenario(seed=51) as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    with open(s.path("ext4.img"), "wb") as file:
        file.truncate(64 * MIB)
    partitioned(s.path("xfs.img"), 340 * MIB, "gpt", [["first", "1MiB", "3MiB"], ["second", "4MiB", "330MiB"]])
    partitioned(s.path("ntfs.img"), 40 * MIB, "msdos", [["primary", "ntfs", "1MiB", "38MiB"]])
    for kind in ["ext4", "xfs", "ntfs"]:
        s.farshore("protect", s.path(kind + ".img"), "--name", kind, *vault, "--policy", s.policy(3600))
    process, mnt = s.mount(served="ntfs")
    places = {"ext4": (0, 64 * MIB), "xfs": (4 * MIB, 326 * MIB), "ntfs": (MIB, 37 * MIB)}
    volumes = {kind: Volume(s, os.path.join(mnt, kind, "disk.raw"), kind, *places[kind]) for kind in places}
    s.farshore("upload", "--once")
    volumes["ext4"].make("mkfs.ext4", "-q", "-F")
    volumes["xfs"].make("mkfs.xfs", "-q", "-f")
    volumes["ntfs"].make("mkfs.ntfs", "--quick", "--force", "--quiet", "--partition-start", MIB // 512)

    # What each tag must show of etc/app.conf; None: it is not there.
    story = {"empty": None, "one": "first\n", "one-again": "first\n", "two": "second, longer\n", "gone": None, "back": "and back again, longest\n"}
    for tag, text in story.items():
        for kind, volume in volumes.items():
            volume.begin()
            path = os.path.join(volume.at, "etc", "app.conf")
            if tag == "one" and kind != "ntfs":
                os.makedirs(os.path.join(volume.at, "sub"))
                os.symlink("/etc/app.conf", os.path.join(volume.at, "sub", "inside"))
                os.symlink("../../../../../../.." + OUTSIDE, os.path.join(volume.at, "sub", "outside"))
                os.symlink("/proc/self", os.path.join(volume.at, "sub", "way"))
                os.mkfifo(os.path.join(volume.at, "sub", "pipe"))
                os.mknod(os.path.join(volume.at, "sub", "device"), 0o600 | 0o020000, os.makedev(1, 8))
            if text is None:
                if os.path.exists(path):
                    os.unlink(path)
            elif tag != "one-again":
                write(path, text)
            if tag == "two" and kind != "ntfs":
                with open(os.path.join(volume.at, "sparse"), "wb") as file:
                    file.write(b"begin")
                    file.seek(5 * MIB)
                    file.write(b"end")
            volume.end()
            s.farshore("point", "cut", kind, "--tag", tag)
            # Nothing is written between these: they are never opened.
            for number in range(4):
                s.farshore("point", "cut", kind)
        s.farshore("upload", "--once")

    for kind in volumes:
        began = time.monotonic()
        listed = s.farshore_json("file", "list", kind, "/etc/app.conf", *vault)
        seen = [(version["kind"], version.get("sizeBytes")) for version in listed["versions"]]
        expected = [("file", 24), ("absent", None), ("file", 15), ("file", 6), ("absent", None), ("unreadable", None)]
        check(seen == expected, f"{kind}: {seen}")
        points = len(s.farshore_json("point", "list", kind, *vault))
        check(sum(version["points"] for version in listed["versions"]) in (points, points + 1) and listed["notReached"] == 0, f"{kind}: {listed}")
        check(listed["looks"] <= 12, f"{kind}: {listed['looks']} of {points} points were opened")
        check([version["first"].get("tag") for version in listed["versions"]][:5] == ["back", "gone", "two", "one", "empty"], f"{kind}: {listed}")
        for tag, text in story.items():
            out = s.path(f"{kind}-{tag}")
            if text is None:
                s.farshore("file", "copy", kind, "/etc/app.conf", "--at", tag, "--to", out, *vault, status=10)
                check(not os.path.exists(out), f"{kind}: a copy of nothing")
                continue
            s.farshore("file", "copy", kind, "etc/app.conf", "--at", tag, "--to", out, *vault)
            status = os.stat(out)
            with open(out) as file:
                check(file.read() == text, f"{kind} at {tag}: the copy differs")
            wanted = 1_700_000_000_123_456_700 + len(text) * 10**9
            check(status.st_mtime_ns == wanted, f"{kind} at {tag}: modified {status.st_mtime_ns}, not {wanted}")
            check(kind == "ntfs" or status.st_mode & 0o7777 == 0o640, f"{kind} at {tag}: mode {oct(status.st_mode)}")
        print(f"{kind}: {points} points, {listed['looks']} opened, {time.monotonic() - began:.1f} s; versions listed, each copied out as it was")

    # Never over a file unless asked.
    held = s.path("held")
    write(held, "mine")
    copy = ["file", "copy", "ext4", "/etc/app.conf", "--at", "two", "--to", held, *vault]
    s.farshore(*copy, status=9)
    check(open(held).read() == "mine", "a file was overwritten")
    s.farshore(*copy, "--force")
    check(open(held).read() == story["two"], "--force did not replace the file")
    link = s.path("link")
    os.symlink(held, link)
    s.farshore("file", "copy", "ext4", "/etc/app.conf", "--at", "two", "--to", link, "--force", *vault, status=9)
    check(os.readlink(link) == held, "--force replaced a link")

    for kind in ["ext4", "xfs"]:
        def copied(path, status):
            out = s.path("out")
            said = s.farshore("file", "copy", kind, path, "--at", "two", "--to", out, *vault, status=status).stderr
            check(os.path.exists(out) == (status == 0) and not os.path.exists(out + ".farshore-partial"), f"{kind}: {path} left something: {said}")
            return out
        out = copied("/sub/inside", 0)
        check(open(out).read() == story["two"], "a link inside of the disk is not followed")
        os.unlink(out)
        for path in ["/sub/outside", "/sub/way/environ", "../../../../../etc/passwd"]:
            copied(path, 10)
        for path in ["/sub/pipe", "/sub/device", "/etc"]:
            copied(path, 1)
        out = copied("/sparse", 0)
        with open(out, "rb") as file:
            data = file.read()
        check(data == b"begin" + bytes(5 * MIB - 5) + b"end" and os.stat(out).st_blocks * 512 < MIB, f"{kind}: the sparse file differs, or its holes were filled")
        os.unlink(out)
    print("links lead nowhere out of the disk, devices, pipes and directories are refused, nothing is overwritten, holes stay holes")

    # The time-limit is told, and the rest can be asked for.
    some = s.farshore_json("file", "list", "ext4", "/etc/app.conf", "--time-limit", "0.001", *vault)
    check(some["notReached"] > 0 and [version["kind"] for version in some["versions"]] == ["file"], f"{some}")
    rest = s.farshore_json("file", "list", "ext4", "/etc/app.conf", "--to", f"#{some['versions'][-1]['first']['sequence'] - 1}", *vault)
    # How far the first came depends on the machine: the rest may begin within the same version.
    kinds = [version["kind"] for version in rest["versions"]]
    check(kinds[kinds[0] == "file"] == "absent" and rest["notReached"] == 0, f"{rest}")

    # Killed in the midst of it, alone or with the process that holds its mounts: nothing hangs and nothing is left.
    before = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.count("/bench/")
    held = 0
    for number in range(int(12 * SCALE)):
        words = [PROGRAM, "file", "list", ["ext4", "xfs", "ntfs"][number % 3], "/etc/app.conf", *vault]
        killed = subprocess.Popen(words, env=dict(os.environ, FARSHORE_SITE=s.site), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(s.random.uniform(0.1, 0.7))
        # A thread of its own started the process that holds the mounts.
        children = []
        for path in glob.glob(f"/proc/{killed.pid}/task/*/children"):
            try:
                with open(path) as file:
                    children += [int(word) for word in file.read().split()]
            except (FileNotFoundError, ProcessLookupError):
                pass  # a thread that has ended since
        held += bool(children)
        for pid in [killed.pid] + (children if number % 2 else []):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # a program that had ended
        try:
            killed.wait(timeout=20)
        except subprocess.TimeoutExpired:
            check(False, f"a killed listing hangs (process {killed.pid})")
    check(held > 0, "no listing had mounts when it was killed")
    deadline = time.monotonic() + 10
    while run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.count("/bench/") > before:
        check(time.monotonic() < deadline, "a loop device is left")
        time.sleep(0.1)
    with open("/proc/self/mounts") as file:
        check(os.path.join(s.site, "run") not in file.read(), "a mount is left")
    check(s.farshore_json("file", "list", "ext4", "/etc/app.conf", *vault)["notReached"] == 0, "a listing after a killed one")
    for volume in volumes.values():
        if os.path.ismount(volume.at):
            run("umount", volume.at)
        volume.detach()
    print("killed: no mount and no loop device is left")
