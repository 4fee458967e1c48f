"""One disk and a machine of two, each to a directory and to an S3 target with a policy of its own. The S3 target hangs and then is gone while guests write on: the directory's
lag stays small and no write fails. It comes back: what its log kept is sent without a resynchronisation, a disk whose log was given up is resynchronised. A third target gets its first
state while the others go on; one is removed and the log goes free of it. Every point that any of them lists is restored to the byte."""
# Promise M1: A target that fails or hangs delays nothing that goes to another target of the disk.
# Promise M2: No write is refused for want of room on account of a target that fails, while another target of the disk gets what is written.
# Promise G2: A point of several disks is listed in a vault when every one of them has its part there, and not before.
import fcntl
import hashlib
import os
import threading
import time

from scenario import MIB, Scenario, check, requires
import objects
from proxy import Proxy

requires("moto_server", "fusermount3")
SIZE, BUDGET = 12 * MIB, 16 * MIB
NAMES = ["db", "web", "web-log"]


def wait(what, ready, seconds=120):
    deadline = time.monotonic() + seconds
    while not ready():
        check(time.monotonic() < deadline, what() if callable(what) else what)
        time.sleep(0.1)


with Scenario() as s:
    host, port, bucket, credentials = objects.start(s, "moto")
    proxy = Proxy(host, port)
    s.at_end(proxy.stop)
    os.environ.update(credentials)
    near = s.make_vault()
    far = s.make_vault(objects.location(bucket, proxy.port, "far"), "--key-file", s.path("far.key"))
    third = s.make_vault("file://" + s.path("third"), "--key-file", s.path("third.key"))
    keys = {near: s.key(), far: s.path("far.key"), third: s.path("third.key")}
    s.farshore("policy", "create", "near", "--interval", "1s", "--point-every", "1h", "--retention", "forever")
    s.farshore("policy", "create", "far", "--interval", "2s", "--point-every", "1h", "--retention", "all:2s,3s:1h", "--resync-window", "never")
    models = {}
    for name in NAMES:
        models[name] = bytearray(s.random.randbytes(SIZE // 4) + bytes(SIZE - SIZE // 4))
        with open(s.path(name), "wb") as file:
            file.write(models[name])
        s.farshore("protect", s.path(name), "--name", name, "--machine", name.split("-")[0], "--vault", near, "--key-file", keys[near], "--policy", "near", "--log-budget", BUDGET)
    _, mnt = s.mount(served="web-log")
    files = {name: os.open(os.path.join(mnt, name, "disk.raw"), os.O_RDWR) for name in NAMES}
    held = {}  # {(disk, sequence): hash}

    def write(name, length=65_536, span=SIZE):
        offset, data = s.random.randrange((span - length) // 4096) * 4096, s.random.randbytes(length)
        os.pwrite(files[name], data, offset)
        models[name][offset:offset + length] = data

    def cut(name):
        for point in s.farshore_json("point", "cut", name):
            held[point["disk"], point["sequence"]] = hashlib.sha256(models[point["disk"]]).hexdigest()
        return point["sequence"]

    def target(name, url):
        return next(found for found in s.farshore_json("target", "list", name)[0]["targets"] if found["vault"] == url)

    def lag(url):
        return max(found["lagSeconds"] for disk in s.farshore_json("target", "list") for found in disk["targets"] if found["vault"] == url)

    def reached(name, url, sequence):
        return (target(name, url).get("replicatedSequence") or 0) >= sequence

    # A disk of a machine has its targets with the others of it.
    part = s.farshore("target", "add", "web-log", "--vault", far, "--key-file", keys[far], status=9)
    check("web-log shares recovery points with all of web" in part.stderr, part.stderr)
    s.start("upload", "--foreground")
    wait("the first target got nothing", lambda: target("db", near).get("replicatedSequence"))
    for unit in ("db", "web"):
        s.farshore("target", "add", unit, "--vault", far, "--key-file", keys[far], "--policy", "far")
    s.farshore("target", "add", "db", "--vault", far, "--key-file", keys[far], status=9)
    for name in NAMES:
        write(name)
    for unit in ("db", "web"):
        last = cut(unit)
        for url in (near, far):
            wait(lambda: f"{unit} is not at {url}: {target(unit, url)}", lambda: reached(unit, url, last))
    print("three disks at two targets")

    # The far target hangs, then is gone.
    hanging, lags = threading.Event(), []
    proxy.fault = lambda method, path: hanging.wait(600) and "reset"
    for number in range(15):
        for name in NAMES:
            write(name)
        if number % 7 == 6:
            lasts = {unit: cut(unit) for unit in ("db", "web")}
        time.sleep(0.2)
        lags.append(lag(near))
    for unit, last in lasts.items():
        wait(f"the near target waits for the far one, which hangs, with {unit}", lambda: reached(unit, near, last))
        check(not reached(unit, far, last), "the far target does not hang")
    print(f"a hanging target: the other's lag was {max(lags):.1f} s at most")
    proxy.fault = lambda method, path: "reset"
    hanging.set()
    for unit in ("db", "web"):
        s.farshore("resume", unit)
    wait(lambda: f"the far target fails unnoticed: {target('db', far)}", lambda: target("db", far)["health"] != "normal")
    check(target("db", near)["health"] == "normal", target("db", near))
    check(s.farshore_json("status", "db")["disks"][0]["reason"].startswith(far), "health does not name the target")

    # More than the log holds: it is given up for the far target, and no write fails.
    lags.clear()
    for number in range(3 * BUDGET // MIB):
        write("db", MIB, 4 * MIB)
        time.sleep(0.1)
        if number % 8 == 7:
            last = cut("db")
            lags.append(lag(near))
    wait("the near target waits for the far one, which is gone", lambda: reached("db", near, last))
    check(target("db", far)["resynchronisation"]["isLogReleased"], target("db", far))
    check("resynchronisation" not in target("db", near), target("db", near))
    print(f"a dead target, {3 * BUDGET // MIB} MiB written over a log of {BUDGET // MIB} MiB: the other's lag was {max(lags):.1f} s at most")

    # Two that change the targets at once would each leave out in the log what the other has just put there.
    with open(s.path("site", "run", f"failover-{s.farshore_json('status', 'db')['disks'][0]['id']}.lock"), "a+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        for change in (["add", "db", "--vault", third, "--key-file", keys[third]], ["remove", "db", "--vault", far]):
            other = s.farshore("target", *change, status=9)
            check("another command changes the targets of db" in other.stderr, other.stderr)

    # A third one, while the far one is gone.
    s.farshore("target", "add", "db", "--vault", third, "--key-file", keys[third], "--policy", "near")
    write("db")
    last = cut("db")
    wait(lambda: f"db is not at the third target: {target('db', third)}", lambda: reached("db", third, last) and reached("db", near, last))

    # Back: the machine's log has all, the disk is compared.
    proxy.fault = None
    s.farshore("resync", "db", "--now", status=2)
    s.farshore("resync", "db", "--vault", far, "--now")
    for unit in ("db", "web"):
        s.farshore("resume", unit)
    for unit in ("db", "web"):
        write(unit)
        last = cut(unit)
        wait(lambda: f"{unit} does not catch up at {far}: {target(unit, far)}", lambda: reached(unit, far, last) and target(unit, far)["health"] == "normal")
    jobs = [job for job in s.farshore_json("job", "list") if job["kind"] == "resynchronisation"]
    check({(job["disk"], job["vault"]) for job in jobs} == {("db", far)} and jobs[0]["state"] == "succeeded", jobs)

    # Removed while it is away, the log goes free of it.
    proxy.fault = lambda method, path: "reset"
    s.farshore("resume", "db")
    write("db", MIB)
    cut("db")
    wait("the far target fails unnoticed", lambda: target("db", far)["health"] != "normal")
    removed = s.farshore_json("target", "remove", "db", "--vault", far)
    check(removed["holdsUpCollections"], removed)
    proxy.fault = None
    for _ in range(2 * BUDGET // MIB):
        write("db", MIB, 4 * MIB)
        time.sleep(0.1)
    last = cut("db")
    for url in (near, third):
        wait(lambda: f"db does not go on at {url}: {target('db', url)}", lambda: reached("db", url, last))
    status = s.farshore_json("status", "db")["disks"][0]
    check([found["vault"] for found in status["targets"]] == [near, third] and status["health"] == "normal", status)
    s.farshore("target", "remove", "db", "--vault", near)
    s.farshore("target", "remove", "db", "--vault", third, status=1)

    # Each target's points, by its own retention.
    counts = {}
    for name in NAMES:
        for url in (near, far, third) if name == "db" else (near, far):
            vault = ["--vault", url, "--key-file", keys[url]]
            listed = [point["sequence"] for point in s.farshore_json("point", "list", name, *vault, site=s.path("other")) if (name, point["sequence"]) in held]
            counts[name, url] = len(listed)
            check(listed, f"no point of {name} is listed at {url}")
            for sequence in {listed[len(listed) // 2], listed[-1]}:
                out = s.path("restored.raw")
                s.farshore("restore", name, *vault, "--at", f"#{sequence}", "--to", out, "--force", site=s.path("other"))
                with open(out, "rb") as file:
                    check(hashlib.file_digest(file, "sha256").hexdigest() == held[name, sequence], f"#{sequence} of {name} at {url} restores to something else")
    # Nothing was thinned out at the near one, also after its removal; the far one lacks what the log had let go of.
    check(all(counts[name, near] == sum(disk == name for disk, _ in held) for name in NAMES), (counts, held))
    check(counts["db", far] < counts["db", near], counts)
    for url in (far, third):
        check(s.farshore_json("vault", "check", url, "--key-file", keys[url], "--read-data", site=s.path("other"))["damaged"] == [], f"damage in {url}")
    print(f"points of each disk and target, restored: {[(name, url.split(':')[0], count) for (name, url), count in counts.items()]}")
