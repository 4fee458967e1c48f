"""Recovery disks on real mounts: a machine of two disks, one with ext4, from a vault that is a directory.

Four test failovers at once, used and cleaned up without a trace. Then a failover: ready in a moment, used at once, filled at a limit beside
that; its worker killed, then all of it killed; the vault away; standing alone at the end. A recovery disk whose log gets full before it is
replicated again goes on and is marked for resynchronisation.
"""
# Promise V1: A recovery disk reads as its point and what was written to it since, from its first moment on; a block that neither its image nor the vault
# can give is EIO, never zeros.
# Promise V2: What a recovery disk acknowledged as durable survives kill -9, a power loss and the loss of its vault, however much of it is filled.
# Promise V3: Once a recovery disk is filled, its image and log alone are the disk, and no vault is asked.
# Promise V5: A recovery disk whose log gets full before it is replicated again takes writes on and is marked for resynchronisation.
import errno
import hashlib
import mmap
import os
import signal
import subprocess
import threading
import time

from scenario import KIB, MIB, PROGRAM, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires("fusermount3", "mkfs.ext4", "losetup")
requires_root()
DATA = 48 * MIB
TESTS = 4


def worker_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return int(file.read().split()[0])


def wait(what, ready, seconds=30):
    deadline = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.1)


