#!/usr/bin/env python3
"""A second reader and writer of qcow2, from QEMU's docs/interop/qcow2 alone, standard library and libzstd.

qcow2.py read IMAGE RAW             the disk's bytes into RAW; exits 1 naming what is wrong
qcow2.py make IMAGE RAW --size BYTES [--cluster BYTES] [--version 2|3] [--layout plain|scattered|zeros|packed|packed-zstd]
                        [--refcount-order N] [--seed N]
                                    makes an image, refcounts included, and what it must read as
"""
import argparse, ctypes, random, struct, sys, zlib

HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
FEATURES = struct.Struct(">QQQII")
COPIED, COMPRESSED, PLACE = 1 << 63, 1 << 62, 0x00FFFFFFFFFFFE00


def rounded(count, unit):
    return (count + unit - 1) // unit * unit


class Zstd:
    """Python 3.11 has none of its own."""
    def __init__(self):
        self.lib = ctypes.CDLL("libzstd.so.1")
        for name in ("ZSTD_compress", "ZSTD_decompress", "ZSTD_findFrameCompressedSize"):
            getattr(self.lib, name).restype = ctypes.c_size_t

    def packed(self, data):
        room = ctypes.create_string_buffer(len(data) + 1024)
        count = self.lib.ZSTD_compress(room, ctypes.c_size_t(len(room)), data, ctypes.c_size_t(len(data)), 3)
        if self.lib.ZSTD_isError(ctypes.c_size_t(count)):
            raise ValueError("zstd does not compress")
        return room.raw[:count]

    def unpacked(self, data, most):
        room = ctypes.create_string_buffer(most)
        frame = self.lib.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data)))
        if self.lib.ZSTD_isError(ctypes.c_size_t(frame)):
            raise ValueError("compressed cluster: no zstd frame")
        count = self.lib.ZSTD_decompress(room, ctypes.c_size_t(most), data, ctypes.c_size_t(frame))
        if self.lib.ZSTD_isError(ctypes.c_size_t(count)):
            raise ValueError("compressed cluster: a broken zstd frame")
        return room.raw[:count]


class Image:
    def __init__(self, path):
        self.file = open(path, "rb")
        head = self.at(0, 112)
        (magic, self.version, backing, _, bits, self.size, encryption, entries, l1, _, _, self.snapshots, _) = HEADER.unpack_from(head)
        if magic != b"QFI\xfb" or self.version not in (2, 3):
            raise ValueError("not qcow2 of version 2 or 3")
        incompatible, _, _, _, length = FEATURES.unpack_from(head, 72) if self.version == 3 else (0, 0, 0, 4, 72)
        if backing or encryption or incompatible & ~8:
            raise ValueError("a backing file, encryption, or features that are not known here")
        self.cluster = 1 << bits
        self.zstd = Zstd() if length > 104 and head[104] == 1 else None
        self.per_table = self.cluster // 8
        self.l1 = struct.unpack(f">{entries}Q", self.at(l1, entries * 8))
        self.bits = bits

    def at(self, place, count):
        """What a cut last cluster lacks is zeros."""
        self.file.seek(place)
        return self.file.read(count).ljust(count, b"\0")

    def content(self, entry):
        if entry & COMPRESSED:
            shift = 62 - (self.bits - 8)
            place, sectors = entry & ((1 << shift) - 1), (entry & (COMPRESSED - 1)) >> shift
            packed = self.at(place, (sectors + 1) * 512 - place % 512)
            data = self.zstd.unpacked(packed, self.cluster) if self.zstd else zlib.decompressobj(-12).decompress(packed, self.cluster)
            if len(data) != self.cluster:
                raise ValueError(f"compressed cluster at {place}: {len(data)} bytes")
            return data
        if entry & ~(COPIED | PLACE | (1 if self.version == 3 else 0)):
            raise ValueError(f"entry {entry:#x}: bits that must be zero")
        if entry & 1 or not entry & PLACE:
            return None
        return self.at(entry & PLACE, self.cluster)

    def copy(self, out):
        with open(out, "wb") as raw:
            raw.truncate(self.size)
            for number, pointer in enumerate(self.l1):
                if not pointer & PLACE:
                    continue
                table = struct.unpack(f">{self.per_table}Q", self.at(pointer & PLACE, self.cluster))
                for index, entry in enumerate(table):
                    start = (number * self.per_table + index) * self.cluster
                    data = self.content(entry) if start < self.size else None
                    if data:
                        raw.seek(start)
                        raw.write(data[:self.size - start])


