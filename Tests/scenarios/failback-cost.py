"""What a failback of a large image costs: the replica writes 1 % of it as random blocks of 4 KiB, and the home, which has its image still, follows.

Fetched from the vault, and written to the image, is at most 2 % of it; the home then holds what the replica does. Of 512 MiB; with
FARSHORE_CAMPAIGN_SCALE=20, of 20 GiB.
"""
import os
import random
import time

from scenario import GIB, MIB, SCALE, Scenario, check, requires

requires("fusermount3")
BLOCK = 4096
SIZE = 20 * GIB if SCALE >= 20 else 512 * MIB
BLOCKS = SIZE // BLOCK


def before(block):
    """Of this block alone, and small when compressed: the image is large, its vault is not."""
    return block.to_bytes(8, "little") * (BLOCK // 8)


def after(block):
    return random.Random(block).randbytes(BLOCK)


def fill(path):
    with open(path, "wb") as file:
        for first in range(0, BLOCKS, 256):
            file.write(b"".join(before(block) for block in range(first, first + 256)))


with Scenario(seed=2) as s:
    there, url, image = s.path("there"), s.make_vault(), s.path("db.raw")
    key = ("--vault", url, "--key-file", s.key())
    fill(image)
    s.farshore("protect", image, "--name", "db", *key, "--log-budget", str(max(SIZE // 16, 256 * MIB)))
    s.mount(s.path("mnt"), served="db")
    s.farshore("upload", "--once", timeout=1800)
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60")
    s.mount(s.path("mnt-there"), site=there)
    away = s.farshore_json("failover", "run", "db", "--planned", *key, site=there)["disks"][0]["path"]
    s.farshore("failover", "commit", "db", site=there)
    s.farshore("reprotect", "db", site=there)

    changed = s.random.sample(range(BLOCKS), BLOCKS // 100)
    with open(away, "rb+", buffering=0) as file:
        for block in changed:
            os.pwrite(file.fileno(), after(block), block * BLOCK)
        os.fsync(file.fileno())
    s.farshore("upload", "--once", site=there, timeout=1800)

    began = time.monotonic()
    report = s.farshore_json("failback", "start", "db", timeout=1800)["disks"][0]
    seconds = time.monotonic() - began
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60", site=there)
    s.farshore("failback", "complete", "db")
    cost = {what: report[what + "Bytes"] / SIZE for what in ("fetched", "written")}
    print(f"{SIZE / GIB:g} GiB, {len(changed)} blocks changed (1 %): {cost['fetched']:.2%} fetched, {cost['written']:.2%} written in {seconds:.1f} s")
    check(max(cost.values()) <= 0.02, f"more than 2 %: {report}")

    changed = set(changed)
    looked = changed | set(s.random.sample(range(BLOCKS), min(BLOCKS, 100_000)))
    with open(image, "rb") as file:
        for block in sorted(looked):
            check(os.pread(file.fileno(), BLOCK, block * BLOCK) == (after if block in changed else before)(block), f"block {block} of the home's image is not the replica's")
    check(os.path.getsize(image) == SIZE, "the image has another size")
    print(f"{len(looked)} blocks of the home's image compared: as on the replica")
