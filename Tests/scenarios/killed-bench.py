"""A listing of files is killed while it waits for a vault that has stopped to answer: the thread that waits inside the mounted file system, on
its own process's FUSE mount, ends too, and no mount, loop device or process is left."""
import os
import signal
import subprocess
import sys
import time

from scenario import MIB, PROGRAM, SCALE, Scenario, check, requires, requires_root, run, write_tree
import objects

requires_root()
requires("mkfs.ext4", "losetup", "moto_server")


def loops():
    return run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").stdout.count("/bench/")


with Scenario(seed=67) as s:
    _, port, bucket, credentials = objects.start(s, "moto")
    os.environ.update(credentials)
    url = objects.location(bucket, port, "vault")
    image, at = s.path("disk.img"), s.path("fs")
    with open(image, "wb") as file:
        file.truncate(96 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    device = s.loop(image)
    s.mount_filesystem(device, at)
    for number in range(20):
        write_tree(os.path.join(at, f"{number}"), s.random, files=20)
    run("umount", at)
    s.detach(device)
    s.farshore("vault", "create", url, "--key-file", s.key())
    s.farshore("protect", image, "--name", "disk", "--vault", url, "--key-file", s.key())
    process, _ = s.mount()
    s.farshore("point", "cut", "disk")
    s.farshore("upload", "--once")
    with open(s.path("moto", "pids")) as file:
        servers = [int(line) for line in file]
    before, waited = loops(), 0
    for number in range(int(8 * SCALE)):
        listing = subprocess.Popen([PROGRAM, "file", "list", "disk", f"/{number % 20}/none", "--vault", url, "--key-file", s.key()],
                                   env=dict(os.environ, FARSHORE_SITE=s.site), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(s.random.uniform(0.05, 0.35))
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        waited += listing.poll() is None
        listing.kill()
        try:
            listing.wait(timeout=20)
        except subprocess.TimeoutExpired:
            check(False, f"a killed listing hangs (process {listing.pid})")
        finally:
            for pid in servers:
                os.kill(pid, signal.SIGCONT)
    check(waited > 0, "no listing waited for the vault: nothing was tried")
    deadline = time.monotonic() + 20
    while loops() > before or subprocess.run(["pgrep", "-x", "farshore-mounts"], capture_output=True).returncode == 0:
        check(time.monotonic() < deadline, "a loop device or a process that holds mounts is left")
        time.sleep(0.1)
    print(f"{waited} listings killed while the vault did not answer: none hangs, nothing is left")
sys.exit(0)
