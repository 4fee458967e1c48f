"""A vault's key is rotated between two uploads: both points restore with the new key and with the new kit, by farshore and without it;
the old key is refused as a wrong key; an uploader whose key file was replaced goes on."""
import hashlib
import os
import shutil
import sys

from scenario import MIB, Scenario, check, requires_root, run

requires_root()
SCRIPT = os.path.join(os.path.dirname(__file__), "../../examples/restore-without-farshore/restore.py")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


with Scenario(seed=11) as s:
    url = s.make_vault()
    image, used, old, new, kit = s.path("disk.img"), s.path("used.key"), s.path("old.key"), s.path("new.key"), s.path("kit")
    shutil.copy(s.key(), used)
    shutil.copy(s.key(), old)
    with open(image, "wb") as file:
        file.write(s.random.randbytes(8 * MIB))
    s.farshore("protect", image, "--name", "disk", "--vault", url, "--key-file", used)
    s.farshore("upload", "--once")
    _, mnt = s.mount()
    served, contents = os.path.join(mnt, "disk", "disk.raw"), {}

    def write_and_upload(tag):
        with open(served, "r+b") as file:
            for _ in range(20):
                file.seek(s.random.randrange(2000) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        s.farshore("point", "cut", "disk", "--tag", tag)
        s.farshore("upload", "--once")
        contents[tag] = digest(served)

    write_and_upload("before")
    rotated = s.farshore_json("vault", "key", "rotate", url, "--key-file", old, "--new-key-file", new)
    with open(kit, "w") as file:
        file.write(rotated["recoveryKit"])
    said = s.farshore("upload", "--once", status=5).stderr
    check("wrong key" in said, "an uploader with the old key file says " + said)
    shutil.copy(new, used)
    s.farshore("resume", "disk")
    write_and_upload("after")

    out = s.path("out.raw")
    for tag, content in contents.items():
        for key in (new, kit):
            s.farshore("restore", "disk", "--vault", url, "--key-file", key, "--at", tag, "--to", out, site=s.path("other-site"))
            check(digest(out) == content, f"{tag} restored with {os.path.basename(key)} differs")
            os.unlink(out)
            run(sys.executable, SCRIPT, s.path("vault"), "disk", out, "--at", tag, "--key-file", key)
            check(digest(out) == content, f"{tag} restored without farshore with {os.path.basename(key)} differs")
            os.unlink(out)
    s.farshore("point", "list", "disk", "--vault", url, "--key-file", old, site=s.path("third-site"), status=5)
    check(run(sys.executable, SCRIPT, s.path("vault"), "disk", out, "--key-file", old, ok=False).returncode != 0, "restore.py opens new objects with the old key")
    s.farshore("vault", "key", "remove", url, "1", "--key-file", new)
    check([key["number"] for key in s.farshore_json("vault", "key", "list", url, "--key-file", new)] == [rotated["number"]], "the old key is still there")
    s.farshore("vault", "check", url, "--key-file", new, "--read-data")
    print("both points restored with the new key and the new kit, by farshore and by restore.py; the old key refused, then removed")
