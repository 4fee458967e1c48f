"""The whole circle between two sites over one vault, with numbered records: every write is one record, made durable before the next one begins.

The home is killed and failed over: what is found is a prefix of its records that has all that was sent. Reprotected there; the home comes back and
gives up what the vault never got, when that is said. Its image follows the running replica, killed with -9 in the middle and gone on with; then the
last part, taken back once, and guests go on at home. Then planned to the other site again and reprotected, with the settings of its policy at home each time, and home to
an image elsewhere: killed, cancelled and tried again as a job. A collection runs after each step.
No record is missing after a planned move, none that was sent is after the unplanned one, and nothing is replicated anew.
"""
import os
import random
import signal
import subprocess
import time

from scenario import Scenario, check, requires

requires("fusermount3")
BLOCK, BLOCKS = 4096, 16384


def content(number):
    return random.Random(number).randbytes(BLOCK - 8) + number.to_bytes(8, "little") if number else bytes(BLOCK)


class Guest:
    """Writes numbered records at random blocks; knows what must be where."""

    def __init__(self):
        self.numbers, self.places, self.records = random.Random(7), {}, []

    def write(self, path, count):
        file = os.open(path, os.O_RDWR)
        for _ in range(count):
            number = len(self.places) + 1
            self.places[number] = self.numbers.randrange(BLOCKS)
            os.pwrite(file, content(number), self.places[number] * BLOCK)
            self.records.append(number)
        os.fsync(file)
        os.close(file)

    def check(self, path, what):
        expected = {self.places[number]: number for number in self.records}
        with open(path, "rb") as file:
            for block in range(BLOCKS):
                check(file.read(BLOCK) == content(expected.get(block, 0)), f"{what}: block {block} does not hold record {expected.get(block, 0)}")
            check(file.read(1) == b"", f"{what}: it is too long")

    def adopt(self, path):
        """What is on the disk must be all records up to one; the others are lost. How many those are."""
        with open(path, "rb") as file:
            data = file.read()
        newest = max(int.from_bytes(data[at + BLOCK - 8:at + BLOCK], "little") for at in range(0, len(data), BLOCK))
        before = len(self.records)
        self.records = [number for number in self.records if number <= newest]
        self.check(path, "after the unplanned failover")
        return before - len(self.records)


