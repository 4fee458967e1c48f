"""A node of the target dies in the middle of replication and comes back: the one OSD of a Ceph cluster, after which its gateway hangs
and does not fail; and one of three storage nodes of OpenStack Swift, after which lists are stale and a third of all answers old. Guests
write on meanwhile; afterwards the vault has every point and each reads to the byte.

Promise F3: A local segment is let go only after the vault's copy of it was verified, or a merged one holds what is newest of it, or its disk
was marked for resynchronisation and the image holds it.
"""
import hashlib
import os
import threading
import time

from scenario import MIB, ROOT, Failed, Scenario, check, requires, run
import objects

requires("ceph-mon", "ceph-osd", "radosgw", "swift-proxy-server", "swift-object-server", "swift-container-server", "swift-account-server")
TARGETS = {"ceph-rgw": ["osd"], "openstack-swift": ["account-2", "container-2", "object-2"]}
os.environ["OBJECTSTORE"] = "bluestore"


class Guest:
    """Writes, flushes and cuts points until told to stop; what the disk held at each."""

    def __init__(self, s, served):
        self.held, self.problem, self.end = {}, None, threading.Event()
        self.thread = threading.Thread(target=self.write, args=(s, served))
        self.thread.start()

    def write(self, s, served):
        try:
            while not self.end.is_set():
                with open(served, "r+b", buffering=0) as file:
                    for _ in range(64):
                        file.seek(s.random.randrange(2048) * 4096)
                        file.write(s.random.randbytes(4096))
                    os.fsync(file.fileno())
                point = f"p{len(self.held)}"
                s.farshore("point", "cut", "d", "--tag", point)
                with open(served, "rb") as file:
                    self.held[point] = hashlib.file_digest(file, "sha256").hexdigest()
                self.end.wait(1)
        except (OSError, Failed) as problem:
            self.problem = problem

    def stop(self):
        self.end.set()
        self.thread.join()
        check(self.problem is None, f"the guest was disturbed: {self.problem}")


def strike(kind, victims):
    with Scenario() as s:
        began = time.monotonic()
        _, port, bucket, credentials = objects.start(s, kind)
        os.environ.update(credentials)
        ready = time.monotonic()
        url = s.make_vault(objects.location(bucket, port, "node"))
        with open(s.path("disk.img"), "wb") as file:
            file.write(s.random.randbytes(2 * MIB))
            file.truncate(8 * MIB)
        s.farshore("protect", s.path("disk.img"), "--name", "d", "--vault", url, "--key-file", s.key(), "--policy", s.policy(1))
        s.farshore("upload", "--once")
        _, mnt = s.mount(served="d")
        uploader = s.start("upload", "--foreground")
        guest = Guest(s, os.path.join(mnt, "d", "disk.raw"))
        s.at_end(guest.end.set)

        def server(verb):
            for name in victims:
                run(os.path.join(ROOT, "Tests", "servers", kind), verb, s.path(kind), name)

        def lag():
            return s.farshore_json("status")["disks"][0].get("lagBytes")

        def wait_for_the_vault(seconds, when):
            deadline, asked = time.monotonic() + seconds, 0
            while lag() != 0:
                check(uploader.poll() is None, f"{kind}: the uploader ended: {open(uploader.log).read()}")
                check(time.monotonic() < deadline, f"{kind}: {when}: stuck for {seconds} s\n{s.farshore('status').stdout}")
                # The retry that is due in a minute, now.
                if time.monotonic() - asked > 5:
                    s.farshore("resume", "d")
                    asked = time.monotonic()
                time.sleep(0.3)

        time.sleep(4)
        server("kill")
        time.sleep(8)
        without = len(guest.held)
        server("restart")
        time.sleep(4)
        guest.stop()
        wait_for_the_vault(120, "after it")
        s.stop(uploader)
        caught_up = time.monotonic()
        key = ["--key-file", s.key()]
        listed = {point.get("tag") for point in s.farshore_json("point", "list", "d", "--vault", url, *key) if point["state"] == "replicated"}
        check(set(guest.held) <= listed, f"{kind}: points are missing: {sorted(set(guest.held) - listed)}")
        mounted = s.mount_points(s.path("points"), "--vault", url, *key, "--disk", "d", site=s.path("other"))
        for point, want in guest.held.items():
            with open(s.path("points", "d", point, "disk.raw"), "rb") as file:
                check(hashlib.file_digest(file, "sha256").hexdigest() == want, f"{kind}: {point} reads as something else")
        s.stop(mounted)
        check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], f"{kind}: damage")
        print(f"{kind}: {len(guest.held)} points, {without} of them by the end of the outage, all read; server {ready - began:.0f} s, until caught up "
              f"{caught_up - ready:.0f} s, reading {time.monotonic() - caught_up:.0f} s", flush=True)


for each, victims in TARGETS.items():
    strike(each, victims)
