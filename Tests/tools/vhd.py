#!/usr/bin/env python3
"""A second opinion on VHD: a reader and a writer from the specification alone, standard library only.

vhd.py read IMAGE OUT.raw           writes the disk's bytes, parents included; exits 1 naming what is wrong
vhd.py make OUT.vhd OUT.raw --size BYTES [--block BYTES] [--layout plain|table-last|gaps|partial-bitmaps|fixed] [--filled PART]
                                    makes an image with blocks in random order, and what it must read as
vhd.py child OUT.vhd OUT.raw --parent PARENT.vhd [--size BYTES] [--block BYTES] [--layout plain|table-last|batmap] [--filled PART]
                            [--locators CODE=TEXT,...] [--name TEXT] [--link-id HEX] [--link-time SECONDS|file|footer] [--space sectors|bytes]
                            [--presence partly|whole]
                                    makes a differencing image over PARENT: blocks partly present, and what the chain must read as
                            (OUT.raw of - leaves that out)
All of them: [--seed N] [--creator APP] [--creator-version N] [--id HEX] [--time SECONDS]
"""
import argparse, os, random, struct, sys, tempfile

FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBI I16sB427s")
HEADER = struct.Struct(">8sQQIIII16sI I512s 192s256s")
LOCATOR = struct.Struct(">4sIIIQ")
BATMAP = struct.Struct(">8sQIII")
assert FOOTER.size == 512 and HEADER.size == 1024 and LOCATOR.size == 24
ONES = 0xFFFFFFFFFFFFFFFF
FREE = 0xFFFFFFFF
EPOCH = 946684800
CREATORS = {"win": b"win ", "vs": b"vs  ", "vpc": b"vpc ", "qemu": b"qemu", "qem2": b"qem2", "vbox": b"vbox", "d2v": b"d2v\0",
            "tap": b"tap\0", "CTXS": b"CTXS", "tst": b"tst "}


def checksum(data, place):
    return ~(sum(data) - sum(data[place:place + 4])) & 0xFFFFFFFF


def sealed(data, place):
    return data[:place] + struct.pack(">I", checksum(data, place)) + data[place + 4:]


def padded(count):
    return (count + 511) // 512 * 512


