"""`farshore image` on the command line: every format into every other, read back identical by qemu-img; damage, a busy image, a
full disk and a killed run end as the table of exit statuses says, and nothing half-written has the output's name.

And the conformance matrix: images made by qemu-img, by vhd.py, vhdx.py and qcow2.py of Tests/tools, and by Farshore, chains included, are the
same disk for us, for those three, qemu-img and libvhdi, as far as each reads them right: qemu-img opens a differencing disk as a dynamic
one, has its own idea of creators it does not know and of block sizes; libvhdi 20210425 mixes up sectors of partly present blocks and does not
know qcow2; neither looks at a VHDX's second region table."""
import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from scenario import KIB, MIB, PROGRAM, ROOT, Scenario, check, requires, run

requires("qemu-img", "qemu-io")
FORMATS = {"raw": "raw", "vhd-fixed": "vpc", "vhd-dynamic": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}


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
        done = s.farshore("image", "convert", s.path("source.raw"), image, "--force", status=9)
        check("in use by another program" in done.stderr and not any("partial" in name for name in os.listdir(s.dir)), done.stderr)
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
    # Without a mark of its format it is no raw disk unasked.
    with open(image, "r+b") as file:
        file.write(bytes(512))
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
    for words in (["info", image], ["check", image], ["convert", image, s.path("x.raw")]):
        done = s.farshore("image", *words, status=11)
        check("its name promises a VHD" in done.stderr and "--from raw" in done.stderr, done.stderr)
    done = s.farshore("protect", image, "--name", "wrecked", "--vault", s.make_vault(), "--key-file", s.key(), status=11)
    check("its name promises a VHD" in done.stderr, done.stderr)
    check(not os.path.exists(s.path("x.raw")), "an output was made from a damaged image")
    s.farshore("image", "check", image, "--from", "raw")


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


