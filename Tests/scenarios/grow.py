"""Protected disks grow: ext4 on a raw image and on a dynamic VHD, mounted over loop devices and written to all the time, everything killed
on the way; `losetup -c` and resize2fs take the new room. Points before and after are mounted, restored and compared, also by the reader
without Farshore; what cannot be is refused. A file that took an image's name is left alone, and a disk without room stays as it is."""
# Promise P6: A point has the size that the disk had when it was cut.
import errno
import os
import signal
import subprocess
import threading
import time

from scenario import MIB, ROOT, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires_root()
requires("mkfs.ext4", "e2fsck", "resize2fs", "losetup", "fsfreeze", "qemu-img")
SMALL, OLD, NEW, LAST = 16 * MIB, 96 * MIB, 384 * MIB, 512 * MIB
IMAGES = {"raw": "raw", "vhd": "vhd-dynamic"}


class Load:
    """Writes files without a pause; what it says it wrote, and synced, must be there."""

    def __init__(self, directory):
        self.directory, self.count, self.error = directory, 0, None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.stop.wait(0.005):
                with open(os.path.join(self.directory, f"load{self.count % 50}"), "wb") as file:
                    file.write(b"%08d" % self.count * 8192)
                    os.fsync(file.fileno())
                self.count += 1
        except OSError as error:
            self.error = error

    def end(self):
        self.stop.set()
        self.thread.join()
        check(self.error is None, f"a program saw an error while its disk grew: {self.error}")
        for number in range(max(0, self.count - 50), self.count):
            with open(os.path.join(self.directory, f"load{number % 50}"), "rb") as file:
                check(file.read() == b"%08d" % number * 8192, f"load file {number} is not as it was written")


def worker_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(pid) for pid in file.read().split()]


def mounted_tree(s, image, name, read_only=True):
    device = s.loop(image, read_only=read_only)
    at = s.path("look-" + name)
    s.mount_filesystem(device, at, *(["-o", "ro,noload"] if read_only else []))
    tree = tree_digest(os.path.join(at, "tree"))
    run("umount", at)
    s.detach(device)
    return tree


def never_grows(s, url):
    """Plain qemu-img makes VHDs of odd sizes: protected with a note, never grown."""
    image = s.path("odd.vhd")
    run("qemu-img", "create", "-q", "-f", "vpc", image, "8M")
    made = s.farshore_json("protect", image, "--name", "odd", "--vault", url, "--key-file", s.key(), "--policy", s.policy(600))
    check(any("no multiple of 4 KiB" in warning and "can never grow" in warning for warning in made["warnings"]), f"protect says {made['warnings']}")
    refused = s.farshore("grow", "odd", "16M", status=11)
    check("no multiple of 4 KiB" in refused.stderr and f"Try: farshore unprotect odd, farshore image convert {image} " in refused.stderr, refused.stderr)
    s.farshore("unprotect", "odd")


def write_zeros(path, size):
    with open(path, "wb") as file:
        file.truncate(size)


def log_state(s, name):
    with open(s.path(name + ".log", "log.state")) as file:
        return file.read()


def replaced(s, mnt):
    """Another file has the name of a served image: it is left alone, and the disk is as it was."""
    image = s.path("swap")
    os.rename(image, image + ".real")
    write_zeros(image, SMALL)
    refused = s.farshore("grow", "swap", 2 * SMALL, ok=False)
    check(refused.returncode != 0 and "replaced" in refused.stderr, f"exit {refused.returncode}: {refused.stderr}")
    check(os.stat(image).st_size == SMALL, "the file that took the image's name was grown")
    check("growing" not in log_state(s, "swap"), "a growth was noted for another file")
    with open(os.path.join(mnt, "swap", "disk.raw"), "rb") as file:
        check(file.read(8) == b"swapped?", "the disk is not the one that was served")
    os.rename(image + ".real", image)
    s.farshore("grow", "swap", 2 * SMALL)
    time.sleep(1.1)
    check(os.stat(os.path.join(mnt, "swap", "disk.raw")).st_size == 2 * SMALL, "the right image did not grow")


