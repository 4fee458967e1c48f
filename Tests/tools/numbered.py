"""Writers whose every write is numbered and describes itself, and the check of what is found afterwards: one disk, several
threads, each with blocks of its own and one write at a time.

After a crash a writer's blocks must be exactly what its first M operations leave, for one M that is not below what had to
survive; and whatever another writer had acknowledged before operation M began must be there too. That is a prefix of the writes in
an order that agrees with their acknowledgements. Nothing less passes: each sector of each block is compared.
"""
import bisect
import collections
import ctypes
import errno
import os
import random
import struct
import threading
import time
import zlib

SECTOR, BLOCK, RUN = 512, 4096, 65536
HEAD = struct.Struct("<4sIQQ")
MAGIC = b"NMBR"
ZERO = bytes(SECTOR)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)


def sector_bytes(writer, number, sector):
    head = HEAD.pack(MAGIC, writer, number, sector)
    return (head + struct.pack("<Q", zlib.crc32(head))) * (SECTOR // 32)


class Wrong(Exception):
    pass


def fallocate(fd, mode, offset, length):
    if _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Writer:
    """`style`: how it makes its writes durable."""
    STYLES = ("fsync", "fdatasync", "RWF_DSYNC", "O_SYNC", "O_DSYNC")

    def __init__(self, disk, index, runs, seed, style):
        self.disk, self.index, self.runs, self.style = disk, index, runs, style
        self.rng = random.Random(seed)
        self.sectors = {first // SECTOR + n: position * (RUN // SECTOR) + n for position, first in enumerate(runs) for n in range(RUN // SECTOR)}
        # For operation n at [n - 1]: (first place, count, whether it writes), places counted over the writer's own sectors.
        self.operations, self.began, self.ended = [], [], []
        self.acknowledged = 0
        self.durable = []
        self.history = [[] for _ in range(len(runs) * (RUN // SECTOR))]
        self.error = None

    def _choose(self):
        rng = self.rng
        # Early operations touch few runs: a dynamic image gets new blocks all the time.
        run = rng.randrange(min(len(self.runs), 1 + len(self.operations) // 40))
        kind = rng.random()
        if kind < 0.7:
            start, count = rng.randrange(RUN // BLOCK) * 8, 8
        elif kind < 0.8:
            start = rng.randrange(RUN // BLOCK) * 8
            count = rng.randrange(8, RUN // SECTOR - start + 1, 8)
        elif kind < 0.92:
            start = rng.randrange(RUN // SECTOR)
            count = rng.randrange(1, min(12, RUN // SECTOR - start) + 1)
        elif kind < 0.98:
            start = rng.randrange(RUN // BLOCK) * 8
            count = rng.randrange(8, RUN // SECTOR - start + 1, 8)
        else:
            # Inside one block: a discard that begins and ends inside of blocks is several records, and may be there in part.
            start = rng.randrange(RUN // SECTOR)
            count = rng.randrange(1, 9 - start % 8)
        return run * (RUN // SECTOR) + start, count, kind < 0.92

    def _begin(self):
        place, count, writes = self._choose()
        self.operations.append((place, count, writes))
        number = len(self.operations)
        for one in range(place, place + count):
            self.history[one].append(number if writes else -number)
        self.began.append(time.monotonic_ns())
        self.ended.append(None)

    def _perform(self, fd):
        """The newest operation; again, when it was not acknowledged before."""
        called = time.monotonic_ns()
        number = len(self.operations)
        place, count, writes = self.operations[-1]
        first = self.runs[place // (RUN // SECTOR)] // SECTOR + place % (RUN // SECTOR)
        seen = None
        if writes:
            data = b"".join(sector_bytes(self.index, number, first + n) for n in range(count))
            flags = 0
            if self.style in ("O_SYNC", "O_DSYNC"):
                seen = self.disk.acknowledged()
            elif self.style == "RWF_DSYNC" and self.rng.random() < 0.3:
                flags, seen = os.RWF_DSYNC, self.disk.acknowledged()
            done = os.pwritev(fd, [data], first * SECTOR, flags)
            if done != len(data):
                raise Wrong(f"a write of {len(data)} bytes wrote {done}")
        else:
            fallocate(fd, KEEP_SIZE | self.rng.choice((PUNCH_HOLE, ZERO_RANGE)), first * SECTOR, count * SECTOR)
        if self.disk.sync_failed and self.disk.sync_failed < called:
            raise Wrong(f"{self.disk.name}: a write was acknowledged after fsync had failed")
        self.ended[-1] = time.monotonic_ns()
        self.acknowledged = number
        if seen is not None:
            seen[self.index] = number
            self.disk.note_durable(seen)
        elif self.style in ("fsync", "fdatasync") and self.rng.random() < 0.15:
            seen = self.disk.acknowledged()
            try:
                getattr(os, self.style)(fd)
            except OSError:
                self.disk.sync_failed = self.disk.sync_failed or time.monotonic_ns()
                raise
            self.disk.note_durable(seen)

    def run(self, path, stop, rate):
        flags = {"O_SYNC": os.O_SYNC, "O_DSYNC": os.O_DSYNC}.get(self.style, 0)
        try:
            fd = os.open(path, os.O_RDWR | flags)
        except OSError as error:
            self.error = error
            return
        try:
            while not stop.is_set():
                if self.acknowledged == len(self.operations):
                    self._begin()
                try:
                    self._perform(fd)
                except OSError as error:
                    if error.errno not in self.disk.tolerated:
                        raise
                    self.disk.refused[error.errno] += 1
                    time.sleep(0.02)
                if rate:
                    time.sleep(self.rng.expovariate(rate))
        except (OSError, Wrong) as error:
            self.error = error
        finally:
            try:
                os.close(fd)
            except OSError:
                pass

    # --- afterwards

    def found(self, read):
        """The number of the write that each of the writer's sectors holds; 0 where it reads as zeros."""
        return [number for first in self.runs for number in self.found_in(first, read)]

    def found_in(self, first, read):
        """The same of the run that begins at `first`."""
        numbers = []
        data = read(first, RUN)
        for n in range(RUN // SECTOR):
            piece = data[n * SECTOR:(n + 1) * SECTOR]
            if piece == ZERO:
                numbers.append(0)
                continue
            magic, writer, number, sector = HEAD.unpack_from(piece)
            if magic != MAGIC or piece != sector_bytes(writer, number, sector):
                raise Wrong(f"{self.disk.name}: sector {first // SECTOR + n} holds what nobody wrote: {piece[:32].hex()}")
            if (writer, sector) != (self.index, first // SECTOR + n):
                raise Wrong(f"{self.disk.name}: sector {first // SECTOR + n} holds sector {sector} of writer {writer}")
            numbers.append(number)
        return numbers

    def _left_by(self, place, operation):
        history = self.history[place]
        at = bisect.bisect_right(history, operation, key=abs)
        return max(history[at - 1], 0) if at else 0

    def prefix(self, numbers):
        """(least, most): after which operations the blocks would be as found."""
        at = max(numbers)
        if at > len(self.operations):
            raise Wrong(f"{self.disk.name}: writer {self.index}: write {at} was never made")
        differing = {place for place, number in enumerate(numbers) if self._left_by(place, at) != number}
        first_differing = sorted(differing)[:3]
        matching = [] if differing else [at]
        # What followed may have been discarded again, or be a discard.
        for operation in range(at + 1, min(at + 60, len(self.operations)) + 1):
            place, count, writes = self.operations[operation - 1]
            for one in range(place, place + count):
                (differing.discard if numbers[one] == (operation if writes else 0) else differing.add)(one)
            if not differing:
                matching.append(operation)
        if not matching:
            told = [(place, numbers[place], self._left_by(place, at)) for place in first_differing]
            raise Wrong(f"{self.disk.name}: writer {self.index} ({self.style}): no prefix of its operations leaves what is there; the highest write "
                        f"there is {at}, and then (place, found, expected): {told}")
        return matching[0], matching[-1]


class NumberedDisk:
    """`tolerated`: the errors after which a writer tries the same operation again. ENOSPC: the log may be at its budget until destage
    and uploader catch up."""

    def __init__(self, name, runs, seed, mark=lambda: 0, writers=Writer.STYLES, tolerated=(errno.ENOSPC,)):
        self.name, self.mark, self.tolerated = name, mark, tolerated
        # By errno.
        self.refused = collections.Counter()
        # When the first fsync failed since the writers were started; from then on no write may be acknowledged.
        self.sync_failed = None
        shuffled = random.Random(seed).sample(runs, len(runs))
        self.writers = [Writer(self, n, shuffled[n::len(writers)], f"{seed} {name} {n}", style) for n, style in enumerate(writers)]
        self._threads = []

    def acknowledged(self):
        return [writer.acknowledged for writer in self.writers]

    def note_durable(self, numbers):
        """All of it is durable in every state of the device from `mark` on."""
        mark = self.mark()
        for writer, number in zip(self.writers, numbers):
            writer.durable.append((mark, number))

    def start(self, path, rate=0):
        self._stop = threading.Event()
        self.sync_failed = None
        for writer in self.writers:
            writer.error = None
        self._threads = [threading.Thread(target=writer.run, args=(path, self._stop, rate), daemon=True) for writer in self.writers]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout=None):
        self._stop.set()
        for thread, writer in zip(self._threads, self.writers):
            thread.join(timeout)
            if thread.is_alive():
                raise Wrong(f"{self.name}: a call of writer {writer.index} ({writer.style}) has not returned for {timeout} s")
        return [writer.error for writer in self.writers if writer.error]

    def durable_at(self, mark):
        """For each writer the highest operation that must be there."""
        return [max((number for when, number in writer.durable if when <= mark), default=0) for writer in self.writers]

    def check(self, read, least):
        """What `read(offset, length)` finds is a prefix, and for each writer not below `least`. Returns the lengths."""
        ranges = [writer.prefix(writer.found(read)) for writer in self.writers]
        for writer, (low, high), wanted in zip(self.writers, ranges, least):
            if high < wanted:
                raise Wrong(f"{self.name}: writer {writer.index} ({writer.style}): operation {wanted} had to survive, only {high} are there")
            for other, (_, there) in zip(self.writers, ranges):
                if low == 0:
                    continue
                began = writer.began[low - 1]
                before = bisect.bisect_right(other.ended, began, 0, other.acknowledged)
                if there < before:
                    raise Wrong(f"{self.name}: operation {low} of writer {writer.index} is there, operation {before} of writer {other.index}, "
                                f"acknowledged before it began, is not: only {there} are")
        return [high for _, high in ranges]

