"""A disk at two targets is failed over by one of them: its source sends nothing more to either, says why, and goes on at both when that is taken back. Then a planned failover by the
other one; both vaults hold what was written, to the byte."""
# Promise T1: From the claim of a failover on, nothing that the source's uploader sends becomes a point, and the uploader says how many records the vault lacks.
import os

from scenario import MIB, Scenario, check, requires

requires("fusermount3")

with Scenario() as s:
    near = s.make_vault()
    far = s.make_vault("file://" + s.path("far"), "--key-file", s.path("far.key"))
    keys = {near: s.key(), far: s.path("far.key")}
    model = bytearray(s.random.randbytes(2 * MIB) + bytes(2 * MIB))
    with open(s.path("image"), "wb") as file:
        file.write(model)
    s.farshore("protect", s.path("image"), "--name", "db", "--vault", near, "--key-file", keys[near])
    s.farshore("target", "add", "db", "--vault", far, "--key-file", keys[far])
    s.farshore("upload", "--once")
    there, replica = s.path("there"), ["--folder", s.path("replica")]

    def options(url):
        return ["--vault", url, "--key-file", keys[url]]

    def proven():
        return {found["vault"]: found["replicatedSequence"] for found in s.farshore_json("target", "list", "db")[0]["targets"]}

    def write():
        data = s.random.randbytes(70_000)
        disk = os.open(s.path("mnt", "db", "disk.raw"), os.O_RDWR)
        os.pwrite(disk, data, MIB)
        os.close(disk)
        model[MIB:MIB + len(data)] = data

    _, mnt = s.mount(served="db")
    write()
    s.farshore("failover", "run", "db", *options(far), *replica, site=there)
    s.farshore("upload", "--once", status=7)
    before = proven()
    write()
    stopped = s.farshore("upload", "--once", status=7)
    check(proven() == before, f"something was sent: {before}, then {proven()}")
    check(f"nothing of db is sent to {near}, because another host has it at {far}" in stopped.stdout, stopped.stdout)
    status = s.farshore_json("status", "db")["disks"][0]
    check(status["health"] == "critical" and "was failed over to" in status["reason"], status)

    s.farshore("failover", "cancel", "db", *options(far), site=there)
    s.farshore("upload", "--once")
    check(all(sequence > max(before.values()) for sequence in proven().values()), f"replication does not go on: {before}, then {proven()}")
    check(s.farshore_json("status", "db")["disks"][0]["health"] == "normal", "health stays bad")

    # The vault is named, and its key is known here.
    s.farshore("failover", "prepare", "db", status=2)
    write()
    s.farshore("failover", "prepare", "db", "--vault", near)
    s.farshore("upload", "--once")
    s.farshore("failover", "run", "db", "--planned", *options(near), *replica, site=there)
    for url in (near, far):
        out = s.path("restored.raw")
        s.farshore("restore", "db", *options(url), "--at", "latest", "--to", out, "--force", site=s.path("other"))
        with open(out, "rb") as file:
            check(file.read() == model, f"{url} has another state than was written")
    print("failed over by one of two targets and taken back, then planned by the other")