def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            check(error.errno == errno.ENOSPC, f"the small filesystem: {error}")


def full(s, mnt, process):
    """No room for a larger table: told at once, and also where the room went after it was begun. Who has the disk open keeps it."""
    image, filler = s.path("tight", "full"), s.path("tight", "filler")
    disk = os.open(os.path.join(mnt, "full", "disk.raw"), os.O_RDWR)

    def check_use(word):
        check(os.pwrite(disk, word * 512, 4096) == 4096 and os.pread(disk, 4096, 4096) == word * 512, "the disk does not keep what is written")
        check(os.fstat(disk).st_size == SMALL and "growing" not in log_state(s, "full"), "a growth was left")

    fill(filler)
    size = os.stat(image).st_size
    s.farshore("grow", "full", "256G", status=8)
    check_use(b"refused.")
    os.unlink(filler)
    # Its worker notes the growth; the successor finds no room.
    process.send_signal(signal.SIGSTOP)
    command = s.start("grow", "full", "256G", wait_for=lambda: "growing" in log_state(s, "full"))
    fill(filler)
    process.send_signal(signal.SIGCONT)
    status, said = command.wait(60), open(command.log).read()
    check(status == 8 and "could not be grown" in said and "stays at" in said, f"exit {status}: {said}")
    check(os.stat(image).st_size == size, "the image kept a part of the table")
    check_use(b"given up")
    os.unlink(filler)
    os.close(disk)


