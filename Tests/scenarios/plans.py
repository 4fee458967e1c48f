"""A recovery plan of three groups over a real vault and a second site: rehearsed beside running replication, then run when the source is dead.

Scripts and a manual action between the groups; machines are started with their settings, one with a disk that is not replicated; one has an
address that somebody has, and fails alone; the command is killed with -9 in the middle and goes on. What fails is mended on the recovery host,
by settings put into the vault there.
"""
import json
import os
import signal
import subprocess
import time

from scenario import MIB, Scenario, check, requires

requires("fusermount3")
PLAN = """plan: shop
groups:
  - name: database
    before:
      - script: echo announce >> {log}
        only: [planned, unplanned]
      - manual: Agree on the point with the owner
        only: [unplanned]
    machines: [db]
    on-error: stop
  - name: front
    machines: [web1, web2, web3]
    after:
      - script: echo front $FARSHORE_KIND >> {log}
      - script: exit 3
        on-error: continue
        only: [unplanned]
  - name: rest
    before:
      - script: echo slow >> {log}; test $FARSHORE_KIND = test || test -e {log}.go || sleep 60
    machines: [batch]
"""
MACHINES = ["db", "web1", "web2", "web3", "batch"]


def steps(report):
    return {step["what"]: step for step in report["steps"]}


def environment(folder, machine, test):
    with open(os.path.join(folder, f"{machine}-{test}.env")) as file:
        return dict(line.rstrip("\n").split("=", 1) for line in file)


