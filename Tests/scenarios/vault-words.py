"""What a person at the terminal is told of a vault that does not open or is not there: the exit status of the table, the true reason, and commands
to try that work as they stand, with the key that was given."""
import os
import shutil

from scenario import MIB, Scenario, check, requires
import objects

requires("moto_server")

with Scenario() as s:
    url, key = s.make_vault(), ["--key-file", s.key()]
    vault, kit = s.path("vault"), s.path("kit.txt")
    with open(s.path("disk.img"), "wb") as file:
        file.write(s.random.randbytes(4 * MIB))
    s.farshore("protect", s.path("disk.img"), "--name", "disk", "--vault", url, *key)
    s.farshore("upload", "--once")
    with open(kit, "w") as file:
        file.write(s.farshore_json("vault", "key", "export", url, *key)["recoveryKit"])
    far = {"site": s.path("far")}

    def told(status, text, *words):
        said = s.farshore(*words, ok=False, **far)
        check(said.returncode == status and text in said.stderr and "\nTry: " in said.stderr, f"{' '.join(words)}: {said.returncode} {said.stderr}")
        return said.stderr

    # Commands to try have the key.
    told(10, f"farshore vault key list URL --key-file {s.key()}", "vault", "key", "remove", url, "9", *key)
    told(10, f"farshore point list DISK --vault URL --key-file {s.key()}", "restore", "disk", "--vault", url, "--at", "#77", "--to", s.path("out.raw"), *key)

    # Which keys open what.
    s.farshore("vault", "key", "rotate", url, *key, "--new-key-file", s.path("new.key"), **far)
    listed = s.farshore("vault", "key", "list", url, "--key-file", s.path("new.key"), **far).stdout.splitlines()
    check(listed[1].endswith("data before the last rotation") and listed[2].endswith("all data"), "\n".join(listed))
    s.farshore("vault", "key", "remove", url, "2", "--key-file", s.path("new.key"), status=1, **far)
    key = ["--key-file", s.path("new.key")]
    with open(kit, "w") as file:
        file.write(s.farshore_json("vault", "key", "export", url, *key, **far)["recoveryKit"])

    # A passphrase from a pipe.
    os.mkfifo(s.path("pipe"))
    told(1, "is a pipe", "vault", "key", "add", url, *key, "--new-passphrase-file", s.path("pipe"))

    # Without key objects the vault is still encrypted.
    os.rename(os.path.join(vault, "keys"), s.path("keys"))
    told(5, "the recovery kit", "point", "list", "disk", "--vault", url, *key)
    told(5, "the vault is encrypted", "vault", "key", "list", url, "--key-file", kit)
    told(6, "1 damaged object", "vault", "check", url, "--key-file", kit)
    s.farshore("vault", "key", "add", url, "--key-file", kit, "--new-key-file", s.path("third.key"), **far)
    check(len(s.farshore_json("point", "list", "disk", "--vault", url, "--key-file", s.path("third.key"), **far)) == 1, "the key made with the kit opens nothing")

    # Without its farshore.json it is none, and nobody is led to make another one there.
    os.remove(os.path.join(vault, "farshore.json"))
    said = told(10, "objects of a vault are there", "point", "list", "disk", "--vault", url, *key)
    check("comes back from a copy" in said, said)
    told(9, "is not empty", "vault", "create", url, *key)
    shutil.rmtree(vault)
    os.mkdir(vault)
    told(10, "nothing is there", "point", "list", "disk", "--vault", url, *key)

    # A bucket that is not there, and a target that does not answer.
    host, port, bucket, credentials = objects.start(s, "moto")
    os.environ.update(credentials)
    told(3, "NoSuchBucket", "point", "list", "disk", "--vault", objects.location("no-such-bucket", port, "v"), *key)
    told(10, "nothing is there", "point", "list", "disk", "--vault", objects.location(bucket, port, "v"), *key)
    said = told(3, "cannot be reached: Connection refused\n", "point", "list", "disk", "--vault", objects.location(bucket, 1, "v"), *key)
    print("each text as it has to be")
