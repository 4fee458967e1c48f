#!/usr/bin/env python3
"""A second opinion on VHD: a reader and a writer from the specification alone, standard library only.

vhd.py read IMAGE OUT.raw           writes the disk's bytes; exits 1 naming what is wrong
vhd.py make OUT.vhd OUT.raw --size BYTES [--block BYTES] [--layout plain|table-last|gaps|partial-bitmaps] [--filled PART] [--seed N]
                                    makes a dynamic image with blocks in random order, and what it must read as
"""
import argparse, random, struct, sys

FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBI I16sB427s")
HEADER = struct.Struct(">8sQQIIII16sI I512s 192s256s")
assert FOOTER.size == 512 and HEADER.size == 1024
ONES = 0xFFFFFFFFFFFFFFFF


def checksum(data, place):
    return ~(sum(data) - sum(data[place:place + 4])) & 0xFFFFFFFF


def sealed(data, place):
    return data[:place] + struct.pack(">I", checksum(data, place)) + data[place + 4:]


def bitmap_bytes(block):
    return max(512, (block // 512 // 8 + 511) // 512 * 512)


def parse_footer(data, where):
    (cookie, features, version, offset, _, creator, _, _, _, size, cyl, heads, spt, kind, total, uid, _, _) = FOOTER.unpack(data)
    if cookie != b"conectix":
        raise ValueError(f"{where}: no footer")
    if checksum(data, 64) != total:
        raise ValueError(f"{where}: footer checksum")
    if version != 0x10000:
        raise ValueError(f"{where}: version {version:#x}")
    by_geometry = creator in (b"vpc ", b"qemu") and cyl * heads * spt != 65535 * 16 * 255
    return kind, offset, cyl * heads * spt * 512 if by_geometry else size, uid


def read(path, out):
    data = open(path, "rb")
    data.seek(0, 2)
    length = data.tell()
    data.seek(length - 512)
    kind, offset, size, _ = parse_footer(data.read(512), "end")
    target = open(out, "wb")
    target.truncate(size)
    if kind == 2:
        if size != length - 512:
            raise ValueError("fixed size against file size")
        data.seek(0)
        for at in range(0, size, 1 << 20):
            chunk = data.read(min(1 << 20, size - at))
            if chunk.count(0) != len(chunk):
                target.seek(at)
                target.write(chunk)
        return
    if kind != 3:
        raise ValueError(f"type {kind}")
    data.seek(0)
    if data.read(512)[:64] != (data.seek(length - 512), data.read(512))[1][:64]:
        raise ValueError("copy and footer differ")
    data.seek(offset)
    raw = data.read(1024)
    cookie, _, table, version, entries, block, total = HEADER.unpack(raw)[:7]
    if cookie != b"cxsparse" or version != 0x10000 or checksum(raw, 36) != total:
        raise ValueError("dynamic header")
    data.seek(table)
    sectors = struct.unpack(f">{entries}I", data.read(4 * entries))
    taken = []
    for index, sector in enumerate(sectors):
        if sector == 0xFFFFFFFF:
            continue
        start, end = sector * 512, sector * 512 + bitmap_bytes(block) + block
        if end > length - 512:
            raise ValueError(f"block {index} ends at {end}, the footer begins at {length - 512}")
        taken.append((start, end))
        data.seek(start)
        bits = data.read(bitmap_bytes(block))
        body = bytearray(data.read(block))
        for number in range(block // 512):
            if not bits[number // 8] >> (7 - number % 8) & 1:
                body[number * 512:number * 512 + 512] = bytes(512)
        if index * block < size and any(body):
            target.seek(index * block)
            target.write(body[:size - index * block])
    taken.sort()
    if any(a[1] > b[0] for a, b in zip(taken, taken[1:])):
        raise ValueError("blocks overlap")


def make(path, raw, size, block, layout, seed, filled=0.6):
    chance = random.Random(seed)
    count = (size + block - 1) // block
    bitmap = bitmap_bytes(block)
    table_bytes = (count * 4 + 511) // 512 * 512
    at = 512 + 1024 + (0 if layout == "table-last" else table_bytes)
    header_at, table_at = 512, 1536
    sectors, out, flat = [0xFFFFFFFF] * count, open(path, "wb"), open(raw, "wb")
    flat.truncate(size)
    order = [index for index in range(count) if chance.random() < filled]
    chance.shuffle(order)
    for index in order:
        if layout == "gaps":
            at += 512 * chance.randrange(4)
        sectors[index] = at // 512
        bits, body = bytearray(bitmap), bytearray(block)
        for number in range(block // 512):
            if layout != "partial-bitmaps" or chance.random() < 0.5:
                bits[number // 8] |= 128 >> number % 8
                body[number * 512:number * 512 + 512] = chance.randbytes(512)
        out.seek(at)
        out.write(bits + body)
        flat.seek(index * block)
        flat.write(body[:size - index * block])
        at += bitmap + block
    if layout == "table-last":
        table_at, at = at, at + table_bytes
    out.seek(table_at)
    out.write(struct.pack(f">{count}I", *sectors).ljust(table_bytes, b"\xff"))
    footer = sealed(FOOTER.pack(b"conectix", 2, 0x10000, header_at, 0, b"tst ", 1, b"Wi2k", size, size, 1, 1, 1, 3, 0, bytes(range(16)), 0, bytes(427)), 64)
    header = sealed(HEADER.pack(b"cxsparse", ONES, table_at, 0x10000, count, block, 0, bytes(16), 0, 0, bytes(512), bytes(192), bytes(256)), 36)
    for place, data in ((0, footer), (header_at, header), (at + (1024 if layout == "gaps" else 0), footer)):
        out.seek(place)
        out.write(data)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    reader = verbs.add_parser("read")
    reader.add_argument("image"), reader.add_argument("out")
    maker = verbs.add_parser("make")
    maker.add_argument("image"), maker.add_argument("out")
    maker.add_argument("--size", type=int, required=True), maker.add_argument("--block", type=int, default=2 << 20)
    maker.add_argument("--layout", default="plain"), maker.add_argument("--filled", type=float, default=0.6), maker.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        if given.verb == "read":
            read(given.image, given.out)
        else:
            make(given.image, given.out, given.size, given.block, given.layout, given.seed, given.filled)
    except (ValueError, struct.error) as error:
        sys.exit(f"vhd.py: {given.image}: {error}")


if __name__ == "__main__":
    main()
