"""Every fault of an S3 target that lies below the contract of stores, one after another, between the uploader and a real server: while
one is on the uploader runs, and is killed in half of the runs; once it is over one more upload brings everything, and in the end every
point restores to the byte.

Promise F3: A local segment is let go only after the vault's copy of it was verified.
"""
import hashlib
import itertools
import os
import random
import signal

from scenario import MIB, SCALE, Scenario, check, requires
import objects
from proxy import Proxy

requires("moto_server")


def xml(code):
    return f"<Error><Code>{code}</Code><Message>as asked for</Message></Error>".encode()


# Name: methods that are struck, what the proxy does, and the statuses an upload may end with meanwhile.
ALL, READ = "GET HEAD PUT POST DELETE", "GET"
PASSING, MENDED = {0, 1, 3, 6, 8}, {0, 1, 3, 4, 6}
FAULTS = {
    "500": (ALL, 500, PASSING),
    "503 SlowDown, Retry-After": (ALL, (503, [("Retry-After", "1")], xml("SlowDown")), PASSING),
    "connection closed": (ALL, "reset", PASSING),
    "answer lost": (ALL, "lost", PASSING),
    "answer cut": (READ, "cut", PASSING),
    "answer short, its length right": (READ, "short", PASSING),
    "wrong bytes": (READ, "wrong", PASSING),
    "empty body": (READ, (200, [], b""), PASSING),
    "200 with an error in it": (READ, (200, [], xml("InternalError")), PASSING),
    "no XML": (ALL, (500, [], b"<html>nginx</html>"), PASSING),
    "acknowledged, not stored": ("PUT", "drop", PASSING),
    "another ETag": ("HEAD", "etag", PASSING),
    "half of the size": ("HEAD", "length", PASSING),
    "412 for one's own object": ("PUT", "taken", PASSING),
    "409": ("PUT", (409, [], xml("ConditionalRequestConflict")), PASSING),
    "quota": ("PUT", (507, [], xml("QuotaExceeded")), PASSING),
    "no such key, though it is there": ("GET HEAD", (404, [], xml("NoSuchKey")), MENDED | {5, 10}),
    "403": (ALL, (403, [], xml("AccessDenied")), MENDED),
    "token expired": (ALL, (400, [], xml("ExpiredToken")), MENDED),
    "clock skew": (ALL, (403, [], xml("RequestTimeTooSkewed")), MENDED),
    "redirect": (ALL, (307, [("Location", "http://127.0.0.1:9/")], xml("TemporaryRedirect")), MENDED),
    "no such bucket": (ALL, (404, [], xml("NoSuchBucket")), MENDED | {10}),
    "slow": (ALL, "slow", {0}),
}

with Scenario() as s:
    host, port, bucket, credentials = objects.start(s, "moto")
    proxy = Proxy(host, port)
    s.at_end(proxy.stop)
    os.environ.update(credentials)
    url = s.make_vault(objects.location(bucket, proxy.port, "faults"))
    vault = ["--vault", url, "--key-file", s.key()]
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(MIB))
        file.truncate(8 * MIB)
    s.farshore("protect", s.path("disk.img"), "--name", "d", *vault)
    s.farshore("upload", "--once")
    _, mnt = s.mount(served="d")
    served = os.path.join(mnt, "d", "disk.raw")
    held, uploading = {}, []

    def change():
        with open(served, "r+b", buffering=0) as file:
            for _ in range(8):
                file.seek(s.random.randrange(2000) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        point = s.farshore_json("point", "cut", "d")[0]["sequence"]
        with open(served, "rb") as file:
            held[point] = hashlib.file_digest(file, "sha256").hexdigest()

    def strike(methods, fault, seed, kill_at):
        """A quarter of the requests, from the seed alone. The uploader is killed at each `kill_at`-th request."""
        draws, struck, count = random.Random(seed), [], itertools.count(1)

        def misbehave(method, path):
            if kill_at and next(count) % kill_at == 0 and uploading and uploading[-1].poll() is None:
                os.killpg(uploading[-1].pid, signal.SIGKILL)
            if method not in methods.split() or draws.random() > 0.25:
                return None
            struck.append(path)
            return fault
        return misbehave, struck

    for number, (name, (methods, fault, statuses)) in enumerate(FAULTS.items()):
        for turn in range(max(1, int(SCALE))):
            change()
            ends, kill_at = [], s.random.randrange(3, 24) if (number + turn) % 2 == 1 else 0
            proxy.fault, struck = strike(methods, fault, s.seed + 1000 * turn + number, kill_at)
            for _ in range(2):
                uploading.append(s.start("upload", "--once", log=s.path("upload.log")))
                ends.append(uploading[-1].wait(120))
                check(ends[-1] == -signal.SIGKILL or ends[-1] in statuses, f"{name}: upload ended with {ends[-1]}: {open(uploading[-1].log).read()}")
            proxy.fault = None
            done = s.farshore("upload", "--once", ok=False)
            check(done.returncode == 0, f"{name}: it is over, and the upload ended with {done.returncode}: {done.stderr}")
            listed = {point["sequence"] for point in s.farshore_json("point", "list", "d", *vault) if point["state"] == "replicated"}
            check(set(held) <= listed, f"{name}: points are missing")
        print(f"{name:34s} {len(struck):3d} requests struck, uploads ended {ends}, then 0")
    for point, want in held.items():
        out = s.path("restored.raw")
        s.farshore("restore", "d", *vault, "--at", f"#{point}", "--to", out, "--force", site=s.path("other"))
        with open(out, "rb") as file:
            check(hashlib.file_digest(file, "sha256").hexdigest() == want, f"#{point} restores to something else")
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], "damage")
    print(f"{len(held)} points, all restored")
