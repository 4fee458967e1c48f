#!/usr/bin/env python3
"""A second reader of VHDX, written from [MS-VHDX] and docs/formats/vhdx.md without a look at the Swift one, and a maker
of images, also of such whose log has to be replayed.

vhdx.py read IMAGE RAW          the disk's bytes into RAW; complains about every rule that is broken
vhdx.py make IMAGE RAW --size BYTES [--block BYTES] [--layout plain|fixed|table-last|gaps|states|copies] [--filled PART] [--seed N]
                                an image, and what it must read as; gaps: blocks in any order, apart from each other; states: blocks
                                undefined, zero and unmapped with places that mean nothing; copies: the first header and the first
                                region table are damaged
vhdx.py dirty IMAGE [--wrap] [--torn] [--zero]
                                takes the block allocation table out of its place and puts it into the log, as a power loss would
                                leave it: an older entry, then the newest one; --wrap: across the log's end; --torn: behind it a torn
                                entry, which must be ignored; --zero: with a zero descriptor in front of the data
vhdx.py fields IMAGE            log id and sequence number of the header that counts
"""
import argparse, random, struct, sys, uuid

MIB = 1 << 20


def make_table():
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


CRC = make_table()


def crc32c(data):
    sum = 0xFFFFFFFF
    for byte in data:
        sum = CRC[(sum ^ byte) & 255] ^ sum >> 8
    return sum ^ 0xFFFFFFFF


def checked(data, what):
    want = struct.unpack_from("<I", data, 4)[0]
    assert crc32c(data[:4] + bytes(4) + data[8:]) == want, f"{what}: checksum"
    return data


def guid(data):
    return str(uuid.UUID(bytes_le=bytes(data))).upper()


class File:
    def __init__(self, path):
        self.path = path
        self.bytes = bytearray(open(path, "rb").read())
        self.size = len(self.bytes)

    def at(self, offset, count):
        data = self.bytes[offset:offset + count]
        return bytes(data) + bytes(count - len(data))

    def put(self, offset, data):
        if len(self.bytes) < offset + len(data):
            self.bytes += bytes(offset + len(data) - len(self.bytes))
        self.bytes[offset:offset + len(data)] = data


def header(file):
    best = None
    for place in (64 << 10, 128 << 10):
        data = file.at(place, 4096)
        try:
            assert data[:4] == b"head"
            checked(data, "header")
        except AssertionError:
            continue
        sequence = struct.unpack_from("<Q", data, 8)[0]
        if best is None or sequence > best[0]:
            best = (sequence, place, data)
    assert best, "no sound header"
    sequence, place, data = best
    log_version, version, log_bytes, log_offset = struct.unpack_from("<HHIQ", data, 64)
    assert (log_version, version) == (0, 1) and log_bytes % MIB == 0 and log_offset % MIB == 0
    return {"sequence": sequence, "place": place, "data": data, "log": data[48:64], "log_bytes": log_bytes, "log_offset": log_offset}


def entry(log, place, log_id):
    def ring(start, count):
        return b"".join(log[(start + at) % len(log):][:4096] for at in range(0, count, 4096))
    head = ring(place, 4096)
    if head[:4] != b"loge" or head[32:48] != log_id:
        return None
    length, tail, sequence, count = struct.unpack_from("<IIQI", head, 8)
    if length == 0 or length % 4096 or length > len(log) or sequence == 0:
        return None
    data = ring(place, length)
    if crc32c(data[:4] + bytes(4) + data[8:]) != struct.unpack_from("<I", data, 4)[0]:
        return None
    sector = (64 + 32 * count + 4095) // 4096 * 4096
    changes = []
    for number in range(count):
        descriptor = data[64 + 32 * number:][:32]
        assert struct.unpack_from("<Q", descriptor, 24)[0] == sequence, "descriptor of another entry"
        offset = struct.unpack_from("<Q", descriptor, 16)[0]
        if descriptor[:4] == b"zero":
            changes.append((offset, bytes(struct.unpack_from("<Q", descriptor, 8)[0])))
            continue
        assert descriptor[:4] == b"desc"
        body = data[sector:sector + 4096]
        high, low = struct.unpack_from("<I", body, 4)[0], struct.unpack_from("<I", body, 4092)[0]
        assert body[:4] == b"data" and high << 32 | low == sequence, "data sector of another entry"
        changes.append((offset, descriptor[8:16] + body[8:4092] + descriptor[4:8]))
        sector += 4096
    flushed, last = struct.unpack_from("<QQ", data, 48)
    return {"place": place, "length": length, "tail": tail, "sequence": sequence, "changes": changes, "flushed": flushed, "last": last}