class Writer:
    """Places clusters one after the other and counts who refers to each."""
    def __init__(self, path, given):
        self.given, self.cluster, self.bits = given, given.cluster, given.cluster.bit_length() - 1
        self.file, self.end, self.counts = open(path, "w+b"), given.cluster, {0: 1}
        self.packed_end = 0
        self.zstd = Zstd() if given.layout == "packed-zstd" else None

    def place(self, bytes):
        at, self.end = self.end, self.end + rounded(bytes, self.cluster)
        for number in range(at // self.cluster, self.end // self.cluster):
            self.counts[number] = 1
        return at

    def put(self, at, data):
        self.file.seek(at)
        self.file.write(data)

    def standard(self, data):
        at = self.place(self.cluster)
        self.put(at, data)
        return at | COPIED

    def compressed(self, data):
        """Compressed clusters lie byte by byte behind each other; a host cluster counts each that touches it."""
        if self.zstd:
            packed = self.zstd.packed(data)
        else:
            maker = zlib.compressobj(9, zlib.DEFLATED, -12)
            packed = maker.compress(data) + maker.flush()
        if len(packed) >= self.cluster:
            return self.standard(data)
        if self.packed_end % self.cluster == 0 or self.packed_end % self.cluster + len(packed) > self.cluster:
            self.packed_end = self.place(self.cluster)
            del self.counts[self.packed_end // self.cluster]
        at, self.packed_end = self.packed_end, self.packed_end + len(packed)
        self.put(at, packed)
        host = at // self.cluster
        self.counts[host] = self.counts.get(host, 0) + 1
        sectors = (at + len(packed) - 1) // 512 - at // 512
        return COMPRESSED | sectors << 62 - (self.bits - 8) | at

    def refcounts(self):
        """Table and blocks count themselves: as many as it takes until nothing is added."""
        width = 1 << self.given.refcount_order
        per_block = self.cluster * 8 // width
        blocks = table = 0
        while True:
            clusters = self.end // self.cluster + blocks + table
            wanted = (clusters + per_block - 1) // per_block
            wanted_table = rounded(wanted * 8, self.cluster) // self.cluster
            if (wanted, wanted_table) == (blocks, table):
                break
            blocks, table = wanted, wanted_table
        at = self.place(table * self.cluster)
        places = [self.place(self.cluster) for _ in range(blocks)]
        for number, place in enumerate(places):
            counts = [self.counts.get(number * per_block + index, 0) for index in range(per_block)]
            if width < 8:  # the fields of a byte fill it from its low bits on
                page = bytes(sum(counts[first + index] << index * width for index in range(8 // width)) for first in range(0, per_block, 8 // width))
            else:
                page = b"".join(count.to_bytes(width // 8, "big") for count in counts)
            self.put(place, page)
        self.put(at, b"".join(struct.pack(">Q", place) for place in places))
        return at, table

    def finish(self, size, l1, entries):
        refcounts, table = self.refcounts()
        head = HEADER.pack(b"QFI\xfb", self.given.version, 0, 0, self.bits, size, 0, entries, l1, refcounts, table, 0, 0)
        if self.given.version == 3:
            # An unknown header extension is to be passed over; 0 ends them.
            extensions = struct.pack(">II8s", 0x12345678, 5, b"hello") + bytes(8)
            head += FEATURES.pack(8 if self.zstd else 0, 0, 0, self.given.refcount_order, 112) + bytes([1 if self.zstd else 0]) + bytes(7) + extensions
        self.put(0, head)
        self.file.seek(0, 2)
        if self.file.tell() < self.end:
            self.file.truncate(self.end)
        self.file.close()


def content(chance, count):
    """Text-like, so that it compresses, with a part that does not."""
    letters = bytes(chance.randrange(97, 105) for _ in range(64))
    return (letters * (count // 64 + 1))[:count - 128] + chance.randbytes(128)


def make(given):
    chance, size, cluster = random.Random(given.seed), given.size, given.cluster
    writer = Writer(given.image, given)
    per_table, clusters = cluster // 8, (size + cluster - 1) // cluster
    entries = (clusters + per_table - 1) // per_table
    l1 = writer.place(entries * 8)
    chosen = chance.sample(range(clusters), max(1, int(clusters * given.filled)))
    if given.layout == "plain":
        chosen.sort()
    table = {}
    with open(given.out, "wb") as raw:
        raw.truncate(size)
        for number in chosen:
            data = content(chance, min(cluster, size - number * cluster))
            kind = chance.choice({"zeros": ["data", "zero", "zero-placed"], "packed": ["packed", "packed", "data"], "packed-zstd": ["packed", "packed", "data"]}
                                 .get(given.layout, ["data"]))
            if kind.startswith("zero"):
                table[number] = 1 | (writer.standard(data.ljust(cluster, b"\1")) if kind == "zero-placed" else 0)
                continue
            whole = data.ljust(cluster, b"\0")
            table[number] = writer.compressed(whole) if kind == "packed" else writer.standard(whole)
            raw.seek(number * cluster)
            raw.write(data)
    pointers = bytearray(entries * 8)
    groups = sorted({number // per_table for number in table})
    if given.layout == "scattered":
        chance.shuffle(groups)
    for group in groups:
        page = b"".join(struct.pack(">Q", table.get(group * per_table + index, 0)) for index in range(per_table))
        struct.pack_into(">Q", pointers, group * 8, writer.standard(page))
    writer.put(l1, bytes(pointers))
    writer.finish(size, l1, entries)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    reader, maker = verbs.add_parser("read"), verbs.add_parser("make")
    for verb in (reader, maker):
        verb.add_argument("image"), verb.add_argument("out")
    maker.add_argument("--size", type=int, required=True), maker.add_argument("--cluster", type=int, default=65536)
    maker.add_argument("--version", type=int, default=3), maker.add_argument("--refcount-order", type=int, default=4)
    maker.add_argument("--layout", default="plain"), maker.add_argument("--filled", type=float, default=0.3)
    maker.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        make(given) if given.verb == "make" else Image(given.image).copy(given.out)
    except (ValueError, struct.error, zlib.error, OSError) as error:
        sys.exit(f"qcow2.py: {given.image}: {error}")


if __name__ == "__main__":
    main()