class Matrix:
    READERS = ("farshore", "python", "qemu-img", "libvhdi")
    PYTHON = {"vpc": "vhd.py", "vhdx": "vhdx.py", "qcow2": "qcow2.py"}

    def __init__(self, s):
        self.s, self.folder, self.tools = s, s.path("matrix"), os.path.join(ROOT, "Tests", "tools")
        self.rows = collections.defaultdict(collections.Counter)
        self.refused = 0
        self.hasLibvhdi = shutil.which("vhdimount") is not None and os.geteuid() == 0
        os.mkdir(self.folder)
        self.made_by_qemu()
        self.made_by_python()
        self.made_by_farshore()
        self.chains()
        self.refusals()

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def compared(self):
        return sum(sum(row.values()) for row in self.rows.values())

    def table(self):
        lines = [f"{'made by, as':<34}" + "".join(f"{reader:>10}" for reader in self.READERS)]
        for row, counts in self.rows.items():
            lines.append(f"{row:<34}" + "".join(f"{counts[reader] or '-':>10}" for reader in self.READERS))
        return "\n".join(lines + [f"damaged in {self.refused} fields, refused with the field named by info, check and convert"])

    def python(self, driver, *words):
        run(sys.executable, os.path.join(self.tools, self.PYTHON[driver]), *words)

    def same(self, row, image, raw, qemu=True, libvhdi=True, driver="vpc"):
        """`raw` is what the image was made from."""
        out, seen = self.path("out.raw"), self.rows[row]
        self.s.farshore("image", "check", image)
        self.s.farshore("image", "convert", image, out, "--force")
        run("cmp", raw, out)
        self.python(driver, "read", image, out)
        run("cmp", raw, out)
        seen.update(["farshore", "python"])
        if qemu:
            run("qemu-img", "compare", "-f", "raw", "-F", driver, raw, image)
            seen.update(["qemu-img"])
        if libvhdi and driver != "qcow2" and self.hasLibvhdi:
            told = re.search(r"Media size.*?(\d+)(?: bytes\)| bytes$)", run("vhdiinfo", image).stdout, re.MULTILINE)
            check(told and int(told[1]) == os.path.getsize(raw), f"vhdiinfo says {told and told[0]} of {image}, not {os.path.getsize(raw)} bytes")
            mounted = self.path("libvhdi")
            os.makedirs(mounted, exist_ok=True)
            run("vhdimount", image, mounted)
            try:
                # Of a chain every file is shown, the image itself last.
                run("cmp", raw, os.path.join(mounted, sorted(os.listdir(mounted), key=lambda name: int(name[4:]))[-1]))
            finally:
                run("umount", mounted)
            seen.update(["libvhdi"])

    def fill(self, raw, size):
        with open(raw, "wb") as file:
            file.truncate(size)
            for _ in range(6):
                file.seek(self.s.random.randrange(size // 512) * 512)
                file.write(self.s.random.randbytes(512))

    def made_by_qemu(self):
        raw, image = self.path("x.raw"), self.path("x.vhd")
        for size in (MIB + 512, 17 * 4 * 1024 * 512, 9 * MIB):
            for options in ("subformat=dynamic", "subformat=dynamic,force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"):
                run("qemu-img", "create", "-q", "-f", "vpc", "-o", options, image, size)
                self.fill(raw, self.s.farshore_json("image", "info", image)["sizeBytes"])
                run("qemu-img", "convert", "-n", "-f", "raw", "-O", "vpc", raw, image)
                # libvhdi goes by the current size, which qemu-img makes the same.
                self.same("qemu-img, VHD " + options.split(",")[0][10:], image, raw)
            self.fill(raw, size)
            for options in ("subformat=dynamic,block_size=1M", "subformat=dynamic,block_size=32M", "subformat=fixed"):
                run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", options, raw, image + "x")
                self.same("qemu-img, VHDX " + options.split(",")[0][10:], image + "x", raw, driver="vhdx")
            for options in (["-o", "compat=0.10"], ["-o", "cluster_size=512"], ["-c"], ["-c", "-o", "cluster_size=4k,compression_type=zstd"]):
                run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, image + "q")
                self.same("qemu-img, qcow2" + (", compressed" if "-c" in options else ""), image + "q", raw, driver="qcow2")

    def made_by_farshore(self):
        raw = self.path("x.raw")
        for size in (MIB + 512, 9 * MIB, 70 * MIB):
            self.fill(raw, size)
            for form, driver in (("vhd-fixed", "vpc"), ("vhd-dynamic", "vpc"), ("vhdx", "vhdx"), ("qcow2", "qcow2")):
                image = self.path("ours." + form)
                self.s.farshore("image", "convert", raw, image, "--to", form, "--force")
                self.same("farshore, " + form, image, raw, driver=driver)

    def made_by_python(self):
        raw, image = self.path("x.raw"), self.path("x.vhd")
        for layout in ("fixed", "plain", "table-last", "gaps", "partial-bitmaps", "batmap"):
            for creator, block in (("win", 2 * MIB), ("vbox", 512 * KIB), ("tap", 4 * KIB), ("vs", 16 * MIB)):
                self.python("vpc", "make", image, raw, "--size", 9 * MIB + 512, "--layout", layout, "--creator", creator, "--block", block, "--seed", len(layout))
                # QEMU 7 shows what it does not know by its geometry, and has its own idea of small and large blocks.
                self.same("vhd.py, VHD " + layout, image, raw, qemu=creator in ("win", "tap") and block >= 512 * KIB, libvhdi=layout != "partial-bitmaps")
        for layout in ("plain", "fixed", "table-last", "gaps", "states", "copies"):
            for block in (MIB, 2 * MIB, 32 * MIB):
                self.python("vhdx", "make", image, raw, "--size", 19 * MIB + 512, "--layout", layout, "--block", block, "--seed", len(layout))
                self.same("vhdx.py, VHDX " + layout, image, raw, qemu=layout != "copies", libvhdi=layout != "copies", driver="vhdx")
        # Behind 4 GiB of blocks the table has an entry for a sector bitmap.
        self.python("vhdx", "make", image, raw, "--size", 4100 * MIB, "--layout", "gaps", "--block", 2 * MIB, "--filled", 0.01)
        self.same("vhdx.py, VHDX gaps", image, raw, driver="vhdx")
        for layout in ("plain", "scattered", "zeros", "packed", "packed-zstd"):
            for cluster, order in ((512, 4), (4 * KIB, 6), (64 * KIB, 5), (2 * MIB, 3)):
                for version in (2, 3) if layout in ("plain", "scattered", "packed") and order == 4 else (3,):
                    self.python("qcow2", "make", image, raw, "--size", 5 * MIB + 512, "--layout", layout, "--cluster", cluster, "--version", version,
                                "--refcount-order", order, "--seed", len(layout))
                    self.same("qcow2.py, qcow2 " + layout, image, raw, driver="qcow2")
                    run("qemu-img", "check", "-q", "-f", "qcow2", image)

    def chains(self):
        for presence in ("whole", "partly"):
            for block in (512 * KIB, 2 * MIB, 16 * MIB):
                for base in ("fixed", "plain"):
                    path, raw = self.path("0.vhd"), self.path("0.raw")
                    self.python("vpc", "make", path, raw, "--size", 10 * MIB + 1024, "--layout", base, "--creator", "win")
                    for depth in (1, 2, 3):
                        parent, path, raw = path, self.path(f"{depth}.vhd"), self.path(f"{depth}.raw")
                        self.python("vpc", "child", path, raw, "--parent", parent, "--id", f"{depth:032x}", "--block", block, "--presence", presence,
                                 "--creator", "win" if depth != 2 else "vbox", "--space", "bytes", "--seed", depth, "--filled", 0.4)
                        self.same(f"vhd.py, chain, blocks {presence} present", path, raw, qemu=False, libvhdi=presence == "whole")

    def refusals(self):
        image = self.path("1.vhd")
        with open(image, "rb") as file:
            sound = file.read()
        lies = [(512 + 40, bytes(16), "dynamic header, parent unique id"), (512 + 576 + 8, b"\0\0\0\1", "parent locator 0, data length"),
                (512 + 576 + 16, b"\xff" * 8, "parent locator 0, data offset"), (512 + 32, b"\0\0\3\0", "dynamic header, block size"),
                (512 + 28, b"\xff\xff\xff\xff", "dynamic header, table entries"), (512 + 16, b"\xff" * 8, "dynamic header, table offset"),
                (512 + 24, b"\0\2\0\0", "dynamic header, format version"), (1536, b"\0\0\0\0", "block allocation table, entry 0")]
        for place, value, field in lies:
            lie = bytearray(sound)
            lie[place:place + len(value)] = value
            header = lie[512:1536]
            lie[512 + 36:512 + 40] = (~(sum(header) - sum(header[36:40])) & 0xFFFFFFFF).to_bytes(4, "big")
            with open(self.path("lie.vhd"), "wb") as file:
                file.write(lie)
            for words in (["info"], ["check"], ["convert", self.path("never")]):
                done = self.s.farshore("image", words[0], self.path("lie.vhd"), *words[1:], status=11)
                check(field in done.stderr and "Try:" in done.stderr, done.stderr)
            check(not os.path.exists(self.path("never")), "an output was made of a lie")
            self.refused += 1


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
    s.farshore("image", "convert", source, s.path("back.raw"), status=9)
    s.farshore("image", "convert", source, s.path("y"), "--to", "vmdk", status=2)
    s.farshore("image", "info", s.path("missing"), status=10)
    in_use(s)
    damaged(s)
    killed(s)
    if os.geteuid() == 0:
        full_disk(s)
    matrix = Matrix(s)
    check(matrix.compared >= 350, f"only {matrix.compared} comparisons")
    print(matrix.table())
    print(f"conformance: {matrix.compared} readings agree" + ("" if matrix.hasLibvhdi else ", without libvhdi"))
    print("every format converts into every other; refusals leave nothing behind")
sys.exit(0)
