"""A disk is replicated to a vault in a portable directory, which is sent and copied to the online target, killed several times and half there
at first; the disk then goes on there with what is new, while guests write all the time. Nothing is sent twice; and a copy of a live vault follows it.

Promise Y2: A copy that is killed at any request is gone on from, beside retention and collection of its source, and no
object is sent again that was answered.
"""
import collections
import hashlib
import os
import shutil
import signal
import time

from scenario import MIB, Scenario, check, requires
import objects
from proxy import Proxy

requires("moto_server")

with Scenario() as s:
    host, port, bucket, credentials = objects.start(s, "moto")
    proxy = Proxy(host, port)
    s.at_end(proxy.stop)
    os.environ.update(credentials)
    usb = s.make_vault("file://" + s.path("usb"))
    key = ["--key-file", s.key()]
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(24 * MIB))
        file.truncate(64 * MIB)
    s.farshore("protect", s.path("disk.img"), "--name", "d", "--vault", usb, *key)
    s.farshore("upload", "--once")
    _, mnt = s.mount(served="d")
    served, held = os.path.join(mnt, "d", "disk.raw"), {}

    def change():
        with open(served, "r+b", buffering=0) as file:
            for _ in range(32):
                file.seek(s.random.randrange(64 * 256) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        point = f"p{len(held)}"
        s.farshore("point", "cut", "d", "--tag", point)
        with open(served, "rb") as file:
            held[point] = hashlib.file_digest(file, "sha256").hexdigest()

    def data_puts():
        return collections.Counter(path.split("?")[0] for method, path, status, _ in list(proxy.requests)
                                   if method == "PUT" and status == 200 and any(f"/{kind}/" in path for kind in ("chunks", "maps", "disks")))

    for _ in range(3):
        change()
        s.farshore("upload", "--once")
    # The disk is pulled: replication stops, guests do not.
    os.rename(s.path("usb"), s.path("van"))
    check(s.farshore("upload", "--once", ok=False).returncode == 3, "a vault that is away is unreachable")
    change()

    online = objects.location(bucket, proxy.port, "online")
    copy = ["vault", "copy", "file://" + s.path("van"), "--to", online, "--create"]
    far = {"site": s.path("far")}
    # What arrived in part, another key, another vault: each refused by name.
    shutil.copytree(s.path("van"), s.path("half"))
    lost = sorted(os.path.join(folder, name) for folder, _, names in os.walk(s.path("half", "chunks")) for name in names)[3]
    os.remove(lost)
    half = s.farshore("vault", "copy", "file://" + s.path("half"), "--to", objects.location(bucket, proxy.port, "half"), "--create", *key, ok=False, **far)
    check(half.returncode == 6 and os.path.basename(lost) in half.stderr, f"half a vault: {half.returncode} {half.stderr}")
    s.farshore("vault", "create", "file://" + s.path("other"), "--key-file", s.path("other.key"))
    s.farshore(*copy, "--key-file", s.path("other.key"), status=5, **far)
    other = s.farshore("vault", "copy", "file://" + s.path("van"), "--to", "file://" + s.path("other"), *key, ok=False, **far)
    check(other.returncode == 1 and "holds the vault" in other.stderr, f"another vault: {other.returncode} {other.stderr}")

    kills = 0
    while True:
        before, process = sum(data_puts().values()), s.start(*copy, *key, **far)
        while process.poll() is None and sum(data_puts().values()) < before + 9:
            time.sleep(0.005)
        if process.poll() is not None:
            check(process.returncode == 0, open(process.log).read())
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        check(s.farshore("vault", "adopt", online, *key, ok=False, **far).returncode == 1, "half a copy was adopted")
    check(kills > 1, f"{kills} kills")
    s.farshore("retarget", online, *key, status=1)
    # A copy that lost an object is neither adopted nor gone on with.
    lossy = "file://" + s.path("lossy")
    s.farshore("vault", "copy", "file://" + s.path("van"), "--to", lossy, "--create", *key, **far)
    gone = os.path.join(s.path("lossy"), os.path.relpath(lost, s.path("half")))
    os.rename(gone, s.path("gone"))
    refused = s.farshore("vault", "adopt", lossy, *key, ok=False, **far)
    check(refused.returncode == 6 and os.path.basename(lost) in refused.stderr and "1 object damaged or missing" in refused.stderr, refused.stderr)
    os.remove(s.path("lossy", "copy.json"))
    refused = s.farshore("retarget", lossy, *key, ok=False)
    check(refused.returncode == 6 and os.path.basename(lost) in refused.stderr and "needed by d (" in refused.stderr, refused.stderr)
    s.farshore("vault", "adopt", online, *key, **far)
    s.farshore(*copy, *key, status=7, **far)
    # The same in one step.
    s.farshore("vault", "adopt", "file://" + s.path("van"), "file://" + s.path("at-once"), *key, **far)
    check([point["sequence"] for point in s.farshore_json("point", "list", "d", "--vault", "file://" + s.path("at-once"), *key, **far)]
          == [point["sequence"] for point in s.farshore_json("point", "list", "d", "--vault", online, *key, **far)], "adopted at once, the vault has other points")

    # On the disk's host: not the old directory, and not while the uploader runs.
    s.farshore("retarget", "file://" + s.path("other"), "--key-file", s.path("other.key"), status=10)
    s.farshore("retarget", online, *key)
    sent = len(proxy.requests)
    s.farshore("upload", "--once")
    change()
    s.farshore("upload", "--once")
    later = [path for method, path, _, _ in proxy.requests[sent:] if method == "PUT"]
    check(not any("/chunks/" in path for path in later), "a chunk was sent after the disk went on at the online vault")
    twice = {path: count for path, count in data_puts().items() if count > 1}
    check(not twice, f"sent twice: {list(twice.items())[:3]}")
    print(f"copied with {kills} kills: {sum(data_puts().values())} objects, none twice; then {len(later)} PUTs for two uploads")

    # A chain: the online vault is copied while it goes on.
    second = "file://" + s.path("second")
    # A filesystem that is not mounted is filled by nobody: its directory is missing, or empty.
    s.farshore("vault", "copy", online, "--to", second, *key, status=3, **far)
    os.mkdir(s.path("second"))
    away = s.farshore("vault", "copy", online, "--to", second, *key, status=10, **far).stderr
    check("--create" in away and os.listdir(s.path("second")) == [], away)
    follower = s.start("vault", "copy", online, "--to", second, "--create", "--follow", "1", *key, **far)
    for _ in range(4):
        change()
        s.farshore("upload", "--once")
    deadline = time.monotonic() + 60
    while True:
        listed = s.farshore("point", "list", "d", "--vault", second, *key, "--json", site=s.path("third"), ok=False)
        if listed.returncode == 0 and f'"{list(held)[-1]}"' in listed.stdout:
            break
        check(follower.poll() is None and time.monotonic() < deadline, f"the copy does not follow: {open(follower.log).read()}")
        time.sleep(0.2)
    s.stop(follower)
    for vault in (online, second):
        mounted = s.mount_points(s.path("points"), "--vault", vault, *key, "--disk", "d", site=s.path("third"))
        for point, want in held.items():
            with open(s.path("points", "d", point, "disk.raw"), "rb") as file:
                check(hashlib.file_digest(file, "sha256").hexdigest() == want, f"{vault}: {point} reads as something else")
        s.stop(mounted)
        check(s.farshore_json("vault", "check", vault, *key, "--read-data", site=s.path("third"))["damaged"] == [], f"damage in {vault}")
    print(f"{len(held)} points read from both")
