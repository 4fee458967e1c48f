"""Initial replication of a 4 GiB image with 1 GiB of data into Ceph RGW, killed three times: no chunk whose PUT was
answered is sent again; then deltas, and everything back from the bucket alone. A dropped write is caught."""
# Promise F5: An interrupted initial replication sends no chunk again whose PUT was answered.
# Promise F3: A local segment is let go only after the vault's copy of it was verified, or a merged one holds what is newest of it, or its disk
# was marked for resynchronisation and the image holds it.
# Promise P2: A point is listed in a vault only when everything it needs was verified there.
import collections
import hashlib
import os
import signal
import time

from scenario import GIB, MIB, Failed, Scenario, check, requires
import objects
from proxy import Proxy

requires("ceph-mon", "ceph-osd", "radosgw")

with Scenario(seed=11) as s:
    host, port, bucket, credentials = objects.start(s, "ceph-rgw")
    proxy = Proxy(host, port)
    s.at_end(proxy.stop)
    os.environ.update(credentials)
    url = s.make_vault(objects.location(bucket, proxy.port, "main"))
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(4 * GIB)
        for number in range(1024):
            file.seek(s.random.randrange(4096) * MIB)
            # A quarter of the data twice (duplicates are sent once); half of each chunk compresses.
            seed = number % 768
            file.write(hashlib.shake_256(seed.to_bytes(4, "little")).digest(MIB // 2) + bytes([seed % 251]) * (MIB // 2))
    s.farshore("protect", image, "--name", "d", "--vault", url, "--key-file", s.key())

    def chunk_puts():
        return collections.Counter(path.split("?")[0] for method, path, status, _ in list(proxy.requests) if method == "PUT" and "/chunks/" in path and status == 200)

    for interruption in range(3):
        before = sum(chunk_puts().values())
        process = s.start("upload", "--once")
        deadline = time.monotonic() + 120
        while sum(chunk_puts().values()) < before + 60:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"upload ended early: {process.poll()} {open(process.log).read()}")
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    began = time.monotonic()
    s.farshore("upload", "--once", timeout=600)
    puts = chunk_puts()
    twice = {path: count for path, count in puts.items() if count > 1}
    check(not twice, f"{len(twice)} chunks were sent again after their PUT was answered: {list(twice.items())[:3]}")
    print(f"{len(puts)} chunks stored, none twice, last leg {time.monotonic() - began:.1f} s")

    # Idle: another round makes no LIST and next to no requests.
    mark = len(proxy.requests)
    s.farshore("upload", "--once")
    idle = proxy.requests[mark:]
    check(not [r for r in idle if "list-type" in r[1]], "steady state must not LIST")
    print(f"an idle round costs {len(idle)} requests")

    # A delta, then all of it back on a fresh site.
    process, mnt = s.mount()
    served = os.path.join(mnt, "d", "disk.raw")
    fd = os.open(served, os.O_RDWR)
    for _ in range(2000):
        os.pwrite(fd, s.random.randbytes(4096), s.random.randrange(GIB // 4096) * 4096)
    os.fsync(fd)
    os.close(fd)
    s.farshore("point", "cut", "d", "--tag", "after")
    s.farshore("upload", "--once")
    with open(served, "rb") as file:
        want = hashlib.file_digest(file, "sha256").hexdigest()

    # From here the target acknowledges segments and stores nothing: that must be seen, and nothing local let go.
    fd = os.open(served, os.O_RDWR)
    late = s.random.randbytes(64 * 4096)
    os.pwrite(fd, late, 0)
    os.fsync(fd)
    os.close(fd)
    proxy.fault = lambda method, path: "drop" if method == "PUT" and "/segments/" in path else None
    done = s.farshore("upload", "--once", ok=False)
    check(done.returncode not in (0, 2), "a dropped segment was taken for stored")
    print("dropped PUT:", done.stderr.strip().splitlines()[0])
    proxy.fault = None
    s.farshore("upload", "--once")

    # Points go, one of them is pinned, and a collection lists and deletes in the bucket; what is left restores below.
    s.farshore("point", "pin", "d/after", "--name", "kept")
    s.farshore("policy", "edit", "default", "--retention", "all:1s,2s:1h")
    for round in range(4):
        with open(served, "r+b", buffering=0) as file:
            file.seek(round * MIB)
            file.write(s.random.randbytes(MIB))
            os.fsync(file.fileno())
        s.farshore("point", "cut", "d")
        time.sleep(2.1)
        s.farshore("upload", "--once")
    collect = ["vault", "collect", url, "--key-file", s.key()]
    first = s.farshore_json(*collect, site=s.path("collector"))
    s.farshore("upload", "--once")
    second = s.farshore_json(*collect, site=s.path("collector"))
    check(first["condemnedObjects"] > 0 and second["deletedObjects"] == first["condemnedObjects"], f"collected {first}, then {second}")
    listed = s.farshore_json("point", "list", "d", "--vault", url, "--key-file", s.key())
    check([point.get("tag") for point in listed if "pins" in point] == ["after"], f"listed {listed}")
    print(f"{len(listed)} points left; {second['deletedObjects']} objects deleted from the bucket")
    with open(served, "rb") as file:
        newest = hashlib.file_digest(file, "sha256").hexdigest()
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    os.unlink(image)
    for at, digest in {"after": want, "latest": newest}.items():
        out = s.path("restored.raw")
        s.farshore("restore", "d", "--vault", url, "--key-file", s.key(), "--at", at, "--to", out, site=s.path("other"), timeout=600)
        with open(out, "rb") as file:
            check(hashlib.file_digest(file, "sha256").hexdigest() == digest, f"the disk restored at {at} differs")
        os.unlink(out)
    print("restored from the bucket alone: equal")
