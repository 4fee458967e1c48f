"""VHDX and qcow2 images as protected disks: a file system on each is used through the mount, through a kill of everything too,
replicated, restored in every format: equal; the released image is sound and equal in QEMU's eyes. What QEMU would not survive
is refused by `protect`, naming what to run."""
import hashlib
import os
import shutil
import signal
import subprocess

from scenario import MIB, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires_root()
requires("qemu-img", "mkfs.ext4", "losetup")
SOURCES = {
    "vhdx": ["-O", "vhdx", "-o", "block_size=1M"],
    "vhdx-fixed": ["-O", "vhdx", "-o", "subformat=fixed"],
    "qcow2": ["-O", "qcow2"],
    "qcow2-packed": ["-O", "qcow2", "-c", "-o", "cluster_size=4k,compression_type=zstd"],
    "qcow2-old": ["-O", "qcow2", "-o", "compat=0.10,cluster_size=512"],
}
TARGETS = {"raw": "raw", "vhd-dynamic": "vpc", "vhd-fixed": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat_digest(s, image, driver):
    run("qemu-img", "convert", "-f", driver, "-O", "raw", image, s.path("flat.raw"))
    return digest(s.path("flat.raw"))


def fill(s, device, kind, name):
    at = s.path("fs-" + kind)
    s.mount_filesystem(device, at)
    write_tree(os.path.join(at, name), s.random, files=60)
    run("fstrim", at)
    tree = tree_digest(at)
    run("umount", at)
    return tree


def refusals(s, url):
    base = s.path("base.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
    overlay, snapshot = s.path("overlay.qcow2"), s.path("snapshot.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    shutil.copy(base, snapshot)
    run("qemu-img", "snapshot", "-c", "one", snapshot)
    for image, says in ((overlay, "backing file"), (snapshot, "internal snapshots")):
        before = digest(image)
        done = s.farshore("protect", image, "--name", "refused", "--vault", url, "--key-file", s.key(), status=11)
        check(says in done.stderr and "Try: qemu-img" in done.stderr, done.stderr)
        check(digest(image) == before, f"{image} was changed although it was refused")


with Scenario(seed=31) as s:
    url = s.make_vault()
    source = s.path("source.raw")
    with open(source, "wb") as file:
        file.truncate(160 * MIB)
    run("mkfs.ext4", "-q", "-F", source)
    device = s.loop(source)
    fill(s, device, "source", "before")
    s.detach(device)
    for kind, options in SOURCES.items():
        run("qemu-img", "convert", "-f", "raw", *options, source, s.path(kind))
        s.farshore("protect", s.path(kind), "--name", kind, "--vault", url, "--key-file", s.key())
    refusals(s, url)
    process, mnt = s.mount(served="qcow2-old")
    s.farshore("upload", "--once")
    trees = {}
    for kind in SOURCES:
        device = s.loop(os.path.join(mnt, kind, "disk.raw"))
        trees[kind] = fill(s, device, kind, "during")
        s.detach(device)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["umount", "-l", mnt], capture_output=True)
    process, mnt = s.mount(s.path("again"), served="qcow2-old")
    for kind in SOURCES:
        device = s.loop(os.path.join(mnt, kind, "disk.raw"))
        at = s.path("killed-" + kind)
        s.mount_filesystem(device, at)
        check(tree_digest(at) == trees[kind], f"{kind}: the tree differs after everything was killed")
        with open(os.path.join(at, "after"), "wb") as file:
            file.write(s.random.randbytes(9 * MIB))
        trees[kind] = tree_digest(at)
        run("umount", at)
        run("e2fsck", "-f", "-n", device)
        s.detach(device)
    s.farshore("upload", "--once")
    cuts = {kind: digest(os.path.join(mnt, kind, "disk.raw")) for kind in SOURCES}
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
    for kind in SOURCES:
        driver = kind.split("-")[0]
        for target, target_driver in TARGETS.items():
            out = s.path("out." + target)
            s.farshore("restore", kind, "--vault", url, "--key-file", s.key(), "--at", "latest", "--to", out, "--to-format", target)
            check(flat_digest(s, out, target_driver) == cuts[kind], f"{kind} restored as {target} differs")
            if target in ("vhdx", "qcow2"):
                run("qemu-img", "check", "-q", "-f", target, out)
            os.unlink(out)
        s.farshore("unprotect", kind)
        # Space that a killed worker had given away and not entered yet is a leak, and no more.
        checked = run("qemu-img", "check", "-f", driver, s.path(kind), ok=False)
        check(checked.returncode in (0, 3), f"{kind}: {checked.stdout}{checked.stderr}")
        check(flat_digest(s, s.path(kind), driver) == cuts[kind], f"{kind}: the released image differs")
        print(f"{kind}: used, killed, replicated, restored as {', '.join(TARGETS)}: equal; released image sound")
