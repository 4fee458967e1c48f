"""A bucket with object lock on Ceph RGW, with the policies of examples/object-lock: locks of what points need are extended and others not;
a thief with every right but to bypass locks deletes every object and puts junk over many; `vault undo` brings all of it back, every point
restores bit-exact, replication and collection go on."""
import datetime
import hashlib
import json
import os
import time
import xml.etree.ElementTree

from scenario import MIB, ROOT, Scenario, check, requires, run
import objects

requires("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
DAMAGE, BUCKET = 6, "locked"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


with Scenario() as s:
    host, port, _, owner = objects.start(s, "ceph-rgw")
    endpoint, examples = f"http://{host}:{port}", os.path.join(ROOT, "examples")
    admin = os.path.join(ROOT, "Tests", "servers", "s3-admin")
    keys = [owner["AWS_ACCESS_KEY_ID"], owner["AWS_SECRET_ACCESS_KEY"]]
    ceph = dict(os.environ, CEPH_CONF=s.path("ceph-rgw", "ceph.conf"))
    run(admin, "make-locked-bucket", endpoint, BUCKET, 1, *keys)
    who = {}
    for name in ("uploader", "retention", "recovery", "undo", "thief"):
        run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", f"--access-key={name.upper()}KEY", f"--secret={name}secret", env=ceph)
        who[name] = {"AWS_ACCESS_KEY_ID": f"{name.upper()}KEY", "AWS_SECRET_ACCESS_KEY": f"{name}secret"}

    def ask(method, place, identity, body=b"", headers=()):
        return objects.request(port, method, f"/{BUCKET}{place}", identity, body, headers)

    def set_policy(disk):
        thief, everything = {"AWS": ["arn:aws:iam:::user/thief"]}, [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
        statements = [
            {"Effect": "Allow", "Principal": thief, "Action": ["s3:*"], "Resource": everything},
            {"Effect": "Deny", "Principal": thief, "Action": ["s3:BypassGovernanceRetention", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"], "Resource": everything}]
        for folder in ("least-privilege", "object-lock"):
            with open(os.path.join(examples, folder, "ceph-bucket-policy.json")) as file:
                statements += json.loads(file.read().replace("BUCKET", BUCKET).replace("PREFIX", "vault").replace("DISK-ID", disk))["Statement"]
        with open(s.path("policy.json"), "w") as file:
            json.dump({"Version": "2012-10-17", "Statement": statements}, file)
        run(admin, "put-policy", endpoint, BUCKET, s.path("policy.json"), *keys)

    def versions(identity=owner):
        """All versions and delete markers: [(key, version, is the newest, is a marker)]."""
        found, mark = [], ""
        while True:
            page = xml.etree.ElementTree.fromstring(ask("GET", f"?max-keys=1000&prefix=vault%2F&versions={mark}", identity).read())
            for entry in page:
                if entry.tag in (NAMESPACE + "Version", NAMESPACE + "DeleteMarker"):
                    found.append((entry.findtext(NAMESPACE + "Key"), entry.findtext(NAMESPACE + "VersionId"), entry.findtext(NAMESPACE + "IsLatest") == "true",
                                  entry.tag.endswith("Marker")))
            if page.findtext(NAMESPACE + "IsTruncated") != "true":
                return found
            mark = f"&key-marker={found[-1][0].replace('/', '%2F')}&version-id-marker={found[-1][1]}"

    def days_locked(key, version):
        until = ask("HEAD", f"/{key}?versionId={version}", owner).headers.get("x-amz-object-lock-retain-until-date", "1970-01-01T00:00:00")
        return (datetime.datetime.fromisoformat(until[:19] + "+00:00") - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86400

    with open(os.path.join(examples, "object-lock", "lifecycle.xml")) as file:
        # A day where 30 stand, and below a day is a second.
        answer = ask("PUT", "?lifecycle", owner, file.read().replace("PREFIX", "vault").replace(">30<", ">1<").encode())
        check(answer.status == 200, f"the lifecycle rule is refused: {answer.read()}")

    url = objects.location(BUCKET, port, "vault")
    s.farshore("vault", "create", url, "--key-file", s.key(), env=owner)
    vault = ["--vault", url, "--key-file", s.key()]
    at = [url, "--key-file", s.key()]
    set_policy("none")
    os.environ.update(who["uploader"])
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(3 * MIB))
        file.truncate(8 * MIB)
    s.farshore("protect", s.path("disk.img"), "--name", "d", *vault, "--policy", s.policy(1))
    set_policy(s.farshore_json("status")["disks"][0]["id"])
    s.farshore("upload", "--once")
    _, mnt = s.mount(served="d")
    served, contents = os.path.join(mnt, "d", "disk.raw"), {}

    def change():
        with open(served, "r+b", buffering=0) as file:
            for _ in range(16):
                file.seek(s.random.randrange(2048) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        tag = f"t{len(contents)}"
        s.farshore("point", "cut", "d", "--tag", tag)
        contents[tag] = digest(served)
        s.farshore("upload", "--once")

    def collect():
        return s.farshore_json("vault", "collect", *at, env=who["retention"])

    # What an interrupted attempt left behind is condemned, deleted once the uploader took note, and has a marker then.
    change()
    for _ in range(5):
        left = s.random.randbytes(32).hex()
        check(ask("PUT", f"/vault/chunks/{left[:2]}/{left}.1", owner, b"left behind").status == 200, "what is left behind cannot be put")
    check(collect()["condemnedObjects"] == 5, "what was left behind was not condemned")
    change()
    deleted = collect()["deletedObjects"]
    check(deleted == 5, f"{deleted} objects were collected")

    # Locks: what points need for 15 days, the rest for the day that the bucket gives.
    short = s.farshore("vault", "check", *at, "--locked-for", "15d", env=who["retention"], ok=False)
    check(short.returncode == 1 and "not locked for so long" in short.stderr, f"{short.returncode} {short.stderr}")
    locked = s.farshore_json("vault", "lock", *at, "--for", "15d", env=who["retention"])
    check(locked["extendedObjects"] == locked["objects"] > 20, f"locked: {locked}")
    again = s.farshore_json("vault", "lock", *at, "--for", "15d", env=who["retention"])
    check(again["extendedObjects"] == 0 and again["objects"] == locked["objects"], f"locked again: {again}")
    checked = s.farshore_json("vault", "check", *at, "--locked-for", "15d", env=who["retention"])
    check(checked["locks"]["shortObjects"] == 0 and checked["locks"]["objects"] == locked["objects"], f"checked: {checked}")
    before = versions()
    hidden = {key for key, _, newest, marker in before if newest and marker}
    spans = {(key, version): days_locked(key, version) for key, version, _, marker in before if not marker}
    long = [span for (key, _), span in spans.items() if span > 15]
    check(len(long) == locked["objects"], f"{len(long)} objects have long locks, {locked['objects']} are needed")
    check(all(span < 1.01 for (key, _), span in spans.items() if key in hidden) and sum("/chunks/" in key for key in hidden) == deleted, "a lock of what no point needs was extended")
    print(f"{locked['objects']} objects locked for 15 days, {len(spans) - len(long)} others left at a day; {deleted} were collected")

    # What cannot be done: versions destroyed, locks shortened. What can: everything deleted, junk put over it.
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
    soon = f'<Retention xmlns="{NAMESPACE[1:-1]}"><Mode>GOVERNANCE</Mode><RetainUntilDate>{now:%Y-%m-%dT%H:%M:%SZ}</RetainUntilDate></Retention>'.encode()
    bypass = {"x-amz-bypass-governance-retention": "true"}
    for key, version, _, marker in versions(who["thief"]):
        if not marker:
            for headers in ((), bypass):
                answer = ask("DELETE", f"/{key}?versionId={version}", who["thief"], headers=headers)
                check(answer.status == 403, f"the thief removed {key}: {answer.status}")
    answer = ask("PUT", f"/{key}?retention&versionId={version}", who["thief"], soon, bypass)
    check(answer.status == 403, f"the thief shortened a lock: {answer.status}")
    check(ask("DELETE", f"/{key}?versionId={version}", who["uploader"]).status == 403, "the uploader removed a version")
    for key in sorted({key for key, _, newest, marker in before if newest and not marker}):
        choice = s.random.randrange(3)
        if choice != 1:
            check(ask("DELETE", f"/{key}", who["thief"]).status == 204, f"delete of {key}")
        if choice != 0:
            check(ask("PUT", f"/{key}", who["thief"], s.random.randbytes(200)).status == 200, f"junk over {key}")
    heads = max(key for key, *_ in before if "/heads/" in key)
    ask("PUT", "/" + heads[:-20] + f"{int(heads[-20:]) + 1:020}", who["thief"], b"junk")
    # The bucket's lifecycle rule takes earlier versions, and none that is locked.
    time.sleep(2)
    run("radosgw-admin", "lc", "process", "--rgw-lc-debug-interval=1", env=ceph)
    lost = s.farshore("vault", "check", *at, env=who["recovery"], site=s.path("far"), ok=False)
    check(lost.returncode != 0, f"nothing was destroyed? {lost.stdout}")

    # Locks hold on; the undo shows, then does.
    told = s.farshore("vault", "lock", *at, "--for", "20d", env=who["retention"], status=DAMAGE)
    check("were deleted or written over" in told.stderr, told.stderr)
    plan = s.farshore_json("vault", "undo", *at, env=who["undo"])
    check(not plan["applied"] and plan["lost"] == [] and len(plan["steps"]) > locked["objects"] - 5, f"planned: {len(plan['steps'])} steps, lost {plan['lost']}")
    count = len(versions())
    done = s.farshore_json("vault", "undo", *at, "--apply", env=who["undo"])
    check(done["applied"] and done["steps"] == plan["steps"] and len(versions()) != count, "the undo did something else than it had shown")
    check(s.farshore_json("vault", "undo", *at, env=who["undo"])["steps"] == [], "something is left to undo")
    check(hidden <= {key for key, _, newest, marker in versions() if newest and marker}, "what was collected came back")
    kinds = {kind: sum(step["step"] == kind for step in done["steps"]) for kind in ("undelete", "copy", "delete")}
    print(f"thief: {kinds['undelete']} objects deleted and {kinds['copy']} written over, brought back; {kinds['delete']} foreign heads deleted")
    check(all(kinds.values()), f"{kinds}")

    def restore_all():
        points = s.farshore_json("point", "list", "d", *vault, env=who["recovery"], site=s.path("far"))
        tags = [point["tag"] for point in points if point.get("tag")]
        for tag in tags:
            s.farshore("restore", "d", *vault, "--at", tag, "--to", s.path(f"{tag}.raw"), "--force", env=who["recovery"], site=s.path("far"))
            check(digest(s.path(f"{tag}.raw")) == contents[tag], f"the point {tag} is something else")
        return tags

    tags = restore_all()
    check(len(tags) > 1 and max(contents) in tags, f"points: {tags}")
    check(s.farshore_json("vault", "check", *at, "--read-data", env=who["recovery"], site=s.path("far"))["damaged"] == [], "damage after the undo")
    change()
    collect()
    check(s.farshore_json("status")["disks"][0]["health"] == "normal", s.farshore("status").stdout)
    check(max(contents) in restore_all(), "the newest point is not there")
    s.farshore("vault", "lock", *at, "--for", "20d", env=who["retention"])
    print(f"{len(tags)} points restored bit-exact, replication and collection went on")
