"""From the vault and the key alone: points cut while fio writes, mounted and restored on a host that never saw the source.

The source image, its log and its site are deleted first, and recovery runs in a mount namespace that hides where they were.
"""
# Promise P4: Every point can be recovered with only the vault and its key.
import hashlib
import os
import shutil
import subprocess

from scenario import MIB, PROGRAM, Scenario, check, requires, requires_root, run, tree_digest, write_tree

requires_root()
requires("fio", "qemu-img", "vhdiinfo", "mkfs.ext4", "mkfs.xfs", "unshare")

with Scenario(seed=7) as s:
    url = s.make_vault()
    source = s.path("source")
    os.makedirs(source)
    s.site = os.path.join(source, "site")
    trees, cuts = {}, {}
    for kind, make in {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}.items():
        image = os.path.join(source, kind + ".vhd")
        run("qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=dynamic,force_size=on", image, str(400 * MIB))
        s.farshore("protect", image, "--name", kind, "--vault", url, "--key-file", s.key(), "--policy", s.policy(2))
    process, mnt = s.mount(s.path("mnt"))
    for kind, make in {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}.items():
        device = s.loop(os.path.join(mnt, kind, "disk.raw"))
        run(*make, device)
        at = s.path("fs-" + kind)
        s.mount_filesystem(device, at)
        write_tree(at, s.random, files=60)
        trees[kind] = tree_digest(at)
        run("sync", "-f", at)
        s.farshore("upload", "--once")
        s.farshore("point", "cut", kind, "--tag", "quiet")
        fio = subprocess.Popen(["fio", "--name=w", f"--directory={at}", "--size=32m", "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--fsync=32",
                                "--time_based", "--runtime=4"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        s.at_end(fio.kill)
        for number in range(3):
            s.farshore("upload", "--once")
            s.farshore("point", "cut", kind, "--tag", f"busy{number}")
        check(fio.wait() == 0, "fio met an error")
        run("umount", at)
        served = os.path.join(mnt, kind, "disk.raw")
        s.farshore("point", "cut", kind, "--tag", "end")
        with open(served, "rb") as file:
            cuts[kind] = hashlib.file_digest(file, "sha256").hexdigest()
        s.detach(device)
    s.farshore("upload", "--once")
    check(s.stop(process) == 0, "the mount did not stop cleanly: " + open(process.log).read())
    shutil.rmtree(source)

    # A fresh site; /var/tmp's source folder is gone, and its name is covered in the namespace all the same.
    os.makedirs(source)
    other = s.path("other-site")
    script = s.path("recover.sh")
    for kind in trees:
        for tag in ["quiet", "busy0", "busy1", "busy2", "end"]:
            out = s.path("restored.raw")
            with open(script, "w") as file:
                file.write(f"mount -t tmpfs none {source}\nexport FARSHORE_SITE={other}\n"
                           f"exec {PROGRAM} restore {kind} --vault {url} --key-file {s.key()} --at {tag} --to {out} --to-format raw\n")
            run("unshare", "-m", "bash", "-e", script)
            if tag == "end":
                with open(out, "rb") as file:
                    check(hashlib.file_digest(file, "sha256").hexdigest() == cuts[kind], f"{kind}: the last point differs from the disk")
            device = s.loop(out)
            at = s.path(f"recovered-{kind}-{tag}")
            s.mount_filesystem(device, at)  # replays the journal
            if tag == "quiet":
                check(tree_digest(at) == trees[kind], f"{kind}: the tree at the quiet point differs")
            run("umount", at)
            run(*(["e2fsck", "-f", "-n"] if kind == "ext4" else ["xfs_repair", "-n"]), device)
            s.detach(device)
            os.unlink(out)
        print(f"{kind}: 5 points restored, journals replayed, file systems clean")

        # Mounted straight from the vault, read-only, each point by its tag.
        points = s.path("points-" + kind)
        process = s.mount_points(points, "--vault", url, "--key-file", s.key(), "--disk", kind, site=other)
        device = s.loop(os.path.join(points, kind, "end", "disk.raw"), read_only=True)
        at = s.path("mounted-" + kind)
        s.mount_filesystem(device, at, "-o", "ro" if kind == "ext4" else "ro,norecovery")
        run("umount", at)
        s.detach(device)
        with open(os.path.join(points, kind, "end", "disk.raw"), "rb") as file:
            check(hashlib.file_digest(file, "sha256").hexdigest() == cuts[kind], f"{kind}: the mounted point differs")
        check(s.stop(process) == 0, "the point mount did not stop cleanly")

        # Every format a point restores to is what QEMU and libvhdi say it is.
        for image_format, options in {"raw": ["-f", "raw"], "vhd-fixed": ["-f", "vpc"], "vhd-dynamic": ["-f", "vpc"]}.items():
            out = s.path("out." + image_format)
            s.farshore("restore", kind, "--vault", url, "--key-file", s.key(), "--at", "latest", "--to", out, "--to-format", image_format, site=other)
            flat = s.path("flat.raw")
            run("qemu-img", "convert", *options, "-O", "raw", out, flat)
            with open(flat, "rb") as file:
                check(hashlib.file_digest(file, "sha256").hexdigest() == cuts[kind], f"{kind}: {image_format} differs")
            if image_format != "raw":
                run("vhdiinfo", out)
            os.unlink(out)
            os.unlink(flat)
        print(f"{kind}: mounted from the vault, restored as raw, vhd-fixed, vhd-dynamic: equal")
