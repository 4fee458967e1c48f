"""The target is away while a guest overwrites a small part of its disk many times more than the log's budget: no write fails, the log keeps its budget,
nothing is resynchronised. Then the worker is killed. Afterwards the vault has the newest state, and every point it lists is restored bit-exact, by
Farshore and by the example script."""
# Promise S5: While all targets of a disk stay away, a log near its budget merges the oldest changes that they lack, of which they
# then get the end only: guests write on as long as what they overwrite makes room, and no resynchronisation is needed.
# Promise S6: A point or flush boundary inside of what was merged is listed nowhere and refused, and every one that is listed
# reads bit-exact.
import os
import signal
import subprocess
import sys
import time

from scenario import MIB, ROOT, Scenario, check

SIZE, BUDGET, START, REGION = 32 * MIB, 16 * MIB, 20 * MIB, 2 * MIB


def wait(what, ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < deadline, what)
        time.sleep(0.1)


with Scenario() as s:
    url, vault = s.make_vault(), s.path("vault")
    model = bytearray(s.random.randbytes(SIZE))
    with open(s.path("image"), "wb") as file:
        file.write(model)
    s.farshore("protect", s.path("image"), "--name", "db", "--vault", url, "--key-file", s.key(), "--policy", s.policy(1), "--log-budget", BUDGET)
    process, mnt = s.mount(served="db")
    disk = os.open(os.path.join(mnt, "db", "disk.raw"), os.O_RDWR)
    points = {}

    def write(count):
        for _ in range(count):
            data = s.random.randbytes(s.random.choice((4096, 16_384, 65_536)))
            offset = START + s.random.randrange(REGION - len(data))
            os.pwrite(disk, data, offset)
            model[offset:offset + len(data)] = data

    def cut():
        points[s.farshore_json("point", "cut", "db")[0]["sequence"]] = bytes(model[START:START + REGION])

    def status():
        return s.farshore_json("status")["disks"][0]

    write(20)
    cut()
    uploader = s.start("upload", "--foreground")
    wait("nothing was replicated", lambda: (status().get("replicatedSequence") or 0) >= max(points))
    os.rename(vault, vault + ".away")
    had, written = status()["replicatedSequence"], 0
    while written < 3 * BUDGET:
        write(40)
        written += 40 * 28_672
        cut()
        log = status()
        check(log["logBytes"] <= log["logBudgetBytes"] + MIB, f"the log has {log['logBytes']} bytes")
        check("resynchronisation" not in log, log)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        for worker in children.read().split():
            os.kill(int(worker), signal.SIGKILL)
    write(10)
    shown = status()
    check(shown["health"] == "warning" and shown["merged"], shown)
    events = [event["text"] for event in s.farshore_json("events", "db")]
    check(any("what the vault lacks was merged" in text and "points that were not sent yet are lost" in text for text in events), events)
    local = {point["sequence"] for point in s.farshore_json("point", "list", "db")}
    check(any(sequence not in local for sequence in points), "a lost point is in the list")

    os.rename(vault + ".away", vault)
    cut()
    s.stop(uploader)
    s.farshore("upload", "--once")
    check(status()["health"] == "normal" and "merged" not in status(), status())
    check(all(job["kind"] != "resynchronisation" for job in s.farshore_json("job", "list")), "it was resynchronised")
    listed = {point["sequence"] for point in s.farshore_json("point", "list", "db", "--vault", url, "--key-file", s.key())} & set(points)
    lost = {sequence for sequence in points if sequence not in listed and sequence > had}
    check(max(points) in listed and lost, f"{len(listed)} listed, {len(lost)} lost")

    def restored(at, name):
        s.farshore("restore", "db", "--vault", url, "--key-file", s.key(), "--at", at, "--to", s.path(name))
        with open(s.path(name), "rb") as file:
            return file.read()

    check(restored("latest", "latest.raw") == bytes(model), "the newest state is another one than was written")
    for sequence in sorted(listed):
        check(restored(f"#{sequence}", f"{sequence}.raw") == model[:START] + points[sequence] + model[START + REGION:], f"point #{sequence}")
        os.unlink(s.path(f"{sequence}.raw"))
    inside = s.farshore("restore", "db", "--vault", url, "--key-file", s.key(), "--at", f"#{min(lost)}", "--to", s.path("lost.raw"), ok=False)
    check(inside.returncode != 0 and "the end only" in inside.stderr, inside.stderr)
    subprocess.run([sys.executable, os.path.join(ROOT, "examples", "restore-without-farshore", "restore.py"), vault, "db", s.path("script.raw"), "--key-file", s.key()],
                   check=True)
    with open(s.path("script.raw"), "rb") as file:
        check(file.read() == bytes(model), "the script restores another state")
    s.farshore("vault", "check", url, "--key-file", s.key(), "--read-data")
    os.close(disk)
    print(f"{written // MIB} MiB over {REGION // MIB} MiB of disk with a log of {BUDGET // MIB} MiB: {len(listed)} points listed, {len(lost)} lost, no resynchronisation")