with Scenario() as s:
    there, url, log = s.path("there"), s.make_vault(), s.path("log")
    key = ("--vault", url, "--key-file", s.key())
    started = s.path("started")
    os.makedirs(started)
    contents = {name: s.random.randbytes(MIB) for name in MACHINES}
    for name in MACHINES:
        with open(s.path(f"{name}.raw"), "wb") as file:
            file.write(contents[name])
            file.truncate(4 * MIB)
        s.farshore("protect", s.path(f"{name}.raw"), "--name", name, *key, "--policy", s.policy(1))
        s.farshore("machine", "set", name, "--start", f'env | grep ^FARSHORE_ | sort > {started}/$FARSHORE_MACHINE-$FARSHORE_IS_TEST.env')
    s.farshore("machine", "set", "db", "--target-name", "db-there", "--cpus", "2", "--memory", "512MiB", "--firmware", "uefi", "--disk", "db-swap,serial=SWAP,excluded=2MiB",
               "--disk", "db,serial=ROOT", "--nic", "network=lan,mac=52:54:00:00:00:01,test=isolated,test-ip=192.0.2.9")
    s.farshore("machine", "set", "web2", "--nic", "network=lan,ip=127.0.0.1,test=isolated")
    mount, mnt = s.mount(served="batch")
    s.farshore("upload", "--once")
    with open(s.path("shop.yaml"), "w") as file:
        file.write(PLAN.format(log=log))
    s.farshore("plan", "apply", s.path("shop.yaml"), *key)

    # One name for a plan and a machine: which is meant is asked, and can be said.
    with open(s.path("web3.yaml"), "w") as file:
        file.write("plan: web3\ngroups:\n  - machines: [web3]\n")
    s.farshore("plan", "create", s.path("web3.yaml"), *key)
    for words in (("test", "web3"), ("planned", "web3"), ("unplanned", "web3")):
        refused = s.farshore("failover", *words, *key, site=there, status=2).stderr
        check("a recovery plan and a machine" in refused and "Try: plan:web3 or machine:web3" in refused, refused)
    # With a name of its own too, which a plan's runs are not told.
    refused = s.farshore("failover", "test", "web3", "--name", "mine", *key, site=there, status=2).stderr
    check("a recovery plan and a machine" in refused and "Try: plan:web3 or machine:web3" in refused, refused)
    refused = s.farshore("failover", "test", "shop", "--name", "mine", *key, site=there, status=2).stderr
    check("are not told --name" in refused, refused)
    # A run of it says itself which is meant.
    alone = s.farshore_json("plan", "run", "web3", "--kind", "test", *key, site=there)
    s.at_end(lambda: subprocess.run(["umount", "-l", os.path.join(there, "tests/web3-1-web3/mnt")], capture_output=True))
    check(alone["state"] == "succeeded", f"{alone}")
    s.farshore("failover", "cleanup", "web3-1-web3", "--notes", "by its plan", site=there)
    drills = s.farshore_json("drill", "report", *key, site=there)["drills"]
    check([(drill["event"], drill["check"], drill.get("verdict")) for drill in drills] == [("test-failover", "started", "good"), ("test-cleanup", "none", None)], f"{drills}")
    check(drills[1]["note"] == "web3-1-web3: by its plan", f"{drills}")
    refused = s.farshore("failover", "unplanned", "shop", "--at", "latest", *key, site=there, status=2).stderr
    check("are not told --at" in refused, refused)
    check(s.farshore_json("failover", "show", "machine:web3", *key, site=there)["standing"]["disks"] == ["web3"], "machine:web3")
    check(s.farshore_json("plan", "list", *key, site=there)[1]["plan"] == "web3", "the plan web3")
    s.farshore("plan", "delete", "web3", *key)

    # Rehearsed, while the source runs on.
    began = time.monotonic()
    report = s.farshore_json("failover", "test", "shop", *key, site=there)
    for name in MACHINES:
        s.at_end(lambda name=name: subprocess.run(["umount", "-l", os.path.join(there, f"tests/shop-1-{name}/mnt")], capture_output=True))
    check(report["state"] == "succeeded", f"the test run: {json.dumps(report, indent=1)}")
    print(f"test run of {len(MACHINES)} machines: {time.monotonic() - began:.1f} s")
    with open(log) as file:
        check(file.read() == "front test\nslow\n", "scripts of the test run")
    told = environment(started, "db", 1)
    check(told["FARSHORE_NIC_1_NETWORK"] == "isolated" and told["FARSHORE_NIC_1_IP"] == "192.0.2.9", f"test network: {told}")
    for name in MACHINES:
        s.farshore("failover", "cleanup", f"shop-1-{name}", site=there)
    os.remove(log)

    # The source is dead; a person is asked first.
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    subprocess.run(["umount", "-l", mnt], capture_output=True)
    s.mount(s.path("mnt-there"), site=there)
    done = s.farshore_json("failover", "unplanned", "plan:shop", *key, site=there)
    check(done["run"] == "shop-2" and done["state"] == "waiting" and done["steps"][0]["state"] == "succeeded", f"the manual action: {done}")
    told = s.farshore("plan", "report", "shop-2", site=there).stdout
    check(f"then: farshore plan continue shop-2 --vault {url} --key-file {s.key()}\n" in told, told)
    check("waits for a person" in next(line for line in told.splitlines() if line.startswith("database  manual")), told)
    check(steps(done)["db"]["state"] == "waiting", "a machine came up before the person said so")

    # A second one would start the same machines.
    other = s.farshore("plan", "run", "shop", "--kind", "unplanned", *key, site=there, status=9).stderr
    check("shop-2" in other and "plan continue shop-2" in other, other)

    # Killed in a script, after the second group.
    process = s.start("plan", "continue", "shop-2", *key, "--note", "agreed", site=there, wait_for=lambda: os.path.exists(log) and "slow" in open(log).read())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    report = s.farshore_json("plan", "report", "shop-2", site=there)
    check(report["state"] == "interrupted", f"killed, and it says {report['state']}")
    found = steps(report)
    check(found["Agree on the point with the owner"]["detail"] == "agreed", "the person's word is not in the report")
    check([found[name]["state"] for name in MACHINES] == ["succeeded", "succeeded", "failed", "succeeded", "waiting"], f"after the kill: {json.dumps(report, indent=1)}")
    check("127.0.0.1" in found["web2"]["detail"] and "taken" in found["web2"]["detail"], found["web2"]["detail"])
    told = environment(started, "db", 0)
    for name, value in {"FARSHORE_TARGET_NAME": "db-there", "FARSHORE_CPUS": "2", "FARSHORE_MEMORY_BYTES": str(512 * MIB), "FARSHORE_FIRMWARE": "uefi", "FARSHORE_DISKS": "2",
                        "FARSHORE_DISK_1_SERIAL": "SWAP", "FARSHORE_DISK_2_SERIAL": "ROOT", "FARSHORE_NIC_1_MAC": "52:54:00:00:00:01"}.items():
        check(told.get(name) == value, f"the start command was told {name}={told.get(name)}, not {value}")
    with open(told["FARSHORE_DISK_1"], "rb") as file:
        check(file.read() == bytes(2 * MIB), "the excluded disk is not empty")
    for name in ["db", "web1", "web3"]:
        path = told["FARSHORE_DISK_2"] if name == "db" else environment(started, name, 0)["FARSHORE_DISK_1"]
        with open(path, "rb") as file:
            check(file.read(MIB) == contents[name], f"{name} holds something else")

    # Goes on where it was; ends as failed, for one machine did.
    open(log + ".go", "w").close()
    done = s.farshore("plan", "continue", "shop-2", *key, "--json", site=there, status=1)
    found = steps(json.loads(done.stdout))
    check([attempt["state"] for attempt in found[[what for what in found if what.startswith("echo slow")][0]]["earlier"]] == ["interrupted"], "the report forgets what was interrupted")
    check(json.loads(done.stdout)["state"] == "failed" and found["batch"]["state"] == "succeeded" and found["web2"]["state"] == "failed", done.stdout)
    check(found["exit 3"]["state"] == "failed", "the script that may fail")
    # Of everything that it said the table has what fits into a line, and the document all.
    told = s.farshore("plan", "report", "shop-2", site=there).stdout
    check(max(map(len, told.splitlines())) < 200 and " … " in told and "farshore plan report shop-2 --json has the whole" in told, told)
    check(len(found["web2"]["detail"]) > 100, found["web2"]["detail"])
    with open(log) as file:
        check(file.read() == "announce\nfront unplanned\nslow\nslow\n", "scripts of the unplanned run")

    # Mended here, for there is nobody there.
    s.farshore("failover", "run", "web2", *key, site=there, status=1)
    s.farshore("machine", "set", "web2", "--nic", "network=lan,test=isolated", *key, site=there)
    failed = [job for job in s.farshore_json("job", "list", site=there) if job["kind"] == "failover" and job["disk"] == "web2"]
    check(len(failed) == 2 and all(job["state"] == "failed" for job in failed), f"{failed}")
    s.farshore("job", "retry", failed[1]["id"], site=there, status=12)
    told = s.farshore("job", "retry", failed[0]["id"], site=there)
    check(f"job {failed[0]['id']}: farshore failover run web2" in told.stderr and " to " in told.stderr, told.stderr)
    check("FARSHORE_NIC_1_IP" not in environment(started, "web2", 0), "the start command is told the old address")

    # The host that took over goes on with the settings of the vault.
    s.farshore("machine", "set", "web2", "--cpus", "3", site=there, status=1)
    s.farshore("failover", "commit", "web2", site=there)
    s.farshore("reprotect", "web2", site=there)
    s.farshore("machine", "set", "web2", "--cpus", "3", site=there)
    s.farshore("upload", "--once", site=there)
    settings = s.farshore_json("machine", "show", "web2", site=there)["settings"]
    check(settings["cpus"] == 3 and [nic["network"] for nic in settings["adapters"]] == ["lan"], f"after reprotect: {settings}")
    s.farshore("machine", "set", "web2", "--cpus", "4", *key, site=there, status=1)