def bitmap_bytes(block):
    return max(512, padded(block // 512 // 8))


def geometry(size):
    """The appendix: CHS Calculation."""
    total = min(size // 512, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    spt, tracks = 17, total // 17
    heads = max((tracks + 1023) // 1024, 4)
    if tracks >= heads * 1024 or heads > 16:
        spt, heads, tracks = 31, 16, total // 31
    if tracks >= heads * 1024:
        spt, heads, tracks = 63, 16, total // 63
    return tracks // heads, heads, spt


def shown_size(creator, size, chs):
    by_geometry = creator in (b"vpc ", b"qemu") and chs[0] * chs[1] * chs[2] != 65535 * 16 * 255
    return chs[0] * chs[1] * chs[2] * 512 if by_geometry else size


class Image:
    """One file of a chain, opened and checked; `parent` is another, or None."""

    def __init__(self, path, depth=0):
        self.path, self.file, self.parent = path, open(path, "rb"), None
        self.length = self.file.seek(0, 2)
        self.footer(self.at(self.length - 512, 512), "end")
        if self.kind == 2:
            if self.total != self.length - 512:
                raise ValueError("fixed size against file size")
            return
        if self.kind not in (3, 4):
            raise ValueError(f"type {self.kind}")
        if self.at(0, 512)[:64] != self.at(self.length - 512, 512)[:64]:
            raise ValueError("copy and footer differ")
        self.header()
        if self.kind == 4:
            if depth > 100:
                raise ValueError("endless chain")
            self.find_parent(depth)

    def at(self, offset, count):
        self.file.seek(offset)
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError(f"{self.path}: {count} bytes at {offset} are not there")
        return data

    def footer(self, data, where):
        (cookie, _, version, self.header_at, self.time, creator, _, _, _, self.total, cyl, heads, spt, self.kind, summed, self.uid, _, _) = FOOTER.unpack(data)
        if cookie != b"conectix":
            raise ValueError(f"{where}: no footer")
        if checksum(data, 64) != summed:
            raise ValueError(f"{where}: footer checksum")
        if version != 0x10000:
            raise ValueError(f"{where}: version {version:#x}")
        self.size = shown_size(creator, self.total, (cyl, heads, spt))

    def header(self):
        raw = self.at(self.header_at, 1024)
        cookie, _, table, version, entries, self.block, summed, self.parent_uid, self.parent_time, _, name, locators, _ = HEADER.unpack(raw)
        if cookie != b"cxsparse" or version != 0x10000 or checksum(raw, 36) != summed:
            raise ValueError("dynamic header")
        self.parent_name = name.decode("utf-16-be").split("\0")[0]
        self.locators = [LOCATOR.unpack(locators[n * 24:n * 24 + 24]) for n in range(8)]
        self.sectors = struct.unpack(f">{entries}I", self.at(table, 4 * entries))
        taken = []
        for index, sector in enumerate(self.sectors):
            if sector != FREE:
                start, end = sector * 512, sector * 512 + bitmap_bytes(self.block) + self.block
                if end > self.length - 512:
                    raise ValueError(f"block {index} ends at {end}, the footer begins at {self.length - 512}")
                taken.append((start, end))
        taken.sort()
        if any(a[1] > b[0] for a, b in zip(taken, taken[1:])):
            raise ValueError("blocks overlap")

    def find_parent(self, depth):
        texts = {}
        for code, space, length, _, offset in self.locators:
            if code in (b"W2ru", b"W2ku"):
                texts[code] = self.at(offset, length).decode("utf-16-le").split("\0")[0].replace("\\", "/")
        names = [texts.get(b"W2ru"), texts.get(b"W2ku")]
        names += [name.split("/")[-1] for name in names + [self.parent_name.replace("\\", "/")] if name]
        folder = os.path.dirname(os.path.abspath(self.path))
        for name in names:
            path = os.path.join(folder, name) if name else ""
            if os.path.isfile(path):
                found = Image(path, depth + 1)
                if found.uid == self.parent_uid:
                    self.parent = found
                    return
        raise ValueError(f"{self.path}: no parent among {names}")

    def sector_run(self, start, end):
        """Bytes of the disk's sectors start..<end, with zeros behind the end."""
        out = bytearray()
        for sector in range(start, end):
            out += self.sector(sector)
        return bytes(out)

    def sector(self, number):
        if (number + 1) * 512 > self.size:
            return bytes(512)
        if self.kind == 2:
            return self.at(number * 512, 512)
        index, inside = number * 512 // self.block, number * 512 % self.block // 512
        place = self.sectors[index]
        if place != FREE:
            bits = self.bitmap(index)
            if bits[inside // 8] >> (7 - inside % 8) & 1:
                return self.at(place * 512 + bitmap_bytes(self.block) + inside * 512, 512)
        return self.parent.sector(number) if self.parent else bytes(512)

    def bitmap(self, index):
        if getattr(self, "cached", (None, None))[0] != index:
            self.cached = (index, self.at(self.sectors[index] * 512, bitmap_bytes(self.block)))
        return self.cached[1]

    def copy(self, out):
        """Everything, block by block; much faster than sector by sector where whole blocks are missing."""
        with open(out, "wb") as target:
            target.truncate(self.size)
            for start in range(0, self.size, 1 << 20):
                data = self.read(start, min(1 << 20, self.size - start))
                if data.count(0) != len(data):
                    target.seek(start)
                    target.write(data)

    def read(self, start, count):
        if start >= self.size:
            return bytes(count)
        if start + count > self.size:
            return self.read(start, self.size - start) + bytes(start + count - self.size)
        if self.kind == 2:
            return self.at(start, count)
        out, position = [], start
        while position < start + count:
            index = position // self.block
            end = min(start + count, (index + 1) * self.block)
            if self.sectors[index] == FREE:
                out.append(self.parent.read(position, end - position) if self.parent else bytes(end - position))
            else:
                out.append(self.sector_run(position // 512, end // 512))
            position = end
        return b"".join(out)


class Writer:
    """Lays out a dynamic or differencing image: structures first or the table last, blocks in random order."""

    def __init__(self, path, given, kind, size, extra_structures=()):
        self.out, self.given, self.kind, self.size, self.block = open(path, "wb"), given, kind, size, given.block
        self.count = (size + self.block - 1) // self.block
        self.sectors, self.full = [FREE] * self.count, set()
        self.header_at, self.table_at, table = 512, 1536, padded(self.count * 4)
        self.place = 1536 + (0 if given.layout == "table-last" else table)
        self.creator = CREATORS[given.creator]
        if given.layout == "batmap":
            self.batmap_at = self.place
            self.place += 512 + padded((self.count + 7) // 8)

    def put(self, data):
        at = self.place
        self.out.seek(at)
        self.out.write(data)
        self.place += len(data)
        return at

    def add(self, index, bits, body):
        self.sectors[index] = self.put(bytes(bits) + bytes(body)) // 512

    def finish(self, uid, time, parent=None):
        """`parent`: unique id, time, name, locators."""
        if self.given.layout == "table-last":
            self.table_at = self.put(bytes(padded(self.count * 4)))
        self.out.seek(self.table_at)
        self.out.write(struct.pack(f">{self.count}I", *self.sectors).ljust(padded(self.count * 4), b"\xff"))
        if self.given.layout == "batmap":
            bits = bytearray(padded((self.count + 7) // 8))
            for index in self.full:
                bits[index // 8] |= 128 >> index % 8
            self.out.seek(self.batmap_at)
            self.out.write(BATMAP.pack(b"tdbatmap", self.batmap_at + 512, len(bits) // 512, 0x10002, ~sum(bits) & 0xFFFFFFFF).ljust(512, b"\0") + bits)
        puid, ptime, name, locators = parent or (bytes(16), 0, b"", b"")
        footer = make_footer(self.creator, self.given.creator_version, self.kind, self.size, uid, time, self.header_at)
        header = sealed(HEADER.pack(b"cxsparse", ONES, self.table_at, 0x10000, self.count, self.block, 0, puid, ptime, 0, name, locators, bytes(256)), 36)
        gap = 1024 if self.given.layout == "gaps" else 0
        for place, data in ((0, footer), (self.header_at, header), (self.place + gap, footer)):
            self.out.seek(place)
            self.out.write(data)
        self.out.close()


def make_footer(creator, version, kind, size, uid, time, header_at):
    chs = geometry(size)
    return sealed(FOOTER.pack(b"conectix", 2, 0x10000, header_at, time, creator, version, b"Wi2k", size, size, *chs, kind, 0, uid, 0, bytes(427)), 64)


def content_file(out):
    """What the disk holds, for who compares; `-`: for nobody."""
    return tempfile.TemporaryFile() if out == "-" else open(out, "wb")


def make(given):
    chance, size, block = random.Random(given.seed), given.size, given.block
    uid = bytes.fromhex(given.id)
    if given.layout == "fixed":
        with open(given.image, "wb") as out, content_file(given.out) as flat:
            flat.truncate(size)
            for start in range(0, size, 65536):
                if chance.random() < given.filled:
                    body = chance.randbytes(min(65536, size - start))
                    for file in (out, flat):
                        file.seek(start)
                        file.write(body)
            out.seek(size)
            out.write(make_footer(CREATORS[given.creator], given.creator_version, 2, size, uid, given.time, ONES))
        return
    writer, flat = Writer(given.image, given, 3, size), content_file(given.out)
    flat.truncate(size)
    order = [index for index in range(writer.count) if chance.random() < given.filled]
    chance.shuffle(order)
    for index in order:
        if given.layout == "gaps":
            writer.place += 512 * chance.randrange(4)
        bits, body = bytearray(bitmap_bytes(block)), bytearray(block)
        for number in range(block // 512):
            if given.layout != "partial-bitmaps" or chance.random() < 0.5:
                bits[number // 8] |= 128 >> number % 8
                body[number * 512:number * 512 + 512] = chance.randbytes(512)
        writer.add(index, bits, body)
        if given.layout != "partial-bitmaps":
            writer.full.add(index)
        flat.seek(index * block)
        flat.write(body[:size - index * block])
    flat.truncate(shown_size(writer.creator, size, geometry(size)))
    writer.finish(uid, given.time)


def child(given):
    """Blocks that are missing, full, partly present in runs, and present but with garbage where they are not."""
    chance, parent = random.Random(given.seed), Image(given.parent)
    size = given.size or parent.total
    writer = Writer(given.image, given, 4, size)
    locators = bytearray()
    default = f"W2ru=.\\{os.path.relpath(given.parent, os.path.dirname(os.path.abspath(given.image))).replace('/', chr(92))}"
    for entry in (given.locators if given.locators is not None else default).split(","):
        if entry:
            code, text = entry.split("=", 1)
            data = text.encode("utf-8" if code == "MacX" else "utf-16-le")
            room = padded(len(data))
            at = writer.put(data.ljust(room, b"\0"))
            locators += LOCATOR.pack(code.encode(), room // 512 if given.space == "sectors" else room, len(data), 0, at)
    shown = shown_size(writer.creator, size, geometry(size))
    with open("/dev/null" if given.out == "-" else given.out, "wb") as flat:
        for start in range(0, 0 if given.out == "-" else shown, 1 << 20):
            flat.seek(start)
            flat.write(parent.read(start, min(1 << 20, shown - start)))
        order = [index for index in range(writer.count) if chance.random() < given.filled]
        chance.shuffle(order)
        for index in order:
            add_partly(writer, index, chance, flat, shown)
    time = {"footer": parent.time, "file": int(os.stat(given.parent).st_mtime) - EPOCH}.get(given.link_time)
    name = (os.path.basename(given.parent) if given.name is None else given.name).encode("utf-16-be")
    uid = bytes.fromhex(given.link_id) if given.link_id else parent.uid
    writer.finish(bytes.fromhex(given.id), given.time, (uid, int(given.link_time) if time is None else time, name, bytes(locators)))


def add_partly(writer, index, chance, flat, shown):
    block, kind = writer.block, chance.choice(["full", "runs", "runs", "single", "none"] if writer.given.presence == "partly" else ["full"])
    bits, body, sectors = bytearray(bitmap_bytes(block)), bytearray(chance.randbytes(512) * (block // 512)), block // 512
    chosen = set()
    if kind == "full":
        chosen = set(range(sectors))
        writer.full.add(index)
    elif kind == "single":
        chosen = {chance.randrange(sectors)}
    elif kind == "runs":
        for _ in range(chance.randrange(1, 9)):
            start = chance.randrange(sectors)
            chosen |= set(range(start, min(sectors, start + chance.choice([1, 2, 7, 8, 64, 65, sectors // 3 + 1]))))
    fill = chance.randbytes(509)
    for number in chosen:
        bits[number // 8] |= 128 >> number % 8
        data = (struct.pack(">HI", index & 0xFFFF, number) + fill)[:512] if chance.random() < 0.9 else bytes(512)
        data = data.ljust(512, b"\1") if any(data) else data
        body[number * 512:number * 512 + 512] = data
        place = index * block + number * 512
        if place + 512 <= shown:
            flat.seek(place)
            flat.write(data)
    writer.add(index, bits, body)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    reader = verbs.add_parser("read")
    reader.add_argument("image"), reader.add_argument("out")
    for verb in ("make", "child"):
        maker = verbs.add_parser(verb)
        maker.add_argument("image"), maker.add_argument("out")
        maker.add_argument("--size", type=int, required=verb == "make"), maker.add_argument("--block", type=int, default=2 << 20)
        maker.add_argument("--layout", default="plain"), maker.add_argument("--filled", type=float, default=0.6)
        maker.add_argument("--seed", type=int, default=1), maker.add_argument("--creator", default="tst")
        maker.add_argument("--creator-version", type=int, default=0x10003), maker.add_argument("--id", default=bytes(range(16)).hex())
        maker.add_argument("--time", type=int, default=0)
        if verb == "child":
            maker.add_argument("--parent", required=True), maker.add_argument("--locators"), maker.add_argument("--name")
            maker.add_argument("--link-id"), maker.add_argument("--link-time", default="file"), maker.add_argument("--space", default="sectors")
            maker.add_argument("--presence", default="partly")
    given = parser.parse_args()
    try:
        if given.verb == "read":
            Image(given.image).copy(given.out)
        else:
            {"make": make, "child": child}[given.verb](given)
    except (ValueError, struct.error, OSError) as error:
        sys.exit(f"vhd.py: {given.image}: {error}")


if __name__ == "__main__":
    main()
