"""A disk replicated into Azure Blob (the double that satisfies Microsoft's client) and back from there alone: by key and by a shared
access signature without the right to delete; a wrong key, an expired signature and no network each end with their own status;
a PUT that is acknowledged and not kept is noticed; no secret is in what was printed or kept."""
import hashlib
import os
import sys

from scenario import MIB, ROOT, Scenario, check, requires, run
import objects
from proxy import Proxy

requires("openssl")
client = os.path.join(ROOT, "Tests", "servers", "azure-client")
if run(client, "installed", ok=False).returncode == 77:
    print("skipped: azure-storage-blob of PyPI is not installed")
    sys.exit(77)

with Scenario(seed=21) as s:
    server = objects.facts(s, "azure-blob")
    account, key, container = server["ACCOUNT"], server["KEY"], server["CONTAINER"]
    proxy = Proxy("127.0.0.1", int(server["ENDPOINT"].split(":")[2].split("/")[0]))
    s.at_end(proxy.stop)
    said = []

    def token(rights, seconds):
        return run(client, "sas", account, key, container, rights, seconds).stdout.strip().removeprefix("SAS=")

    def farshore(*words, **options):
        done = s.farshore(*words, **options)
        said.append(done.stdout + done.stderr)
        return done

    by_key, by_token = {"AZURE_STORAGE_KEY": key}, {"AZURE_STORAGE_SAS_TOKEN": token("rwl", 3600)}
    url = f"azblob://{account}/{container}/site a/disks?endpoint=http://127.0.0.1:{proxy.port}/{account}".replace(" ", "%20")
    farshore("vault", "create", url, "--key-file", s.key(), env=by_key)
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(128 * MIB)
        for number in range(0, 128, 2):
            file.seek(number * MIB)
            file.write(s.random.randbytes(MIB // 2))
    farshore("protect", image, "--name", "d", "--vault", url, "--key-file", s.key(), env=by_key)
    farshore("upload", "--once", env=by_key)
    puts = [r for r in proxy.requests if r[0] == "PUT"]
    print(f"initial replication: {len(puts)} PUTs")

    process, mnt = s.mount()
    served = os.path.join(mnt, "d", "disk.raw")

    def change(count):
        with open(served, "r+b") as file:
            for _ in range(count):
                file.seek(s.random.randrange(128 * MIB // 4096) * 4096)
                file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        with open(served, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # A segment of more than 32 MiB does not happen; what a signature without `d` must do is replicate.
    want = {"first": change(500)}
    farshore("point", "cut", "d", "--tag", "first")
    farshore("upload", "--once", env=by_token)
    mark = len(proxy.requests)
    farshore("upload", "--once", env=by_token)
    idle = proxy.requests[mark:]
    check(not [r for r in proxy.requests if r[0] == "DELETE"], "replication deletes nothing")
    check(not [r for r in idle if "comp=list" in r[1]], "steady state must not list")
    print(f"an idle round costs {len(idle)} requests")

    # Refusals, each with its status.
    want["second"] = change(500)
    farshore("point", "cut", "d", "--tag", "second")
    wrong = {"AZURE_STORAGE_KEY": "AAAA" + key[4:]}
    for environment, status, words in [
        (wrong, 4, "AZURE_STORAGE_KEY"), ({"AZURE_STORAGE_SAS_TOKEN": token("rwl", -60)}, 4, "expired"), ({"AZURE_STORAGE_SAS_TOKEN": token("rl", 600)}, 4, "rights"),
    ]:
        done = farshore("upload", "--once", env=environment, status=status)
        check(words in done.stderr and "Try: " in done.stderr, done.stderr)
        print(f"exit {status}:", done.stderr.strip().splitlines()[0])
    proxy.fault = lambda method, path: "drop" if method == "PUT" and "/segments/" in path else None
    done = farshore("upload", "--once", ok=False, env=by_token)
    check(done.returncode not in (0, 2), "a dropped segment was taken for stored")
    print(f"exit {done.returncode}, dropped PUT:", done.stderr.strip().splitlines()[0])
    proxy.fault = lambda method, path: 503
    done = farshore("upload", "--once", status=3, env=by_key)
    print("exit 3:", done.stderr.strip().splitlines()[0])
    proxy.fault = None
    farshore("upload", "--once", env=by_key)

    # Elsewhere, with a signature that only reads.
    check(s.stop(process) == 0, "the mount did not stop cleanly")
    os.unlink(image)
    reading, other = {"AZURE_STORAGE_SAS_TOKEN": token("rl", 3600)}, s.path("other")
    farshore("vault", "check", url, "--read-data", "--key-file", s.key(), site=other, env=reading)
    for tag, digest in want.items():
        out = s.path("restored.raw")
        farshore("restore", "d", "--vault", url, "--key-file", s.key(), "--at", tag, "--to", out, site=other, env=reading)
        with open(out, "rb") as file:
            check(hashlib.file_digest(file, "sha256").hexdigest() == digest, f"the disk restored at {tag} differs")
        os.unlink(out)
    print("checked and restored from the container alone: equal")

    proxy.stop()
    done = farshore("point", "list", "d", "--vault", url, "--key-file", s.key(), site=other, env=reading, status=3)
    print("exit 3:", done.stderr.strip().splitlines()[0])

    # Neither what was printed nor what was kept holds a secret.
    secrets = [key.encode()[:40]] + [by["AZURE_STORAGE_SAS_TOKEN"].split("sig=")[1][:24].encode() for by in (by_token, reading)]
    kept = [open(process.log, "rb").read(), "".join(said).encode()]
    for site in (s.site, other):
        for folder, _, names in os.walk(site):
            kept += [open(os.path.join(folder, name), "rb").read() for name in names if os.path.isfile(os.path.join(folder, name))]
    check(not [secret for secret in secrets for content in kept if secret in content], "a secret was printed or kept")
    print(f"no secret in {len(kept)} files and outputs")
