"""The restore script alone rebuilds every point of a vault, encrypted and not: points since the last map and from before it, kept ones below the window,
those around a resynchronisation, and those of before and after the disk grew, also of a vault that keeps its chunks at a second place. What it cannot do it says in one line: a wrong key, no key, half a
recovery kit, a damaged or missing object; and no half of an image is left under the name asked for."""
import hashlib
import os
import sys
import time

from scenario import KIB, MIB, ROOT, Scenario, check, requires, run

requires("zstd")
SCRIPT = os.path.join(ROOT, "examples/restore-without-farshore/restore.py")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def script(*words):
    """Without anything of Farshore: an empty environment but for the path."""
    return run(sys.executable, "-I", SCRIPT, *words, ok=False, env={"PATH": os.environ["PATH"]})


def refused(words, *expected):
    done = script(*words)
    lines = done.stderr.strip().splitlines()
    check(done.returncode != 0 and len(lines) == 1 and any(word in lines[0] for word in expected), f"{words}: {done.returncode} {done.stderr}")
    return lines[0]


def every_point(s, name, url, key, folder, apart=()):
    """Lives of a disk; every point of it afterwards, by the script."""
    image = s.path(name + ".img")
    with open(image, "wb") as file:
        file.write(s.random.randbytes(MIB))
        file.truncate(5 * MIB)
    s.farshore("policy", "create", name, "--interval", "1h", "--point-every", "1h", "--retention", "forever")
    s.farshore("protect", image, "--name", name, "--vault", url, *key, "--policy", name)
    process, mnt = s.mount(s.path("mnt-" + name), served=name)
    served, held = os.path.join(mnt, name, "disk.raw"), {}

    def write_and_cut(count):
        for _ in range(count):
            with open(served, "r+b", buffering=0) as file:
                for _ in range(5):
                    file.seek(s.random.randrange(os.path.getsize(served) // 4096) * 4096)
                    file.write(s.random.randbytes(4096) if s.random.random() < 0.7 else bytes(4096))
                os.fsync(file.fileno())
            held[s.farshore_json("point", "cut", name)[0]["sequence"]] = digest(served)
            s.farshore("upload", "--once")
            # Points spread over several of the slots that thinning keeps one of, however fast the machine is.
            time.sleep(0.5)

    s.farshore("upload", "--once")
    began = time.monotonic()
    write_and_cut(5)
    # A slot of the thinning has more than one point, however slow the machine is.
    slot = max(2, round((time.monotonic() - began) / 2))
    s.farshore("grow", name, str(8 * MIB))
    write_and_cut(3)
    # The history is interrupted: of what follows the last point only the end is known.
    s.farshore("resync", name, "--now")
    write_and_cut(2)
    s.farshore("policy", "edit", name, "--retention", f"all:1s,{slot}s:1h")
    write_and_cut(2)
    time.sleep(slot + 0.2)
    write_and_cut(3)
    listed = [point["sequence"] for point in s.farshore_json("point", "list", name, "--vault", url, *key)]
    told = [int(line.split()[0][1:]) for line in script(folder, name, "--list", *key, *apart).stdout.splitlines()]
    check(told == listed, f"{name}: the script lists {told}, farshore {listed}")
    known = [sequence for sequence in listed if sequence in held]
    check(len(known) >= 4 and len(known) < len(held), f"{name}: retention left {len(known)} of {len(held)} points")
    out = s.path("out.raw")
    for sequence in listed:
        done = script(folder, name, out, "--at", f"#{sequence}", *key, *apart)
        check(done.returncode == 0, f"{name} at #{sequence}: {done.stderr}")
        if sequence in held:
            check(digest(out) == held[sequence], f"{name}: #{sequence} differs from what the disk held")
        s.farshore("restore", name, "--vault", url, *key, "--at", f"#{sequence}", "--to", s.path("by-farshore.raw"), "--force")
        check(digest(out) == digest(s.path("by-farshore.raw")), f"{name}: #{sequence} differs from what farshore restores")
    sizes = {os.path.getsize(out)}
    script(folder, name, out, "--at", f"#{listed[0]}", *key, *apart)
    sizes.add(os.path.getsize(out))
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    print(f"{name}: each of {len(listed)} points, {len(known)} of them compared with the disk itself, sizes {sorted(size // KIB for size in sizes)} KiB")


with Scenario(seed=61) as s:
    url, key = s.make_vault(), ["--key-file", s.key()]
    plain = s.make_vault("file://" + s.path("plain"), "--no-encryption")
    every_point(s, "sealed", url, key, s.path("vault"))
    every_point(s, "open", plain, [], s.path("plain"))
    bulk = s.path("bulk")
    s.farshore("vault", "create", "file://" + s.path("logs"), "--chunks-at", "file://" + bulk, *key)
    every_point(s, "apart", f"file://{s.path('logs')}?chunks=file://{bulk}", key, s.path("logs"), ["--chunks", bulk])
    check(os.listdir(bulk) == ["chunks"] and not os.path.exists(s.path("logs/chunks")), "chunks and the rest are not apart")
    refused([s.path("logs"), "apart", s.path("none.raw"), *key], "--chunks")
    refused([s.path("vault"), "sealed", s.path("none.raw"), *key, "--chunks", bulk], "leave out --chunks")

    out, folder = s.path("never.raw"), s.path("vault")

    def key_file(name, content):
        with open(s.path(name), "wb") as file:
            file.write(content)
        return ["--key-file", s.path(name)]

    for words in [key_file("wrong", bytes(32)), key_file("short", b"abc"), key_file("binary", bytes(range(200))), key_file("empty", b""), key_file("hex", b"zz" * 32),
                  key_file("kit", b"vault: x\nid-key: 12\n"), []]:
        refused([folder, "sealed", out, *words], "wrong key")
    refused([folder, "sealed", out, "--passphrase-file", s.path("wrong")], "wrong key")
    refused([folder, "sealed", out, "--key-file", s.path("not-there")], "not-there")
    refused([s.path("plain"), "open", out, *key], "not encrypted")
    refused([s.path("nowhere"), "sealed", out, *key], "farshore.json is missing")
    refused([folder, "nobody", out, *key], "no disk nobody")
    refused([folder, "sealed", out, "--at", "no-such-tag", *key], "no point no-such-tag")
    refused([folder, "sealed", out, "--at", "#999999999", *key], "the vault has")

    # Each object that the newest state needs, damaged in one bit, cut short, emptied, gone: named, or not needed after all.
    named = 0
    for key_words, place, disk in [(key, folder, "sealed"), ([], s.path("plain"), "open")]:
        objects = sorted(os.path.join(base, name) for base, _, names in os.walk(place) for name in names)
        needed = [max(path for path in objects if f"/{kind}/" in path) for kind in ["catalog", "heads", "maps"]] + [os.path.join(place, "farshore.json")]
        for path in s.random.sample(objects, 4) + needed:
            with open(path, "rb") as file:
                sound = file.read()
            bit = s.random.randrange(len(sound) * 8)
            flipped = bytearray(sound)
            flipped[bit // 8] ^= 1 << bit % 8
            for content in [bytes(flipped), sound[:len(sound) // 2], b"", None]:
                os.unlink(path)
                if content is not None:
                    with open(path, "wb") as file:
                        file.write(content)
                done = script(place, disk, out, *key_words)
                lines = done.stderr.strip().splitlines()
                check("Traceback" not in done.stderr and len(lines) <= 1, f"{path}: {done.stderr}")
                check(done.returncode == 0 or (lines and not os.path.exists(out)), f"{path}: {done.returncode} and an image")
                named += done.returncode != 0
                if os.path.exists(out):
                    os.unlink(out)
            with open(path, "wb") as file:
                file.write(sound)
    check(named >= 18 and not os.path.exists(out + ".partial"), f"only {named} damages were met")
    print(f"wrong keys, missing files and {named} damaged objects: one line each, no image")
