"""`farshore image` on the command line: every format into every other, read back identical by qemu-img; damage, a busy image, a
full disk and a killed run end as the table of exit statuses says, and nothing half-written has the output's name."""
import os
import signal
import subprocess
import sys
import time

from scenario import KIB, MIB, PROGRAM, Scenario, check, requires, run

requires("qemu-img", "qemu-io")
FORMATS = {"raw": "raw", "vhd-fixed": "vpc", "vhd-dynamic": "vpc"}


def in_use(s):
    image = s.path("busy.vhd")
    s.farshore("image", "convert", s.path("source.raw"), image, "--to", "vhd-dynamic")
    holder = subprocess.Popen(["qemu-io", "-f", "vpc", "-c", "write 0 512", "-c", "sleep 60000", image], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not s.farshore_json("image", "info", image)["inUse"]:
            check(time.monotonic() < deadline, "qemu-io never took its lock")
        done = s.farshore("image", "convert", image, s.path("x.raw"), status=9)
        check("in use by another program" in done.stderr and "Try:" in done.stderr, done.stderr)
    finally:
        holder.kill()
        holder.wait()


def damaged(s):
    image = s.path("damaged.vhd")
    s.farshore("image", "convert", s.path("source.raw"), image, "--to", "vhd-dynamic")
    with open(image, "r+b") as file:
        file.seek(512 + 32)
        file.write(b"\x00\x30\x00\x00")
    for words in (["info", image], ["convert", image, s.path("x.raw")]):
        done = s.farshore("image", *words, status=11)
        check("dynamic header, checksum at byte 548" in done.stderr and "Try:" in done.stderr, done.stderr)
    check(not os.path.exists(s.path("x.raw")), "an output was made from a damaged image")


def full_disk(s):
    small = s.path("small")
    os.mkdir(small)
    run("mount", "-t", "tmpfs", "-o", "size=2m", "farshore-scenario", small)
    s.at_end(lambda: run("umount", small))
    for to in FORMATS:
        done = s.farshore("image", "convert", s.path("source.raw"), os.path.join(small, "out"), "--to", to, status=8)
        check("No space left" in done.stderr, done.stderr)
        check(os.listdir(small) == [], f"{to}: a full disk left {os.listdir(small)}")


def killed(s):
    big = s.path("big.raw")
    with open(big, "wb") as file:
        for _ in range(192):
            file.write(os.urandom(MIB))
    out = s.path("killed.vhd")
    process = subprocess.Popen([PROGRAM, "image", "convert", big, out, "--to", "vhd-dynamic"], stderr=subprocess.DEVNULL)
    while not os.path.exists(out + ".farshore-partial") and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    check(process.wait() == -signal.SIGKILL, "the conversion ended before it was killed")
    check(not os.path.exists(out), "a killed conversion left an output")
    s.farshore("image", "convert", big, out, "--to", "vhd-dynamic")
    run("qemu-img", "compare", "-f", "raw", "-F", "vpc", big, out)
    check(not os.path.exists(out + ".farshore-partial"), "the partial file is still there")


with Scenario(seed=21) as s:
    source = s.path("source.raw")
    with open(source, "wb") as file:
        file.truncate(40 * MIB + 512)
        for number in range(30):
            file.seek(number * 1300 * KIB)
            file.write(s.random.randbytes(200 * KIB))
    for start, start_driver in FORMATS.items():
        first = s.path("from-" + start)
        s.farshore("image", "convert", source, first, "--to", start)
        for end, end_driver in FORMATS.items():
            second = s.path(f"{start}-to-{end}")
            made = s.farshore_json("image", "convert", first, second, "--to", end)
            check(made["format"] == end and made["sizeBytes"] == 40 * MIB + 512, f"{made}")
            check(made["allocatedBytes"] < 9 * MIB, f"not sparse: {made['allocatedBytes']} bytes on disk")
            run("qemu-img", "compare", "-f", "raw", "-F", end_driver, source, second)
    for options in ("subformat=dynamic", "subformat=dynamic,force_size=on", "subformat=fixed"):
        image = s.path("qemu.vhd")
        run("qemu-img", "convert", "-O", "vpc", "-o", options, "-f", "raw", source, image)
        s.farshore("image", "convert", image, s.path("back.raw"), "--force")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, s.path("back.raw"))
    s.farshore("image", "convert", source, s.path("back.raw"), status=1)
    s.farshore("image", "convert", source, s.path("y"), "--to", "qcow2", status=2)
    s.farshore("image", "info", s.path("missing"), status=10)
    in_use(s)
    damaged(s)
    killed(s)
    if os.geteuid() == 0:
        full_disk(s)
    print("every format converts into every other; refusals leave nothing behind")
sys.exit(0)
