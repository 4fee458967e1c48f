"""A target that is away until the log's budget is gone: writes get ENOSPC; `resync --release-log` lets them go on; the target is back, the uploader is killed
on the way, and only chunks that differ are sent. Then an image whose content somebody changed is taken as it is. All of it restored and compared."""
# Promise S3: A disk that waits for its resynchronisation keeps all that was acknowledged, and its log makes room for writes.
# Promise S4: Points from before a resynchronisation read bit-exact after it, and a sequence between them and its first point is refused.
import errno
import os
import signal
import sqlite3
import time

from scenario import MIB, Scenario, check

SIZE, BUDGET = 96 * MIB, 16 * MIB


def chunks(vault):
    # What a killed uploader left of a PUT is no object.
    return {name: os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(os.path.join(vault, "chunks")) for name in names
            if not name.startswith(".farshore-put.")}


def wait(what, ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < deadline, what)
        time.sleep(0.1)


with Scenario() as s:
    url, vault = s.make_vault(), s.path("vault")
    model = bytearray(s.random.randbytes(SIZE // 2) + bytes(SIZE // 2))
    with open(s.path("image"), "wb") as file:
        file.write(model)
    s.farshore("policy", "create", "slow", "--interval", "1s", "--resync-window", "never", "--retention", "forever")
    s.farshore("protect", s.path("image"), "--name", "db", "--vault", url, "--key-file", s.key(), "--policy", "slow", "--log-budget", BUDGET)
    process, mnt = s.mount(served="db")
    disk = os.open(os.path.join(mnt, "db", "disk.raw"), os.O_RDWR)

    def write(offset, data):
        os.pwrite(disk, data, offset)
        model[offset:offset + len(data)] = data

    def status():
        return s.farshore_json("status")["disks"][0]

    def restored(at, name):
        s.farshore("restore", "db", "--vault", url, "--key-file", s.key(), "--at", at, "--to", s.path(name))
        with open(s.path(name), "rb") as file:
            return file.read()

    write(5 * MIB + 123, s.random.randbytes(70_000))
    s.farshore("upload", "--once")
    write(7 * MIB + 123, s.random.randbytes(70_000))
    s.farshore("point", "cut", "db", "--tag", "before")
    s.farshore("upload", "--once")
    before = bytes(model)
    os.rename(vault, vault + ".away")
    full, offset = False, 0
    deadline = time.monotonic() + 60
    while not full:
        # New places all the time: what is overwritten would be merged.
        try:
            write(20 * MIB + offset, s.random.randbytes(65_536))
            offset += 65_536
        except OSError as error:
            check(error.errno == errno.ENOSPC, f"a write failed with {error}")
            full = True
        check(time.monotonic() < deadline, "the log did not get full")
    check(status()["health"] == "critical", status())
    s.farshore("upload", "--once", status=3)
    # What helps, whoever runs: the target's failure, and room at a price. No uploader is told to be started that would not help.
    check("writes get ENOSPC" in status()["reason"] and "replication failed" in status()["reason"] and "resync db --release-log" in status()["remedy"], status())
    # An alarm is seen whatever else is wrong.
    target = status()["targets"][0]
    with sqlite3.connect(os.path.join(s.site, "catalogue.sqlite"), timeout=30) as catalogue:
        catalogue.execute("INSERT INTO warning (disk, vault, kind, text, remedy) VALUES ('db', ?, 'anomaly', 'data is being encrypted', 'look at the guest')", (target["vaultID"],))
    text = s.farshore("status", "db").stdout
    check("writes get ENOSPC" in text and "anomaly     data is being encrypted" in text and "look at the guest" in text, text)
    s.farshore("pause", "db")
    # Nothing is tried where it is paused.
    paused = status()["targets"][0]
    check(paused["isPaused"] and paused["anomaly"]["text"] == paused["reason"] == "data is being encrypted" and "nextAttempt" not in paused, paused)
    with sqlite3.connect(os.path.join(s.site, "catalogue.sqlite"), timeout=30) as catalogue:
        catalogue.execute("DELETE FROM warning")
    check("upload is paused" in status()["targets"][0]["reason"], status())
    s.farshore("resume", "db")
    lost = s.farshore_json("status")["disks"][0]["replicatedSequence"] + 1

    said = s.farshore("resync", "db", "--release-log").stdout
    check(f"the log lets go of what came after #{lost - 1} (" in said and "of writes)" in said, said)
    said = s.farshore("status", "db").stdout
    check(f"the log has let go of what came after #{lost - 1}" in said, said)

    def writes():
        try:
            write(40 * MIB, s.random.randbytes(65_536))
            return True
        except OSError:
            return False

    wait("writes are still refused after the log was released", writes)
    for number in range(3 * BUDGET // MIB):
        wait("writes are refused again", writes)
        write(20 * MIB, s.random.randbytes(MIB))
    check(status()["health"] == "resynchronisation-required" and status()["resynchronisation"]["isLogReleased"], status())

    os.rename(vault + ".away", vault)
    waiting = s.farshore("upload", "--once", ok=False)
    check(waiting.returncode != 0 and "resynchronisation required" in waiting.stderr, waiting)
    present = chunks(vault)
    uploader = s.start("upload", "--foreground")
    time.sleep(1.5)
    check(status()["health"] == "resynchronisation-required", "it began outside of its hours")
    s.farshore("resync", "db", "--now")
    # Killed on the way, or when it has just ended.
    time.sleep(s.random.uniform(0.1, 2))
    uploader.send_signal(signal.SIGKILL)
    uploader.wait()
    write(41 * MIB, b"written meanwhile")
    s.farshore("upload", "--once")
    sent = {name: size for name, size in chunks(vault).items() if name not in present}
    print(f"{len(sent)} chunks sent, {sum(sent.values())} bytes, of {SIZE} bytes of disk")
    # The outage's, one written by who waited for room, one meanwhile.
    check(1 <= len(sent) <= (offset + MIB - 1) // MIB + 2, sent)
    check(status()["health"] == "normal", status())
    jobs = [job for job in s.farshore_json("job", "list") if job["kind"] == "resynchronisation"]
    # One that was killed when all was published has nothing left to do but to say so.
    ended = [job for job in jobs if job["state"] == "succeeded" or any(step["name"] == "publish" and step["state"] == "succeeded" for step in job["steps"])]
    check(ended and all(job["doneBytes"] == job["totalBytes"] for job in ended), jobs)
    check(restored("latest", "latest.raw") == model, "the newest state is another one than was written")
    check(restored("before", "before.raw") == before, "a point from before changed")
    gap = s.farshore("restore", "db", "--vault", url, "--key-file", s.key(), "--at", f"#{lost}", "--to", s.path("gap.raw"), ok=False)
    check(gap.returncode != 0, "a state that the vault never got was restored")
    s.farshore("vault", "check", url, "--key-file", s.key(), "--read-data")
    write(42 * MIB, b"a delta")
    s.farshore("upload", "--once")
    check(restored("latest", "delta.raw") == model, "deltas do not go on")

    # By policy: a guest that writes more than the budget while the target is away meets no error.
    s.farshore("policy", "edit", "slow", "--when-full", "resync")
    uploader = s.start("upload", "--foreground")
    os.rename(vault, vault + ".away")
    for number in range(2 * BUDGET // MIB):
        write((60 + number) * MIB, s.random.randbytes(MIB))
        time.sleep(0.15)
    check(status()["health"] == "resynchronisation-required" and "budget" in status()["resynchronisation"]["reason"], status())
    os.rename(vault + ".away", vault)
    present = chunks(vault)
    s.farshore("resync", "db", "--now")
    wait("the uploader does not resynchronise by itself", lambda: status()["health"] == "normal")
    s.stop(uploader)
    s.farshore("upload", "--once")
    check(len(set(chunks(vault)) - set(present)) == 2 * BUDGET // MIB, "the chunks that were written differ")
    check(restored("latest", "full.raw") == model, "a write of the outage is not in the vault")

    # Somebody writes to the image while nothing serves it.
    os.close(disk)
    s.farshore("unmount", mnt)
    process.wait(60)
    with open(s.path("image"), "r+b") as file:
        file.seek(3 * MIB)
        file.write(b"changed behind its back")
    s.farshore("upload", "--once", status=11)
    changed = s.farshore("mount", mnt, status=11)
    check("accept DISK --discard-log" in changed.stderr, changed.stderr)
    s.farshore("accept", "db", "--discard-log")
    with open(s.path("image"), "rb") as file:
        model[:] = file.read()
    s.farshore("resync", "db", "--now")
    present = chunks(vault)
    s.farshore("upload", "--once")
    check(restored("latest", "accepted.raw") == model, "the vault has another state than the image that was accepted")
    check(restored("before", "again.raw") == before, "a point of the first log changed")
    print(f"{len(set(chunks(vault)) - set(present))} chunks sent after accept")
    process, mnt = s.mount(served="db")
    disk = os.open(os.path.join(mnt, "db", "disk.raw"), os.O_RDWR)
    write(50 * MIB, b"after all")
    s.farshore("upload", "--once")
    check(restored("latest", "end.raw") == model, "the new log is not replicated")
    s.farshore("vault", "check", url, "--key-file", s.key(), "--read-data")
    os.close(disk)
    print("resync: the log released, killed, resumed, points before and after bit-exact")