def read(path, offset, count):
    """Past the page cache: what is asked for and no more."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, count) as buffer:
            check(os.preadv(file, [buffer], offset) == count, f"a short read at {offset}")
            return buffer[:]
    finally:
        os.close(file)


def write(path, offset, data):
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, data, offset)
        os.fsync(file)
    finally:
        os.close(file)


def whole(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Records(threading.Thread):
    """Numbers, each durable before the next one, in a file of the file system."""

    def __init__(self, path):
        super().__init__()
        self.path, self.count, self.stopping, self.error = path, 0, threading.Event(), None

    def run(self):
        try:
            with open(self.path, "ab", buffering=0) as file:
                while not self.stopping.is_set():
                    file.write((self.count + 1).to_bytes(8, "little"))
                    os.fsync(file.fileno())
                    self.count += 1
                    time.sleep(0.005)
        except OSError as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.join()


def attached(s, path, directory, *options):
    """The file system of the first disk; (device, directory)."""
    device = s.loop(path)
    s.mount_filesystem(device, directory, *options)
    return device, directory


def detach(s, device, directory, lazily=False):
    run("umount", *(["-l"] if lazily else []), directory)
    s.detach(device)


def used(s, path):
    """What processes, mounts and loop devices have to do with `path`."""
    found = [line.split()[1] for line in open("/proc/mounts") if path in line] + run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").stdout.split()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found.append(file.read().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass
    return [entry for entry in found if path in entry]


def tests_at_once(s, there, key, tree, data):
    environment = dict(os.environ, FARSHORE_SITE=there)
    names = [f"t{number}" for number in range(TESTS)]
    for name in names:
        s.at_end(lambda name=name: subprocess.run(["umount", "-l", os.path.join(there, "tests", name, "mnt")], capture_output=True))
    began = time.monotonic()
    commands = [subprocess.Popen([PROGRAM, "failover", "test", "m", *key, "--name", name], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for name in names]
    for command in commands:
        said = command.communicate(timeout=60)[0]
        check(command.returncode == 0, said)
    print(f"{TESTS} test failovers at once: ready after {time.monotonic() - began:.2f} s")
    for number, name in enumerate(names):
        mount = os.path.join(there, "tests", name, "mnt")
        device, files = attached(s, os.path.join(mount, "files", "disk.raw"), s.path(name))
        check(tree_digest(os.path.join(files, "tree")) == tree, f"the files of {name} are others")
        with open(os.path.join(files, "of-this-test"), "w") as file:
            file.write(name)
        check(not os.path.exists(os.path.join(files, "of-another")), "a test sees what another wrote")
        open(os.path.join(files, "of-another"), "w").close()
        if number == 0:
            refused = s.farshore("failover", "cleanup", name, site=there, ok=False)
            check(refused.returncode != 0 and "is in use by" in refused.stderr, "a test in use was cleaned up")
        detach(s, device, files)
        write(os.path.join(mount, "data", "disk.raw"), 0, bytes([number + 1]) * 4096)
    for number, name in enumerate(names):
        path = os.path.join(there, "tests", name, "mnt", "data", "disk.raw")
        check(whole(path) == digest(bytes([number + 1]) * 4096 + data[4096:]), f"the data of {name} is another")
    check(pins(s, key) == TESTS, "each test pins its point")
    for name in names:
        s.farshore("failover", "cleanup", name, site=there)
    check(pins(s, key) == 0, "a pin is left")
    check(os.listdir(os.path.join(there, "tests")) == [], "a file is left")
    wait("nothing of the tests is left: " + str(used(s, os.path.join(there, "tests"))), lambda: not used(s, os.path.join(there, "tests")))


def pins(s, key):
    return len({pin for point in s.farshore_json("point", "list", "files", *key) for pin in point.get("pins", [])})


with Scenario() as s:
    there, url, vault = s.path("there"), s.make_vault(), s.path("vault")
    key = ("--vault", url, "--key-file", s.key())
    os.mkdir(s.path("tree"))
    write_tree(s.path("tree"), s.random, files=60)
    os.makedirs(s.path("root", "tree"))
    write_tree(s.path("root", "tree"), s.random, files=60)
    with open(s.path("files.raw"), "wb") as file:
        file.truncate(96 * MIB)
    run("mkfs.ext4", "-q", "-d", s.path("root"), s.path("files.raw"))
    data = bytearray(s.random.randbytes(DATA))
    with open(s.path("data.raw"), "wb") as file:
        file.write(data)
    for name in ("files", "data"):
        s.farshore("protect", s.path(name + ".raw"), "--name", name, "--machine", "m", *key)
    s.farshore("upload", "--once")
    source, mnt = s.mount(served="files")
    device, files = attached(s, os.path.join(mnt, "files", "disk.raw"), s.path("source"))
    with open(os.path.join(files, "tree", "late"), "wb") as file:
        file.write(s.random.randbytes(300_000))
    tree = tree_digest(os.path.join(files, "tree"))
    detach(s, device, files)
    data[5 * MIB:5 * MIB + 70_000] = s.random.randbytes(70_000)
    write(os.path.join(mnt, "data", "disk.raw"), 5 * MIB, data[5 * MIB:5 * MIB + 70_000])
    s.farshore("point", "cut", "files", "--tag", "good")
    s.farshore("upload", "--once")
    s.stop(source)

    tests_at_once(s, there, key, tree, data)

    # For good: ready, used, filled at its limit.
    s.farshore("policy", "edit", "default", "--download", "256KiB", site=there)
    mount, mnt = s.mount(s.path("mnt-there"), site=there)
    began = time.monotonic()
    report = s.farshore_json("failover", "run", "m", *key, site=there)
    ready = time.monotonic() - began
    files_path, data_path = (os.path.join(mnt, name, "disk.raw") for name in ("files", "data"))
    began = time.monotonic()
    check(read(data_path, 7 * MIB, MIB) == data[7 * MIB:8 * MIB], "wrong data")
    print(f"failover run of 2 disks: {ready:.2f} s; the first MiB {1000 * (time.monotonic() - began):.0f} ms later")
    check(ready < 10, "a failover took so long")
    device, files = attached(s, files_path, s.path("recovered"))
    check(tree_digest(os.path.join(files, "tree")) == tree, "the files are others")

    def disk(name):
        return next(disk for disk in s.farshore_json("status", site=there)["disks"] if disk["disk"] == name)

    wait("its status says how much was counted", lambda: disk("data").get("filling", {}).get("totalBytes") == DATA)
    before, began = disk("data")["filling"], time.monotonic()
    check(before["doneBytes"] < DATA // 2 and disk("data")["role"] == "recovery", disk("data"))
    print("status: " + next(line.strip() for line in s.farshore("status", "data", site=there).stdout.splitlines() if "filling" in line))

    # Its worker is killed, then all of it.
    records = Records(os.path.join(files, "records"))
    records.start()
    for _ in range(3):
        time.sleep(0.5)
        os.kill(worker_of(mount), signal.SIGKILL)
        check(read(data_path, 9 * MIB, 64 * KIB) == data[9 * MIB:9 * MIB + 64 * KIB], "wrong data over a killed worker")
    data[11 * MIB + 100:11 * MIB + 5_100] = b"w" * 5_000
    write(data_path, 11 * MIB + 100, data[11 * MIB + 100:11 * MIB + 5_100])
    check(records.error is None, f"a guest met an error: {records.error}")
    after, seconds = disk("data")["filling"], time.monotonic() - began
    check(after["doneBytes"] - before["doneBytes"] <= (seconds + 4) * 256 * KIB, f"more than the limit in {seconds:.1f} s: {before}, {after}")
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    records.stop()
    acknowledged = records.count
    subprocess.run(["umount", "-l", mnt], capture_output=True)
    detach(s, device, files, lazily=True)
    mount, mnt = s.mount(mnt, site=there, served="data")
    device, files = attached(s, files_path, files)
    with open(os.path.join(files, "records"), "rb") as file:
        found = file.read()
    check(len(found) // 8 in (acknowledged, acknowledged + 1), f"{len(found) // 8} records of {acknowledged}")
    check(tree_digest(os.path.join(files, "tree")) == tree, "the files are others after all was killed")
    check(read(data_path, 11 * MIB, 8 * KIB) == data[11 * MIB:11 * MIB + 8 * KIB], "a durable write is gone")
    check(disk("data").get("filling"), "it is filled already: nothing was shown")

    # The vault is away. What was read of it is kept.
    check(read(data_path, 7 * MIB, MIB) == data[7 * MIB:8 * MIB], "wrong data after all was killed")
    os.rename(vault, vault + ".away")
    gone = {}

    def read_absent():
        began = time.monotonic()
        try:
            gone["read"] = read(data_path, DATA - 64 * KIB, 4 * KIB)
        except OSError as error:
            gone["errno"] = error.errno
        gone["seconds"] = time.monotonic() - began
    reading = threading.Thread(target=read_absent)
    reading.start()
    data[DATA - 4 * KIB:] = b"n" * 4 * KIB
    write(data_path, DATA - 4 * KIB, data[DATA - 4 * KIB:])
    check(read(data_path, DATA - 4 * KIB, 4 * KIB) == data[DATA - 4 * KIB:], "what was written is not served without the vault")
    check(read(data_path, 7 * MIB, MIB) == data[7 * MIB:8 * MIB], "what was read before is not served without the vault")
    wait("the status says that it is not filled", lambda: disk("data")["health"] == "warning" and "not filled" in disk("data")["reason"])
    reading.join()
    check(gone.get("errno") == errno.EIO, f"an absent block without the vault: {gone}")
    print(f"an absent block without its vault: EIO after {gone['seconds']:.0f} s; status: {disk('data')['reason']}")
    os.rename(vault + ".away", vault)
    check(read(data_path, DATA - 64 * KIB, 4 * KIB) == data[DATA - 64 * KIB:DATA - 60 * KIB], "wrong data after the vault came back")

    # It stands alone.
    s.farshore("policy", "edit", "default", "--download", "unlimited", site=there)
    wait("both disks stand alone", lambda: not any(disk.get("filling") for disk in s.farshore_json("status", site=there)["disks"]))
    os.rename(vault, vault + ".away")
    check(whole(data_path) == digest(data), "the disk without the vault")
    check(tree_digest(os.path.join(files, "tree")) == tree, "the files without the vault")

    # Its log gets full: it is let go.
    budget = disk("data")["logBudgetBytes"]
    block, written = s.random.randbytes(4 * MIB), 0
    file = os.open(data_path, os.O_WRONLY)
    while written < budget * 9 // 8:
        os.pwrite(file, block, written % (32 * MIB))
        written += len(block)
    os.fsync(file)
    os.close(file)
    data[:32 * MIB] = block * 8
    wait("it is marked", lambda: disk("data")["health"] == "resynchronisation-required")
    shown = disk("data")
    check(shown["resynchronisation"]["isLogReleased"] and "used up" in shown["reason"], shown)
    print(f"{written // MIB} MiB over a log of {budget // MIB} MiB: {shown['reason']}")
    check(whole(data_path) == digest(data), "the disk after its log was let go")
    detach(s, device, files)
    s.stop(mount)
    s.mount(mnt, site=there, served="data")
    check(whole(data_path) == digest(data), "the disk is another after a stop, without the vault")