def replay(file, head):
    if head["log"] == bytes(16):
        return
    log = file.at(head["log_offset"], head["log_bytes"])
    best = []
    for tail in range(0, len(log), 4096):
        run, place = [], tail
        while True:
            found = entry(log, place, head["log"])
            if not found or (run and found["sequence"] != run[-1]["sequence"] + 1) or len(run) > 300:
                break
            run.append(found)
            place = (place + found["length"]) % len(log)
        if run and any(member["place"] == run[-1]["tail"] for member in run):
            if not best or run[-1]["sequence"] > best[-1]["sequence"]:
                best = run
    assert best, "no active sequence in the log"
    assert file.size >= best[-1]["flushed"], "the file is shorter than its log says"
    starts = [number for number, member in enumerate(best) if member["place"] == best[-1]["tail"]]
    for member in best[starts[0]:]:
        for offset, data in member["changes"]:
            file.put(offset, data)
    if len(file.bytes) < best[-1]["last"]:
        file.bytes += bytes(best[-1]["last"] - len(file.bytes))


def regions(file):
    found = {}
    try:
        data = checked(file.at(192 << 10, 64 << 10), "region table")
    except AssertionError:
        data = checked(file.at(256 << 10, 64 << 10), "both region tables")
    assert data[:4] == b"regi"
    for number in range(struct.unpack_from("<I", data, 8)[0]):
        place = 16 + 32 * number
        offset, length, required = struct.unpack_from("<QII", data, place + 16)
        assert offset % MIB == 0 and length % MIB == 0 and offset >= MIB
        found[guid(data[place:place + 16])] = (offset, length)
    return found["2DC27766-F623-4200-9D64-115E9BFD4A08"], found["8B7CA206-4790-4B9A-B8FE-575F050F886E"]


def metadata(file, region):
    table = file.at(region[0], 64 << 10)
    assert table[:8] == b"metadata"
    items = {}
    for number in range(struct.unpack_from("<H", table, 10)[0]):
        place = 32 + 32 * number
        offset, length, flags = struct.unpack_from("<III", table, place + 16)
        assert offset >= 64 << 10 and offset + length <= region[1]
        items[guid(table[place:place + 16])] = file.at(region[0] + offset, length)
    block, flags = struct.unpack("<II", items["CAA16737-FA36-4D43-B3B6-33F0AA44E76B"][:8])
    size, = struct.unpack("<Q", items["2FA54224-CD1B-4876-B211-5DBED83BF4B8"])
    sector, = struct.unpack("<I", items["8141BF1D-A96F-4709-BA47-F233A8FAAB5F"])
    assert "BECA12AB-B2E6-4523-93EF-C309E000C746" in items and "CDA348C7-445D-4471-9CC9-E9885251C556" in items
    assert flags & 2 == 0 and sector == 512
    return block, size


