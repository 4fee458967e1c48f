"""The catalogue of a site is lost while its mount is dead: rebuilt from the vault and the logs, replication goes on with deltas, and every
point from before and after reads bit-exact. Then a second host joins by a registration key, both keep contact, one whose uploader is killed is
an event on the other, and a mount of recovery disks keeps contact without an uploader.
"""
import hashlib
import os
import signal
import time

from scenario import MIB, Scenario, check


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_bytes(folder):
    return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


with Scenario() as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    os.makedirs(s.path("images"))
    s.farshore("policy", "create", "kept", "--interval", "1s", "--retention", "forever")
    for name in ("data", "log"):
        with open(s.path("images", name + ".raw"), "wb") as file:
            file.write(s.random.randbytes(8 * MIB))
        s.farshore("protect", s.path("images", name + ".raw"), "--name", name, "--machine", "shop", "--policy", "kept", *vault)
    s.farshore("machine", "set", "shop", "--cpus", "2")
    mount, mnt = s.mount(served="log")
    held, times = {}, {}

    def write(tag):
        for name in ("data", "log"):
            with open(os.path.join(mnt, name, "disk.raw"), "r+b", buffering=0) as file:
                for _ in range(5):
                    file.seek(s.random.randrange(2000) * 4096)
                    file.write(s.random.randbytes(4096))
                os.fsync(file.fileno())
        cut = s.farshore_json("point", "cut", "--machine", "shop", "--tag", tag)[0]
        sequence, times[tag] = cut["sequence"], cut["time"]
        held[sequence] = {name: digest(os.path.join(mnt, name, "disk.raw")) for name in ("data", "log")}

    def policy_of(name):
        return {disk["disk"]: disk for disk in s.farshore_json("status")["disks"]}[name]["policy"]

    # A vault begins with the state that was replicated first.
    s.farshore("upload", "--once")
    write("first")
    s.farshore("upload", "--once")
    # What only the logs have, and everything is killed.
    write("unsent")
    s.farshore("site", "rebuild", *vault, status=9)
    os.killpg(mount.pid, signal.SIGKILL)
    mount.wait()
    s.farshore("unmount", mnt)
    for end in ("", "-wal", "-shm"):
        if os.path.exists(s.path("site", "catalogue.sqlite" + end)):
            os.unlink(s.path("site", "catalogue.sqlite" + end))
    lost = s.farshore_json("site", "rebuild", *vault, status=1)
    check({one["subject"] for one in lost["missing"]} == {"data", "log"} and not lost["disks"], f"without the folder: {lost}")
    began = time.monotonic()
    found = s.farshore_json("site", "rebuild", *vault, "--folder", s.path("images"))
    took = time.monotonic() - began
    check([disk["disk"] for disk in found["disks"]] == ["data", "log"] and not found["missing"] and not found["warnings"], f"rebuilt {found}")
    check(policy_of("data") == "kept" and s.farshore_json("policy", "show", "kept")["retention"] == "forever", "the policy is not as it was")
    check(s.farshore_json("machine", "show", "shop")["settings"]["cpus"] == 2, "the machine's settings are not as they were")

    _, mnt = s.mount(served="log")
    for name in ("data", "log"):
        check(digest(os.path.join(mnt, name, "disk.raw")) == held[max(held)][name], f"{name} is not what it was")
    write("after")
    before = stored_bytes(s.path("vault"))
    s.farshore("upload", "--once")
    sent = stored_bytes(s.path("vault")) - before
    check(sent < MIB, f"{sent} bytes were sent: an initial replication of 16 MiB")
    points = s.farshore_json("point", "list", "data", *vault)
    listed = {point["sequence"] for point in points}
    # A time that was told is that of the point: as --from it does not leave it out.
    check({point["tag"]: point["time"] for point in points if point.get("tag") in times} == times, f"{points} are not of {times}")
    for sequence, digests in held.items():
        check(sequence in listed, f"point {sequence} is not in the vault")
        for name, value in digests.items():
            s.farshore("restore", name, *vault, "--at", f"#{sequence}", "--to", s.path("restored.raw"), "--force", site=s.path("other-site"))
            check(digest(s.path("restored.raw")) == value, f"{name} at #{sequence} restores to something else")
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), "--read-data")["damaged"] == [], "damage")
    print(f"catalogue rebuilt in {took:.2f} s; {sent} bytes sent for what was new; {len(held)} points of 2 disks bit-exact")

    # A second host, by a key that is good once.
    far = s.path("far")
    s.farshore("host", "key", url, "--key-file", s.key(), "--out", s.path("registration"))
    check(os.stat(s.path("registration")).st_mode & 0o777 == 0o600, "others can read the registration key")
    join = ["host", "join", "--registration-key", s.path("registration")]
    s.farshore(*join, site=far, status=2)
    s.farshore(*join, "--key-file", s.path("far.key"), "--name", "far", site=far)
    s.farshore(*join, "--key-file", s.path("far.key"), "--name", "far", site=far)
    s.farshore(*join, "--key-file", s.path("third.key"), site=s.path("third"), status=1)
    check(not os.path.exists(s.path("third.key")), "a refused host has a key")
    s.farshore("point", "list", "data", "--vault", url, "--key-file", s.path("far.key"), site=far)

    def hosts(site=far):
        return {host["name"]: host for host in s.farshore_json("host", "list", site=site)[0]["hosts"]}

    def wait_until(what, condition, timeout=30):
        deadline = time.monotonic() + timeout
        while not condition():
            check(time.monotonic() < deadline, f"waited in vain: {what}: {hosts()} {s.farshore('events', site=far).stdout}")
            time.sleep(0.2)

    quick = ["upload", "--foreground", "--contact-every", "1s", "--silent-after", "3s"]
    here = s.start(*quick)
    wait_until("the contact of the first host", lambda: any(host.get("contactSeconds") is not None for host in hosts().values()))
    name = next(name for name in hosts() if name != "far")
    away = s.start(*quick, site=far)
    wait_until("the contact of the second host", lambda: hosts()["far"].get("contactSeconds") is not None)
    listed = hosts()
    check(listed[name]["role"] == "source" and [disk["disk"] for disk in listed[name]["disks"]] == ["data", "log"] and listed[name]["lagSeconds"] < 30, f"listed {listed}")
    check(listed["far"]["role"] == "target" and listed["far"]["isThisHost"] and not listed["far"]["disks"] and listed["far"]["version"], f"listed {listed}")
    check(hosts(site=s.site)[name]["isThisHost"], "the first host does not know itself")
    # Whose key a site knows, it opens by its URL alone: as one that joined, and as one whose disks go there. A stranger needs the key.
    for site in (far, s.site):
        check(s.farshore_json("host", "list", "--vault", url, site=site)[0]["url"] == url, "host list by the URL")
    s.farshore("host", "list", "--vault", url, site=s.path("stranger"), status=5)

    def events():
        return [event["text"] for event in s.farshore_json("events", site=far)]

    # So that the second host has looked.
    time.sleep(2)
    here.kill()
    here.wait()
    wait_until("the silence of the first host", lambda: any("is silent" in text for text in events()))
    check(any("is silent" in warning["text"] for warning in s.farshore_json("status", site=far)["warnings"]), "status says nothing of the silent host")
    here = s.start(*quick)
    wait_until("its return", lambda: any("in contact again" in text for text in events()))
    check(sum("is silent" in text for text in events()) == 1 and not s.farshore_json("status", site=far)["warnings"], f"events {events()}")

    # The first host is lost; guests go over, and nobody uploads there yet.
    for process in (here, away):
        s.stop(process)
    s.farshore("unmount", mnt)
    before = hosts()["far"]["lastContact"]
    s.farshore("failover", "run", "shop", "--vault", url, "--key-file", s.path("far.key"), site=far)
    _, mnt = s.mount(s.path("far-mnt"), site=far, served="log")
    wait_until("the contact of the mount", lambda: hosts()["far"]["lastContact"] != before and hosts()["far"]["role"] == "recovery")
    s.farshore("host", "remove", name, site=far)
    check(list(hosts()) == ["far"], "a host that was removed is listed")
    s.farshore("host", "remove", name, site=far, status=10)
    # The second host loses its catalogue too: the recovery disks are found where a failover makes them.
    s.farshore("unmount", mnt)
    for end in ("", "-wal", "-shm"):
        if os.path.exists(os.path.join(far, "catalogue.sqlite" + end)):
            os.unlink(os.path.join(far, "catalogue.sqlite" + end))
    found = s.farshore_json("site", "rebuild", "--vault", url, "--key-file", s.path("far.key"), site=far)
    check([disk["disk"] for disk in found["disks"]] == ["data", "log"] and not found["missing"], f"rebuilt {found}")
    s.mount(s.path("far-mnt"), site=far, served="log")
    print("joined by a key, silent, back, and in contact by the mount alone")
