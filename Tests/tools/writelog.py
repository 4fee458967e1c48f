"""Reads the log of block writes that dm-log-writes defines and QEMU's blklogwrites driver writes, and rebuilds the device at any
place of it, with what a power loss may do to the writes that no flush covers.

The format: Linux, Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c; QEMU,
block/blklogwrites.c. Little-endian. Sector 0: magic, version, count of entries, bytes of a sector. Then each entry: a sector with
(sector, count of sectors, flags, bytes of inline data), and unless it is a discard its data.
"""
import collections
import mmap
import os
import struct

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SUPER, ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
SECTOR = 512

# `end`: the size of the log file when the entry was complete in it.
Entry = collections.namedtuple("Entry", "offset length flags data end")


class WriteLog:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.bytes = mmap.mmap(self.file.fileno(), 0, prot=mmap.PROT_READ)
        magic, version, count, sector = SUPER.unpack_from(self.bytes, 0)
        if (magic, version, sector) != (MAGIC, VERSION, SECTOR):
            raise ValueError(f"{path}: not a write log of version {VERSION} with sectors of {SECTOR}: {magic:#x} {version} {sector}")
        self.entries, at = [], SECTOR
        for _ in range(count):
            first, sectors, flags, _ = ENTRY.unpack_from(self.bytes, at)
            data = at + SECTOR
            at = data if flags & DISCARD else data + sectors * SECTOR
            self.entries.append(Entry(first * SECTOR, sectors * SECTOR, flags, data, at))
        if at > len(self.bytes):
            raise ValueError(f"{path}: {count} entries end at {at}, the file at {len(self.bytes)}")

    def close(self):
        self.bytes.close()
        self.file.close()

    def flush_before(self, place):
        """The number of entries that the last flush among the first `place` entries covers; 0 when there is none."""
        while place > 0 and not self.entries[place - 1].flags & FLUSH:
            place -= 1
        return place

    def apply(self, fd, first, end):
        """Entries first..<end, whole and in order."""
        for entry in self.entries[first:end]:
            self._write(fd, entry, entry.offset, entry.length)

    def apply_torn(self, fd, first, end, rng, is_whole=lambda offset, head: False):
        """Of the entries first..<end any sector may be lost, but for those written with FUA; a request of which `is_whole` says
        so is lost as a whole or not. Returns how many sectors were lost."""
        chance, lost = rng.choice((0.05, 0.3, 0.5, 0.9)), 0
        for entry in self.entries[first:end]:
            if entry.flags & FUA:
                self._write(fd, entry, entry.offset, entry.length)
                continue
            # Half of the requests whole or not at all, half of them torn.
            if rng.random() < 0.5 or is_whole(entry.offset, self.bytes[entry.data:entry.data + 8]):
                if rng.random() < chance:
                    lost += entry.length // SECTOR
                else:
                    self._write(fd, entry, entry.offset, entry.length)
                continue
            for at in range(entry.offset, entry.offset + entry.length, SECTOR):
                if rng.random() < chance:
                    lost += 1
                else:
                    self._write(fd, entry, at, SECTOR)
        return lost

    def _write(self, fd, entry, offset, length):
        if length == 0:
            return
        if entry.flags & DISCARD:
            # QEMU's file driver unmaps: what was discarded reads as zeros.
            done = 0
            while done < length:
                done += os.pwrite(fd, bytes(min(length - done, 1 << 20)), offset + done)
            return
        start = entry.data + offset - entry.offset
        view = memoryview(self.bytes)
        try:
            done = 0
            while done < length:
                done += os.pwrite(fd, view[start + done:start + length], offset + done)
        finally:
            view.release()