def blocks(file):
    table, meta = regions(file)
    block, size = metadata(file, meta)
    ratio = (512 << 23) // block
    count = (size + block - 1) // block
    taken = {}
    for number in range(count):
        place = table[0] + 8 * (number + number // ratio)
        value, = struct.unpack("<Q", file.at(place, 8))
        state, offset = value & 7, value >> 20 << 20
        assert state in (0, 1, 2, 3, 6), f"block {number}: state {state}"
        if state != 6:
            continue
        assert offset >= MIB and offset + min(block, size - number * block) <= len(file.bytes), f"block {number} lies outside of the file"
        assert offset not in taken, f"blocks {number} and {taken[offset]} at the same place"
        taken[offset] = number
    return table, block, size, count, taken


def read(path, raw):
    file = File(path)
    assert file.at(0, 8) == b"vhdxfile"
    replay(file, header(file))
    _, block, size, _, taken = blocks(file)
    with open(raw, "wb") as out:
        out.truncate(size)
        for offset, number in taken.items():
            out.seek(number * block)
            out.write(file.at(offset, min(block, size - number * block)))


def make_entry(log_id, sequence, tail, changes, file_bytes):
    descriptors, data = b"", b""
    for offset, what in changes:
        if isinstance(what, int):
            descriptors += b"zero" + struct.pack("<IQQQ", 0, what, offset, sequence)
        else:
            descriptors += b"desc" + what[4092:] + what[:8] + struct.pack("<QQ", offset, sequence)
            data += b"data" + struct.pack("<I", sequence >> 32) + what[8:4092] + struct.pack("<I", sequence & 0xFFFFFFFF)
    head_bytes = (64 + len(descriptors) + 4095) // 4096 * 4096
    head = b"loge" + struct.pack("<IIIQII", 0, head_bytes + len(data), tail, sequence, len(changes), 0) + log_id
    head += struct.pack("<QQ", file_bytes // MIB * MIB, (file_bytes + MIB - 1) // MIB * MIB)
    whole = (head + descriptors).ljust(head_bytes, b"\0") + data
    return whole[:4] + struct.pack("<I", crc32c(whole)) + whole[8:]


def dirty(path, options):
    file = File(path)
    head = header(file)
    table, block, size, count, taken = blocks(file)
    sectors = sorted({(table[0] + 8 * (number + number // ((512 << 23) // block))) // 4096 * 4096 for number in taken.values()})
    log_id = bytes(range(1, 17))
    changes = [(place, file.at(place, 4096)) for place in sectors]
    older = [(place, bytes(4096)) for place in sectors]
    if "--zero" in options:
        changes = [(place, 4096) for place in sectors] + changes
    start = head["log_bytes"] - 8192 if "--wrap" in options else 0
    first = make_entry(log_id, 7, start, older, file.size)
    second = make_entry(log_id, 8, start, changes, file.size)
    log = bytearray(head["log_bytes"])
    for at, byte in enumerate(first + second):
        log[(start + at) % len(log)] = byte
    if "--torn" in options:
        torn = bytearray(make_entry(log_id, 9, start, older, file.size))
        torn[-100] ^= 1
        at = (start + len(first) + len(second)) % len(log)
        log[at:at + len(torn)] = torn
    file.put(head["log_offset"], bytes(log))
    for place in sectors:
        file.put(place, bytes(4096))
    data = bytearray(head["data"])
    data[48:64] = log_id
    data[4:8] = bytes(4)
    struct.pack_into("<Q", data, 8, head["sequence"])
    struct.pack_into("<I", data, 4, crc32c(data))
    file.put(head["place"], bytes(data))
    open(path, "wb").write(file.bytes)


def summed(data):
    return data[:4] + struct.pack("<I", crc32c(data[:4] + bytes(4) + data[8:])) + data[8:]


def id_bytes(text):
    return uuid.UUID(text).bytes_le


class Maker:
    """Section 2.1: what lies where is free, but for the first MiB."""
    def __init__(self, image, raw, given):
        self.given, self.file, self.raw, self.chance = given, open(image, "wb"), open(raw, "wb"), random.Random(given.seed)
        self.block, self.size = given.block, given.size
        self.count, self.ratio = -(-self.size // self.block), (512 << 23) // self.block
        self.table_bytes = -(-8 * (self.count + (self.count - 1) // self.ratio) // MIB) * MIB
        self.end = 2 * MIB
        metadata = self.place(MIB)
        table = 0 if given.layout == "table-last" else self.place(self.table_bytes)
        entries = self.blocks()
        table = table or self.place(self.table_bytes)
        self.put(table, b"".join(struct.pack("<Q", entries.get(number, 0)) for number in range(max(entries, default=0) + 1)))
        self.metadata(metadata)
        self.first_mib(metadata, table)
        self.file.truncate(self.end)
        self.raw.truncate(self.size)
        self.file.close(), self.raw.close()

    def place(self, count):
        if self.given.layout == "gaps":
            self.end += self.chance.randrange(3) * MIB
        at, self.end = self.end, self.end + count
        return at

    def put(self, at, data):
        self.file.seek(at)
        self.file.write(data)

    def blocks(self):
        """Entries by their place in the table; of each block a few runs of sectors are not zero."""
        every, entries = list(range(self.count)), {}
        chosen = set(every if self.given.layout == "fixed" else [number for number in every if self.chance.random() < self.given.filled])
        if self.given.layout == "gaps":
            self.chance.shuffle(every)
        for number in every:
            index = number + number // self.ratio
            if number not in chosen:
                if self.given.layout == "states":
                    entries[index] = self.chance.choice([0, 1 | 7 << 44, 2, 2 | 3 << 20, 3 | 1 << 40])
                continue
            at = self.place(self.block)
            entries[index] = at | 6
            for _ in range(4):
                sector = self.chance.randrange(self.block // 512)
                data = self.chance.randbytes(512 * self.chance.choice([1, 3, 8, 130]))[:self.block - sector * 512]
                self.put(at + sector * 512, data)
                start = number * self.block + sector * 512
                if start < self.size:
                    self.raw.seek(start)
                    self.raw.write(data[:self.size - start])
        return entries

    def metadata(self, region):
        """Section 2.6; an item that is not known and not required stands between the others."""
        items = [("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", struct.pack("<II", self.block, int(self.given.layout == "fixed")), 4),
                 ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", struct.pack("<Q", self.size), 6),
                 ("00112233-4455-6677-8899-AABBCCDDEEFF", b"of no account", 0),
                 ("BECA12AB-B2E6-4523-93EF-C309E000C746", self.chance.randbytes(16), 6),
                 ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", struct.pack("<I", 512), 6),
                 ("CDA348C7-445D-4471-9CC9-E9885251C556", struct.pack("<I", 4096), 6)]
        table, at = b"metadata" + struct.pack("<HH20x", 0, len(items)), 64 << 10
        for text, data, flags in items:
            table += id_bytes(text) + struct.pack("<IIII", at, len(data), flags, 0)
            self.put(region + at, data)
            at += 64
        self.put(region, table)

    def first_mib(self, metadata, table):
        """Sections 2.2.1 to 2.2.3: identifier, two headers, two region tables; the log stays empty, at 1 MiB."""
        self.put(0, b"vhdxfile" + "vhdx.py".encode("utf-16-le"))
        regions = [("8B7CA206-4790-4B9A-B8FE-575F050F886E", metadata, MIB, 1), ("2DC27766-F623-4200-9D64-115E9BFD4A08", table, self.table_bytes, 1)]
        entries = b"".join(id_bytes(text) + struct.pack("<QII", at, length, required) for text, at, length, required in regions)
        listed = summed((b"regi" + struct.pack("<III", 0, len(regions), 0) + entries).ljust(64 << 10, b"\0"))
        for number, place in enumerate((64 << 10, 128 << 10)):
            head = b"head" + struct.pack("<IQ", 0, 10 + number) + self.chance.randbytes(32) + bytes(16) + struct.pack("<HHIQ", 0, 1, MIB, MIB)
            self.put(place, summed(head.ljust(4096, b"\0")))
            self.put((192 << 10) + number * (64 << 10), listed)
        if self.given.layout == "copies":
            self.put((64 << 10) + 100, b"\1")
            self.put((192 << 10) + 60000, b"\1")


def make(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("image"), parser.add_argument("raw"), parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--block", type=int, default=32 * MIB), parser.add_argument("--layout", default="plain")
    parser.add_argument("--filled", type=float, default=0.5), parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    Maker(given.image, given.raw, given)


def main(words):
    if words[0] == "read":
        read(words[1], words[2])
    elif words[0] == "make":
        make(words[1:])
    elif words[0] == "dirty":
        dirty(words[1], words[2:])
    elif words[0] == "fields":
        head = header(File(words[1]))
        print(head["log"].hex(), head["sequence"])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
