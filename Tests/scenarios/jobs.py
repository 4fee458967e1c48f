"""Jobs that run are cancelled, and tried again: an initial replication stops at its next chunk and goes on without sending anything again, a test failover
is ended and cleaned up. What succeeded, and what cannot be taken back, is refused with the command that applies.
"""
import time

from scenario import MIB, Scenario, check, requires

requires("fusermount3")
SIZE = 24 * MIB


def waited(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < deadline, what())
        time.sleep(0.1)


with Scenario(seed=3) as s:
    key = ("--vault", s.make_vault(), "--key-file", s.key())

    def jobs(kind):
        return [job for job in s.farshore_json("job", "list") if job["kind"] == kind]

    with open(s.path("db.raw"), "wb") as file:
        file.write(s.random.randbytes(SIZE))
    s.farshore("policy", "create", "slow", "--interval", "1s", "--bandwidth", "2MiB", "--compression", "off")
    s.farshore("protect", s.path("db.raw"), "--name", "db", *key, "--policy", "slow")
    protected = jobs("protect")[0]
    check(protected["command"][:2] == ["protect", s.path("db.raw")], f"{protected}")
    for words, told in (("retry", "succeeded"), ("cancel", "farshore unprotect db")):
        refused = s.farshore("job", words, protected["id"], status=12).stderr
        check(told in refused, refused)

    # What is being sent.
    s.start("upload", "--foreground")
    waited(lambda: jobs("initial-replication") and jobs("initial-replication")[0]["doneBytes"] > 0, lambda: "nothing is sent")
    began = time.monotonic()
    stopped = s.farshore_json("job", "cancel", jobs("initial-replication")[0]["id"])
    print(f"an initial replication was cancelled in {time.monotonic() - began:.1f} s, after {stopped['doneBytes']} of {SIZE} bytes")
    check(stopped["state"] == "cancelled" and 0 < stopped["doneBytes"] < SIZE, f"{stopped}")
    check(s.farshore_json("status", "db")["disks"][0]["isPaused"], "the disk is not paused")
    time.sleep(2)
    check(len(jobs("initial-replication")) == 1, "it was begun again by itself")
    s.farshore("policy", "edit", "slow", "--bandwidth", "unlimited")
    s.farshore("job", "retry", stopped["id"])
    waited(lambda: jobs("initial-replication")[0]["state"] == "succeeded", lambda: f"{jobs('initial-replication')}")
    check([job["state"] for job in jobs("initial-replication")] == ["succeeded", "cancelled"], f"{jobs('initial-replication')}")

    # What a command does: ended, and taken back.
    process = s.start("failover", "test", "db", *key, "--start", "sleep 20")
    waited(lambda: jobs("test-failover") and [step["name"] for step in jobs("test-failover")[0]["steps"] if step["state"] == "running"] == ["start"], lambda: f"{jobs('test-failover')}")
    test = jobs("test-failover")[0]
    check(test["command"][-2:] == ["--name", "db-1"], f"the command does not say which test it was: {test}")
    s.farshore("job", "cancel", test["id"])
    process.wait(timeout=10)
    check(s.farshore_json("failover", "tests") == [], "the test is still there")
    check([job["state"] for job in jobs("test-failover")] == ["succeeded", "cancelled"], f"{jobs('test-failover')}")
