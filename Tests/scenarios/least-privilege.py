"""The policies of examples/least-privilege on Ceph RGW: an uploader that never deletes and reads no other host's disks does all that a day
brings; its deletes are refused; the retention identity collects; the recovery identity restores and writes nothing."""
import hashlib
import os

from scenario import MIB, ROOT, Scenario, check, requires, run
import objects

requires("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
REFUSED = 4

with Scenario() as s:
    host, port, bucket, owner = objects.start(s, "ceph-rgw")
    endpoint = f"http://{host}:{port}"
    admin = os.path.join(ROOT, "Tests", "servers", "s3-admin")
    identities = {}
    for name in ("uploader", "retention", "recovery"):
        run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", f"--access-key={name.upper()}KEY", f"--secret={name}secret",
            env=dict(os.environ, CEPH_CONF=s.path("ceph-rgw", "ceph.conf")))
        identities[name] = {"AWS_ACCESS_KEY_ID": f"{name.upper()}KEY", "AWS_SECRET_ACCESS_KEY": f"{name}secret"}
    with open(os.path.join(ROOT, "examples", "least-privilege", "ceph-bucket-policy.json")) as file:
        template = file.read().replace("BUCKET", bucket).replace("PREFIX", "vault")

    def set_policy(disk):
        with open(s.path("policy.json"), "w") as file:
            file.write(template.replace("DISK-ID", disk))
        run(admin, "put-policy", endpoint, bucket, s.path("policy.json"), owner["AWS_ACCESS_KEY_ID"], owner["AWS_SECRET_ACCESS_KEY"])

    def status_of(method, key, who):
        return int(run(admin, "status", method, endpoint, f"{bucket}/vault/{key}", who["AWS_ACCESS_KEY_ID"], who["AWS_SECRET_ACCESS_KEY"]).stdout)

    url = objects.location(bucket, port, "vault")
    s.farshore("vault", "create", url, "--key-file", s.key(), env=owner)
    vault = ["--vault", url, "--key-file", s.key()]
    # Another host's disk, by the owner.
    for name in ("other", "disk"):
        with open(s.path(name + ".img"), "wb") as file:
            file.write(s.random.randbytes(2 * MIB))
            file.truncate(8 * MIB)
    s.farshore("protect", s.path("other.img"), "--name", "other", *vault, env=owner, site=s.path("elsewhere"))
    s.farshore("upload", "--once", env=owner, site=s.path("elsewhere"))
    other = s.farshore_json("status", site=s.path("elsewhere"))["disks"][0]["id"]

    set_policy("none")
    uploader = identities["uploader"]
    os.environ.update(uploader)
    s.farshore("protect", s.path("disk.img"), "--name", "d", *vault, "--policy", s.policy(1))
    disk = s.farshore_json("status")["disks"][0]["id"]
    set_policy(disk)
    s.farshore("upload", "--once")
    _, mnt = s.mount(served="d")
    served = os.path.join(mnt, "d", "disk.raw")

    def change(rounds):
        for _ in range(rounds):
            with open(served, "r+b", buffering=0) as file:
                for _ in range(16):
                    file.seek(s.random.randrange(2048) * 4096)
                    file.write(s.random.randbytes(4096))
                os.fsync(file.fileno())
            s.farshore("point", "cut", "d")
            s.farshore("upload", "--once")

    # A day: deltas, roll-ups, a full manifest by a resynchronisation, a pin, retention, a restart, a host that remembers nothing.
    change(20)
    s.farshore("point", "pin", "d/latest", "--name", "keep", *vault)
    s.farshore("resync", "d", "--now")
    change(2)
    s.farshore("policy", "edit", s.policy(1), "--retention", "all:2s")
    change(6)
    check(s.farshore_json("status")["disks"][0]["health"] == "normal", s.farshore("status").stdout)
    with open(served, "rb") as file:
        want = hashlib.file_digest(file, "sha256").hexdigest()
    s.farshore("restore", "d", *vault, "--at", "latest", "--to", s.path("own.raw"), site=s.path("fresh"))

    # What it may not: delete anything, also its own; read or write what is another disk's.
    attempt = s.farshore("vault", "collect", url, "--key-file", s.key(), ok=False)
    own = f"heads/{disk}/" + "1".rjust(20, "0")
    check(status_of("HEAD", own, uploader) == 200, "its own head can be read")
    check(status_of("DELETE", own, uploader) == 403 and status_of("HEAD", own, uploader) == 200, "a delete by the uploader must be refused")
    for method in ("PUT", "DELETE"):
        check(status_of(method, f"disks/{other}/x", uploader) == 403, f"{method} of another disk's object must be refused")
    refused = s.farshore("restore", "other", *vault, "--at", "latest", "--to", s.path("stolen.raw"), ok=False, site=s.path("fresh"))
    check(refused.returncode == REFUSED, f"the uploader reads another host's disk: {refused.returncode} {refused.stderr}")
    check(attempt.returncode == REFUSED, f"a collection as the uploader: {attempt.returncode} {attempt.stdout}{attempt.stderr}")

    # A host more joins with these rights, and keeps contact; who may only read does not.
    far, joined = s.path("far"), s.path("joined")
    s.farshore("host", "key", url, "--key-file", s.key(), "--out", s.path("registration"))
    join = ["host", "join", "--registration-key", s.path("registration"), "--name", "joined"]
    s.farshore(*join, "--key-file", s.path("far.key"), env=identities["recovery"], site=far, status=REFUSED)
    s.farshore(*join, "--key-file", s.path("joined.key"), site=joined)

    def contact():
        listed = s.farshore_json("host", "list", "--vault", url, "--key-file", s.key(), env=identities["recovery"], site=far)[0]["hosts"]
        return next(host for host in listed if host["name"] == "joined").get("contactSeconds")

    s.stop(s.start("upload", "--foreground", site=joined, wait_for=lambda: contact() is not None))

    # Retention collects, in two runs with an upload in between; the uploader could not.
    deleted = 0
    for _ in range(3):
        deleted += s.farshore_json("vault", "collect", url, "--key-file", s.key(), env=identities["retention"])["deletedObjects"]
        s.farshore("upload", "--once")
        s.farshore("upload", "--once", env=owner, site=s.path("elsewhere"))
        change(1)
    with open(served, "rb") as file:
        want = hashlib.file_digest(file, "sha256").hexdigest()
    recovery = identities["recovery"]
    s.farshore("restore", "d", *vault, "--at", "latest", "--to", s.path("restored.raw"), env=recovery, site=s.path("far"))
    with open(s.path("restored.raw"), "rb") as file:
        check(hashlib.file_digest(file, "sha256").hexdigest() == want, "what was restored is something else")
    check(s.farshore_json("vault", "check", url, "--key-file", s.key(), env=recovery, site=s.path("far"))["damaged"] == [], "damage")
    pin = s.farshore("point", "pin", "d/latest", "--name", "mine", *vault, env=recovery, site=s.path("far"), ok=False)
    check(pin.returncode == REFUSED, f"the recovery identity writes: {pin.returncode} {pin.stderr}")
    print(f"the uploader did its day without the right to delete; {deleted} objects collected by the retention identity")
    check(deleted > 0, "nothing was collected")
