"""A site made from one file: said first, then made, then left alone; changed by another file; what is refused keeps nothing else from being done.

The stop command of a machine's settings is run by `failover prepare`, and a start command has the time that the settings give it.
"""
import os
import subprocess
import time

from scenario import MIB, Scenario, check, requires

requires("fusermount3")
FILE = """vault: {url}
key-file: vault.key
policies:
  - name: gold
    interval: 2s
    retention: all:2h,hourly:24h
machines:
  - name: web
    disks:
      - {{name: web-root, image: web-root.raw, policy: gold}}
      - {{name: web-data, image: {data}, policy: gold}}
    settings:
      cpus: {cpus}
      nic: ["network=lan,test=isolated"]
      disk: [web-root, "web-swap,excluded=1MiB"]
      start: sleep 30
      stop: 'echo "$FARSHORE_MACHINE" > {stopped}'
      command-timeout: 1s
  - name: db
    disks: [{{name: db, image: db.raw}}]
groups:
  - name: shop
    machines: [{group}]
plans:
  - plan: all
    groups:
      - before: [{{script: "echo \\"a: b\\" #c", timeout: 1m}}]
        machines: [shop]
"""


with Scenario() as s:
    url, stopped, there = s.make_vault(), s.path("stopped"), s.path("there")
    key = ("--vault", url, "--key-file", s.key())
    for name in ["web-root", "web-data", "db"]:
        with open(s.path(name + ".raw"), "wb") as file:
            file.write(s.random.randbytes(MIB))

    def apply(*options, cpus=2, data="web-data.raw", group="web, db", status=0):
        with open(s.path("site.yaml"), "w") as file:
            file.write(FILE.format(url=url, cpus=cpus, data=data, group=group, stopped=stopped))
        done = s.farshore("apply", s.path("site.yaml"), *options, status=status)
        lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
        return {line.split(": ")[0]: line.split(": ", 1)[1] for line in lines}, done.stdout + done.stderr

    items = ["policy gold", "disk web-root", "disk web-data", "machine web", "disk db", "group shop", "plan all"]
    told, text = apply("--dry-run")
    check(list(told) == items and "REFUSED" not in text, text)
    check(s.farshore_json("machine", "list") == [] and s.farshore_json("plan", "list", *key) == [], "a dry run made something")
    check(len(s.farshore_json("policy", "list")) == 2, "a dry run made a policy")

    told, text = apply()
    check(list(told.values()) == ["made", "made", "made", "changed", "made", "made", "made"], text)
    told, text = apply()
    check(set(told.values()) == {"as it was"}, f"a second time: {text}")
    web = s.farshore_json("machine", "show", "web")
    check(web["disks"] == ["web-data", "web-root"] and web["group"] == "shop" and web["settings"]["cpus"] == 2, str(web))

    # One item is refused, the others are done.
    told, text = apply(cpus=4, data="db.raw", group="web", status=1)
    check(told["disk web-data"].startswith("REFUSED") and told["machine web"] == "changed" and told["group shop"] == "changed", text)
    check("processors 4" in text and "was processors 2" in text and "without db" in text, text)
    check(s.farshore_json("machine", "show", "web")["settings"]["cpus"] == 4, "the settings were not changed")
    with open(s.path("wrong.yaml"), "w") as file:
        file.write("policies:\n  - name: gold\n    intervall: 2s\n  - name: silver\nmachine: []\n")
    check("line 5" in s.farshore("apply", s.path("wrong.yaml"), status=2).stderr, "an unknown key of the file")
    with open(s.path("wrong.yaml"), "w") as file:
        file.write("policies:\n  - name: gold\n    intervall: 2s\n  - name: silver\n")
    told = s.farshore("apply", s.path("wrong.yaml"), status=1)
    check("--intervall" in told.stderr and "policy silver: made" in told.stdout, told.stdout + told.stderr)

    # The settings' own time and stop command.
    s.farshore("upload", "--once")
    began = time.monotonic()
    s.at_end(lambda: subprocess.run(["umount", "-l", os.path.join(there, "tests/t/mnt")], capture_output=True))
    slow = s.farshore("failover", "test", "web", *key, "--name", "t", site=there, status=1)
    check("did not end in time" in slow.stderr and time.monotonic() - began < 15, slow.stderr)
    s.farshore("failover", "cleanup", "t", site=there)
    # `all` is a plan for the group, which is web alone now.
    s.farshore("failover", "prepare", "shop", "--wait-seconds", "60")
    with open(stopped) as file:
        check(file.read() == "web\n", "the stop command of the settings")
