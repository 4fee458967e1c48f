"""fsx style: seeded random operations on a served file against a model of bytes; after each phase a clean or violent restart."""
import ctypes
import mmap
import os
import signal

from scenario import KIB, MIB, SCALE, Failed, Scenario, check

OPERATIONS = int(100_000 * SCALE)
SIZE = 24 * MIB + 512 * 7
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


with Scenario() as s:
    rng, url = s.random, s.make_vault()
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(SIZE)
    s.farshore("protect", image, "--name", "d", "--vault", url, "--key-file", s.key(), "--log-budget", 8 << 30)  # nothing uploads
    model = bytearray(SIZE)
    process, mnt = s.mount()
    fd = os.open(os.path.join(mnt, "d", "disk.raw"), os.O_RDWR)
    counts = {}

    def span():
        """Mostly small and anywhere, often sector or page aligned, sometimes large, often where earlier operations were."""
        length = rng.choice([rng.randrange(1, 512), 512, 4 * KIB, rng.randrange(1, 70 * KIB), rng.randrange(1, 1200 * KIB)]) if rng.random() < 0.2 \
            else rng.choice([512, 4 * KIB, rng.randrange(1, 9 * KIB)])
        limit = SIZE if rng.random() < 0.3 else 2 * MIB
        offset = rng.randrange(0, limit - 1)
        if rng.random() < 0.5:
            offset -= offset % rng.choice([512, 4096])
        return offset, min(length, SIZE - offset)

    for number in range(OPERATIONS):
        offset, length = span()
        what = rng.choices(["write", "read", "punch", "zero", "fsync", "map", "sync_write", "restart", "kill"],
                           [40, 40, 6, 4, 0.5, 0.3, 1, 0.004, 0.004])[0]
        counts[what] = counts.get(what, 0) + 1
        if what in ("write", "sync_write"):
            data = rng.randbytes(length)
            if what == "write":
                check(os.pwrite(fd, data, offset) == length, "short write")
            else:
                check(os.pwritev(fd, [data], offset, os.RWF_DSYNC) == length, "short write")
            model[offset:offset + length] = data
        elif what == "read":
            data = os.pread(fd, length, offset)
            if data != model[offset:offset + length]:
                first = next(i for i in range(length) if data[i:i + 1] != model[offset + i:offset + i + 1])
                raise Failed(f"operation {number}: read {length} at {offset} differs from byte {first}")
        elif what in ("punch", "zero"):
            fallocate(fd, (PUNCH_HOLE if what == "punch" else ZERO_RANGE) | KEEP_SIZE, offset, length)
            model[offset:offset + length] = bytes(length)
        elif what == "fsync":
            os.fsync(fd)
        elif what == "map":
            with mmap.mmap(fd, SIZE) as view:
                view[offset:offset + length] = data = rng.randbytes(length)
                view.flush()
            model[offset:offset + length] = data
        else:
            os.close(fd)
            if what == "restart":
                check(s.stop(process) == 0, "the mount did not stop cleanly")
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                os.system(f"umount -l {mnt}")
            process, mnt = s.mount()
            fd = os.open(os.path.join(mnt, "d", "disk.raw"), os.O_RDWR)
    before = s.farshore_json("status")["mount"]
    check(os.pwrite(fd, model[:8192], 0) == 8192 and os.pread(fd, 4096, 0) == model[:4096], "short write or wrong read")
    after = s.farshore_json("status")["mount"]
    counted = {key: after[key] - before[key] for key in ("requests", "readBytes", "writtenBytes")}
    check(counted["readBytes"] == 4096 and counted["writtenBytes"] == 8192 and counted["requests"] >= 2, f"status counts {counted}")
    os.close(fd)
    with open(os.path.join(mnt, "d", "disk.raw"), "rb") as file:
        check(file.read() == bytes(model), "the whole disk differs")
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    s.farshore("unprotect", "d")
    with open(image, "rb") as file:
        check(file.read() == bytes(model), "the released image differs")
    print(f"{OPERATIONS} operations, no difference: {counts}")
