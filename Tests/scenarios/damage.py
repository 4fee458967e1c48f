"""One flipped bit in each object of a small vault, encrypted and not: `vault check --read-data` names it; data gives EIO
for its range and right bytes elsewhere, metadata is refused by name. Objects swapped between places are refused."""
import os
import shutil

from scenario import KIB, MIB, Scenario, check

SIZE = 6 * MIB

with Scenario(seed=13) as s:
    for word, options in {"encrypted": ["--key-file", s.key()], "plain": ["--no-encryption"]}.items():
        vault = s.path("vault-" + word)
        url = s.make_vault("file://" + vault, *options)
        key = options if word == "encrypted" else []
        site = s.path("site-" + word)
        image = s.path(word + ".img")
        with open(image, "wb") as file:
            file.write(s.random.randbytes(3 * MIB))
            file.truncate(SIZE)
        s.farshore("protect", image, "--name", "d", "--vault", url, *key, site=site)
        s.farshore("upload", "--once", site=site)
        process, mnt = s.mount(s.path("mnt-" + word), site=site)
        fd = os.open(os.path.join(mnt, "d", "disk.raw"), os.O_RDWR)
        for number in range(2):
            for _ in range(20):
                os.pwrite(fd, s.random.randbytes(8 * KIB), s.random.randrange(SIZE // (8 * KIB)) * 8 * KIB)
            s.farshore("point", "cut", "d", "--tag", f"t{number}", site=site)
            s.farshore("upload", "--once", site=site)
        want = os.pread(fd, SIZE, 0)
        os.close(fd)
        check(s.stop(process) == 0, "the mount did not stop cleanly")

        names = sorted(os.path.relpath(os.path.join(folder, name), vault) for folder, _, files in os.walk(vault) for name in files)
        kinds = {}
        for number, name in enumerate(names):
            path, kind = os.path.join(vault, name), name.split("/")[0] + ("/" + name.split("/")[3] if name.startswith("disks/") else "")
            with open(path, "rb") as file:
                good = file.read()
            bad = bytearray(good)
            bit = s.random.randrange(len(bad) * 8)
            bad[bit // 8] ^= 1 << bit % 8
            os.chmod(path, 0o600)
            with open(path, "wb") as file:
                file.write(bad)
            done = s.farshore("vault", "check", url, *key, "--read-data", ok=False, site=s.path("fresh"))
            base = os.path.basename(name).split(".")[0]
            check(done.returncode != 0, f"{word}: a flipped bit in {name} (bit {bit}) was not found")
            check(base in done.stdout + done.stderr, f"{word}: {name} is not named: {done.stdout}{done.stderr}")
            # Reading through a mount: never wrong bytes.
            out = s.path("out.raw")
            done = s.farshore("restore", "d", "--vault", url, *key, "--at", "latest", "--to", out, ok=False, site=s.path(f"fresh-{word}-{number}"))
            if done.returncode == 0:
                with open(out, "rb") as file:
                    check(file.read() == want, f"{word}: restored wrong bytes past a flipped bit in {name}")
            else:
                check("Try:" in done.stderr, f"{word}: no remedy is given for {name}")
            for leftover in [n for n in os.listdir(s.dir) if n.startswith("out.raw")]:
                os.unlink(s.path(leftover))
            if kind == "chunks" and done.returncode != 0:
                points = s.path("points")
                mounted = s.mount_points(points, "--vault", url, *key, "--disk", "d", site=s.path("fresh"))
                fd = os.open(os.path.join(points, "d", "latest", "disk.raw"), os.O_RDONLY)
                errors = 0
                for offset in range(0, SIZE, 64 * KIB):
                    try:
                        check(os.pread(fd, 64 * KIB, offset) == want[offset:offset + 64 * KIB], f"wrong bytes at {offset}")
                    except OSError:
                        errors += 1
                os.close(fd)
                check(s.stop(mounted) == 0, "the point mount did not stop cleanly")
                check(errors > 0, f"{word}: the damaged chunk {name} read without an error")
                check(errors <= 16, f"{word}: one damaged chunk spoiled {errors} ranges of 64 KiB")
            with open(path, "wb") as file:
                file.write(good)
            kinds[kind] = kinds.get(kind, 0) + 1
        # Objects of one kind swapped with each other.
        swaps = 0
        for kind in ["chunks/", "maps/", "heads/", "catalog/", "/segments/", "/manifests/"]:
            of_kind = [n for n in names if kind in n]
            if len(of_kind) < 2:
                continue
            a, b = os.path.join(vault, of_kind[0]), os.path.join(vault, of_kind[-1])
            for _ in range(2):
                os.rename(a, a + ".x"), os.rename(b, a), os.rename(a + ".x", b)
                if _ == 0:
                    done = s.farshore("vault", "check", url, *key, "--read-data", ok=False, site=s.path("fresh"))
                    check(done.returncode != 0, f"{word}: swapped {kind} objects were not found")
                    swaps += 1
        done = s.farshore("vault", "check", url, *key, "--read-data", site=s.path("fresh"))
        print(f"{word}: a flipped bit found in each of {sum(kinds.values())} objects {kinds}; {swaps} swaps refused; whole again: clean")
    # The wrong key is a wrong key, not damage.
    wrong = s.path("wrong.key")
    with open(wrong, "w") as file:
        file.write(s.random.randbytes(32).hex() + "\n")
    s.farshore("point", "list", "d", "--vault", "file://" + s.path("vault-encrypted"), "--key-file", wrong, site=s.path("fresh2"), status=5)
    print("wrong key: exit 5")