with Scenario(seed=41) as s:
    url = s.make_vault()
    never_grows(s, url)
    s.mount_filesystem("none", s.path("tight"), "-t", "tmpfs", "-o", "size=8m")
    write_zeros(s.path("empty.raw"), SMALL)
    s.farshore("image", "convert", s.path("empty.raw"), s.path("tight", "full"), "--to", "vhd-dynamic")
    with open(s.path("swap"), "wb") as file:
        file.write(b"swapped?")
        file.truncate(SMALL)
    for name, image in (("swap", s.path("swap")), ("full", s.path("tight", "full"))):
        s.farshore("protect", image, "--name", name, "--log-dir", s.path(name + ".log"), "--vault", url, "--key-file", s.key(), "--policy", s.policy(600))
    for name, form in IMAGES.items():
        with open(s.path("empty.raw"), "wb") as file:
            file.truncate(OLD)
        run("mkfs.ext4", "-q", "-F", s.path("empty.raw"))
        s.farshore("image", "convert", s.path("empty.raw"), s.path(name), "--to", form)
        s.farshore("protect", s.path(name), "--name", name, "--vault", url, "--key-file", s.key(), "--policy", s.policy(600))
    process, mnt = s.mount(served="vhd")
    s.farshore("upload", "--once")
    replaced(s, mnt)
    full(s, mnt, process)
    devices, loads, trees = {}, {}, {}
    for name in IMAGES:
        devices[name] = s.loop(os.path.join(mnt, name, "disk.raw"))
        s.mount_filesystem(devices[name], s.path("fs-" + name))
        write_tree(s.path("fs-" + name, "tree"), s.random, files=60)
        run("sync", "-f", s.path("fs-" + name))
        trees[name] = tree_digest(s.path("fs-" + name, "tree"))
        # Nothing is left in the journal, so the point can be mounted as it is.
        run("fsfreeze", "--freeze", s.path("fs-" + name))
        s.farshore("point", "cut", name, "--tag", "small")
        run("fsfreeze", "--unfreeze", s.path("fs-" + name))
    s.farshore("upload", "--once")
    for name in IMAGES:
        shrunk = s.farshore("grow", name, OLD - MIB, status=2)
        check("never shrinks" in shrunk.stderr, shrunk.stderr)
        odd = s.farshore("grow", name, NEW + 512, status=11)
        check("whole MiB" in odd.stderr, odd.stderr)
        loads[name] = Load(s.path("fs-" + name))
        time.sleep(0.5)
        s.farshore("grow", name, f"{NEW // MIB}M")
        # The kernel keeps attributes for a second.
        time.sleep(1.1)
        check(os.stat(os.path.join(mnt, name, "disk.raw")).st_size == NEW, f"{name}: the served file has its old size")
        check(os.stat(os.path.join(mnt, name, "disk.vhd")).st_size == NEW + 512, f"{name}: disk.vhd has its old size")
        for pid in worker_of(process):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        loads[name].end()
        run("losetup", "-c", devices[name])
        # Not while it is mounted: that takes a capability which not every root has.
        run("umount", s.path("fs-" + name))
        run("e2fsck", "-f", "-p", devices[name])
        run("resize2fs", devices[name])
        s.mount_filesystem(devices[name], s.path("fs-" + name))
        check(os.statvfs(s.path("fs-" + name)).f_blocks * os.statvfs(s.path("fs-" + name)).f_frsize > NEW * 8 // 10, "the file system has not grown")
        # Beyond the old end.
        with open(s.path("fs-" + name, "tree", "large"), "wb") as file:
            file.write(s.random.randbytes(OLD))
        run("sync", "-f", s.path("fs-" + name))
    before = dict(trees)
    for name in IMAGES:
        trees[name] = tree_digest(s.path("fs-" + name, "tree"))
        run("umount", s.path("fs-" + name))
        run("e2fsck", "-f", "-n", devices[name])
        s.farshore("point", "cut", name, "--tag", "large")
        s.detach(devices[name])
    # The command is killed at some moment, everything right after it; once more, and it is done.
    for name in IMAGES:
        for delay in (0.01, 0.05, 0.1, 0.2):
            command = s.start("grow", name, LAST)
            time.sleep(delay)
            command.kill()
            command.wait()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["umount", "-l", mnt], capture_output=True)
    for name in IMAGES:
        s.farshore("grow", name, LAST)
        again = s.farshore("grow", name, LAST)
        check("already" in again.stdout, again.stdout)
    s.farshore("upload", "--once")
    process, mnt = s.mount(s.path("again"), served="vhd")
    points = s.mount_points(s.path("points"), "--vault", url, "--key-file", s.key())
    for name in IMAGES:
        check(os.stat(os.path.join(mnt, name, "disk.raw")).st_size == LAST, f"{name}: the new mount serves another size")
        check(mounted_tree(s, os.path.join(mnt, name, "disk.raw"), name, read_only=False) == trees[name], f"{name}: the files differ after a restart")
        for tag, size, tree in (("small", OLD, before[name]), ("large", NEW, trees[name]), ("latest", LAST, trees[name])):
            shown = s.path("points", name, tag, "disk.raw")
            check(os.stat(shown).st_size == size, f"{name} at {tag} is shown with {os.stat(shown).st_size} bytes")
            check(mounted_tree(s, shown, name) == tree, f"{name} at {tag}: the files differ")
            out = s.path(f"{name}-{tag}.raw")
            s.farshore("restore", name, "--vault", url, "--key-file", s.key(), "--at", tag, "--to", out)
            check(os.stat(out).st_size == size and mounted_tree(s, out, name) == tree, f"{name} restored at {tag} differs")
            run("cmp", out, shown)
            if tag == "small":
                alone = s.path("alone.raw")
                run("python3", os.path.join(ROOT, "examples/restore-without-farshore/restore.py"), s.path("vault"), name, alone, "--at", tag, "--key-file", s.key())
                run("cmp", out, alone)
            os.unlink(out)
        print(f"{name}: grown from {OLD // MIB} to {NEW // MIB} MiB with {loads[name].count} files written meanwhile, then to {LAST // MIB} MiB; points keep their size")
    s.stop(points)
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
    for name, driver in (("raw", "raw"), ("vhd", "vpc")):
        s.farshore("unprotect", name)
        size = run("qemu-img", "info", "-f", driver, s.path(name)).stdout
        check(f"({LAST} bytes)" in size, f"{name}: QEMU sees another size: {size}")
