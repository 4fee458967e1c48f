"""kill -9 of the whole process group during writes, start again: everything acknowledged is there."""
# Promise D2: kill -9 of every Farshore process loses no acknowledged write.
import os
import signal
import threading

from scenario import KIB, MIB, SCALE, Scenario, check

ROUNDS = int(12 * SCALE)
BLOCK, BLOCKS, WRITERS = 4 * KIB, 2048, 4

with Scenario() as s:
    url = s.make_vault()
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(BLOCK * BLOCKS)
    s.farshore("protect", image, "--name", "d", "--vault", url, "--key-file", s.key())
    # For each block the newest acknowledged stamp and the newest one begun; each writer has blocks of its own.
    acknowledged, begun = [0] * BLOCKS, [0] * BLOCKS

    def writer(number, path, stop):
        rng = __import__("random").Random(s.seed * 100 + number + sum(acknowledged))
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            return
        try:
            while not stop.is_set():
                block = rng.randrange(BLOCKS // WRITERS) * WRITERS + number
                stamp = begun[block] + 1
                begun[block] = stamp
                os.pwrite(fd, (block << 32 | stamp).to_bytes(8, "little") * (BLOCK // 8), block * BLOCK)
                acknowledged[block] = stamp
        except OSError:
            pass  # the mount went with its processes, as it must when all are killed
        finally:
            os.close(fd)

    total = 0
    for number in range(ROUNDS):
        process, mnt = s.mount()
        path = os.path.join(mnt, "d", "disk.raw")
        fd = os.open(path, os.O_RDONLY)
        lost = 0
        for block in range(BLOCKS):
            data = os.pread(fd, BLOCK, block * BLOCK)
            words = {data[i:i + 8] for i in range(0, BLOCK, 8)}
            check(len(words) == 1, f"round {number}: block {block} is torn")
            value = int.from_bytes(words.pop(), "little")
            stamp = value & 0xFFFFFFFF
            check(value == 0 or value >> 32 == block, f"round {number}: block {block} holds another block's data")
            check(acknowledged[block] <= stamp <= begun[block],
                  f"round {number}: block {block} holds stamp {stamp}, acknowledged was {acknowledged[block]}, begun {begun[block]}")
            acknowledged[block] = begun[block] = stamp
        os.close(fd)
        stop = threading.Event()
        threads = [threading.Thread(target=writer, args=(n, path, stop)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        stop.wait(s.random.uniform(0.05, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        stop.set()
        process.wait()
        os.system(f"umount -l {mnt}")
        for thread in threads:
            thread.join()
        total = sum(acknowledged)
    print(f"{ROUNDS} rounds, {total} acknowledged writes, none lost, no block torn")