with Scenario(seed=7) as s:
    there, url = s.path("there"), s.make_vault()
    key = ("--vault", url, "--key-file", s.key())
    folder = url.removeprefix("file://")
    image = s.path("db.raw")
    strays = 0

    def size():
        return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)

    def collect(step, waits=False):
        """What nobody names goes, and nothing else: the vault is whole afterwards."""
        global strays
        strays += 1
        name = f"{strays:064x}"
        path = os.path.join(folder, "chunks", name[:2], f"{name}.1")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("nobody names this")
        report = s.farshore_json("vault", "collect", url, "--key-file", s.key())
        check(waits == (report["waiting"] != []), f"{step}: {report}")
        check(waits == os.path.exists(path), f"{step}: what nobody names is still there, or went too soon: {report}")

    with open(image, "wb") as file:
        file.truncate(BLOCK * BLOCKS)
    guest = Guest()
    s.farshore("protect", image, "--name", "db", *key, "--policy", s.policy(1))
    mount, mnt = s.mount(s.path("mnt"), served="db")
    served = os.path.join(mnt, "db", "disk.raw")
    guest.write(served, 3000)
    s.farshore("upload", "--once")
    sent = len(guest.records)
    guest.write(served, 200)

    # The home is gone, with what it had not sent.
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    subprocess.run(["umount", "-l", mnt], capture_output=True)
    collect("its uploader is gone", waits=True)
    s.mount(s.path("mnt-there"), site=there)
    away = s.farshore_json("failover", "run", "db", *key, site=there)["disks"][0]["path"]
    lost = guest.adopt(away)
    check(len(guest.records) >= sent, f"{sent} records were sent, {len(guest.records)} are there")
    collect("failed over")
    s.farshore("failover", "commit", "db", site=there)
    collect("committed")
    policies = s.farshore_json("reprotect", "db", site=there)["policies"]
    collect("reprotected")
    check(policies == [{"disk": "db", "policy": "every-1s-failback"}], f"the failback policy does not hold: {policies}")
    given = s.farshore_json("policy", "show", "every-1s-failback", site=there)
    check(given["intervalSeconds"] == 1 and given["failbackOf"] == "every-1s" and given["disks"] == ["db"], f"the policy of home: {given}")
    guest.write(away, 2000)
    before = size()
    s.farshore("upload", "--once", site=there)
    check(size() - before < BLOCK * BLOCKS // 4, f"{size() - before} bytes were sent after 2000 records: it was replicated anew")
    collect("replicated back", waits=True)
    guest.check(away, "the replica after the collections")

    # The home comes back, and follows; killed, it goes on.
    mount, mnt = s.mount(s.path("mnt"), served="db")
    refused = s.farshore("failback", "start", "db", ok=False)
    check(refused.returncode != 0 and "that the vault never got" in refused.stderr, f"{refused.returncode}: {refused.stderr}")
    killed = s.start("failback", "start", "db", "--drop-home-writes")
    mark = image + ".log/failback"
    deadline = time.monotonic() + 20
    while not os.path.exists(mark) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    check(os.path.exists(mark), "the failback was not begun")
    check("failback" in s.farshore("accept", "db", status=9).stderr, "the image is not refused meanwhile")
    s.farshore("unprotect", "db", "--discard-log", status=9)
    collect("killed while the home follows", waits=True)
    guest.write(away, 500)
    s.farshore("upload", "--once", site=there)
    report = s.farshore_json("failback", "start", "db")["disks"][0]
    print(f"unplanned: {lost} of 200 lost; followed: {report['fetchedBytes']} bytes fetched, {report['writtenBytes']} written, of {BLOCK * BLOCKS}")
    check(report["fetchedBytes"] < BLOCK * BLOCKS // 2, "far more was fetched than was written")
    guest.check(image, "the home's image")
    status = s.farshore_json("failback", "status", "db")["disks"][0]
    check(status["isBegun"] and status["sequence"] == status["replicaSequence"], f"{status}")
    health = s.farshore_json("status", "db")["disks"][0]
    check(health["health"] == "warning" and health["reason"].startswith("a failback brings its image"), f"{health}")

    # The replica is shut down; the rest, taken back once while nobody writes, and guests go on at home.
    guest.write(away, 300)
    s.farshore("failback", "complete", "db", status=12)
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60", site=there)
    s.farshore("failback", "complete", "db")
    guest.check(served, "the disk at home")
    s.farshore("failover", "cancel", "db")
    check(not os.path.exists(served), "the home serves its disk though guests write elsewhere")
    s.farshore("failover", "cancel", "db", site=there)
    guest.write(away, 300)
    s.farshore("failback", "start", "db")
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60", site=there)
    collect("shut down", waits=True)
    began = time.monotonic()
    s.farshore("failback", "complete", "db")
    print(f"completed in {time.monotonic() - began:.2f} s")
    guest.check(image, "the home's image at the end")
    guest.check(served, "the disk at home")
    collect("at home")
    guest.write(served, 500)
    s.farshore("failover", "commit", "db")
    collect("committed at home")
    s.farshore("reprotect", "db")
    collect("reprotected at home")
    before = size()
    s.farshore("upload", "--once")
    check(size() - before < BLOCK * BLOCKS // 4, f"{size() - before} bytes were sent after 500 records: it was replicated anew")
    s.farshore("restore", "db", *key, "--at", "latest", "--to", s.path("restored.raw"))
    guest.check(s.path("restored.raw"), "the vault's newest point")
    s.farshore("failback", "release", "db", site=there)
    check(s.farshore_json("status", site=there)["disks"] == [], "the other site still has the disk")

    # Forward once more, planned.
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60")
    away = s.farshore_json("failover", "run", "db", "--planned", *key, site=there)["disks"][0]["path"]
    s.farshore("failover", "commit", "db", site=there)
    s.farshore("reprotect", "db", site=there)
    collect("forward again")
    guest.check(away, "after the planned failover")
    guest.write(away, 100)
    s.farshore("upload", "--once", site=there)
    collect("replicated from there", waits=True)
    s.farshore("vault", "check", url, "--key-file", s.key())
    guest.check(away, "at the end")

    # Home, to another image: what is there is not written over; a start that is killed is taken back, then tried again, as a job.
    os.mkdir(s.path("new"))
    other = s.path("new/db.image")
    open(other, "w").close()
    taken = s.farshore("failback", "start", "db", "--to", other, status=9).stderr
    check("is there already and is not the image of db" in taken and image in taken, taken)
    os.remove(other)
    s.farshore("failback", "start", "db", "--to", s.path("nowhere/db.image"), status=10)

    def job():
        return [job for job in s.farshore_json("job", "list") if job["kind"] == "failback"][0]

    def start_killed():
        killed = s.start("failback", "start", "db", "--to", "new/db.image", cwd=s.path())
        deadline = time.monotonic() + 20
        mark = other + ".log/failback"
        while not os.path.exists(other) and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        # Its next state says that the site names the new place by now.
        first = os.stat(mark).st_ino
        while os.stat(mark).st_ino == first and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        return job()

    begun = start_killed()
    while begun["state"] == "succeeded":  # it was faster than the kill
        s.farshore("failback", "cancel", "db")
        begun = start_killed()
    check(begun["state"] == "interrupted" and begun["command"] == ["failback", "start", "db", "--to", "new/db.image"], f"the killed job: {begun}")
    s.farshore("job", "cancel", begun["id"])
    check(job()["state"] == "cancelled", f"cancelled, and it is {job()}")
    check(s.farshore_json("failback", "status", "db")["disks"][0]["image"] == image and not os.path.exists(other), "the disk is not where it was")
    collect("a failback elsewhere was cancelled", waits=True)
    s.farshore("job", "retry", begun["id"])
    check(job()["state"] == "succeeded" and job()["id"] > begun["id"], f"tried again: {job()}")
    for words in ("retry", "cancel"):
        refused = s.farshore("job", words, begun["id"], status=12).stderr
        check(f"job {job()['id']} is a later attempt" in refused and "Try: farshore job" in refused, refused)
    guest.check(other, "the image elsewhere")
    with open(image, "rb") as file:
        before = file.read()
    guest.write(away, 100)
    s.farshore("failover", "prepare", "db", "--wait-seconds", "60", site=there)
    s.farshore("failback", "complete", "db")
    s.farshore("failover", "commit", "db")
    check(s.farshore_json("reprotect", "db")["policies"] == [{"disk": "db", "policy": "every-1s"}], "at home the policy is not the one it was")
    guest.write(served, 100)
    s.farshore("upload", "--once")
    guest.check(served, "the disk at home, elsewhere")
    with open(image, "rb") as file:
        check(file.read() == before, "the old image was changed")
    s.farshore("vault", "check", url, "--key-file", s.key())
    print(f"{len(guest.records)} records, there, back and there again; {strays} collections")
