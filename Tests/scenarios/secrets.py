"""Planted secrets (an S3 key and session token, an Azure key, a passphrase, a key file) are searched in all that Farshore prints,
keeps, shows in /proc and leaves behind when it crashes, after errors of every kind were forced with them in use.

By design: a process has the environment it was started with, so a key given by the environment is in its /proc/PID/environ,
which its user and root can read; a file of credentials is not. No process has a secret on its command line.
"""
# Promise F12: No key, passphrase or credential is in what Farshore prints, logs or keeps, in a core file, or in `/proc`, but for
# the environment of a process that was given it there.
import base64
import hashlib
import os
import resource
import signal
import subprocess
import time

from scenario import MIB, PROGRAM, Scenario, check, run
import objects
from proxy import Proxy


def limits():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


with Scenario(seed=40) as s:
    s3_secret = "CANARYs3secret" + s.random.randbytes(13).hex()
    s3_token = "CANARYs3token" + s.random.randbytes(20).hex()
    passphrase = "CANARY passphrase " + s.random.randbytes(12).hex()
    key_bytes = s.random.randbytes(32)
    server = objects.facts(s, "azure-blob")
    azure_key = server["KEY"]
    wrong_azure_key = base64.b64encode(s.random.randbytes(64)).decode()
    texts = {"S3 secret": s3_secret, "S3 token": s3_token, "passphrase": passphrase, "Azure key": azure_key, "wrong Azure key": wrong_azure_key,
             "signature": "CANARYsig" + s.random.randbytes(12).hex()}
    needles = {}
    for name, text in texts.items():
        needles[name] = [text.encode(), base64.b64encode(text.encode()).rstrip(b"="), text.encode().hex().encode()]
    for name, raw in {"key file": key_bytes, "Azure key": base64.b64decode(azure_key), "wrong Azure key": base64.b64decode(wrong_azure_key)}.items():
        needles.setdefault(name, []).extend([raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")])

    def leaks(content):
        return sorted({name for name, forms in needles.items() for form in forms if form in content})

    check(leaks(b"x" + s3_secret.encode()) == ["S3 secret"] and leaks(key_bytes.hex().encode()) == ["key file"], "the search finds nothing")

    # The only places that hold them.
    planted = s.path("planted")
    os.mkdir(planted)

    def plant(name, content):
        with open(os.path.join(planted, name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return os.path.join(planted, name)

    key_file, passphrase_file = plant("vault.key", key_bytes), plant("passphrase", passphrase + "\n")
    s3_file = plant("s3", f"[default]\naws_access_key_id = AKIACANARY\naws_secret_access_key = {s3_secret}\naws_session_token = {s3_token}\n")
    account, container = server["ACCOUNT"], server["CONTAINER"]
    azure_file = plant("azure", f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={azure_key};EndpointSuffix=core.windows.net\n")
    wrong_azure_file = plant("azure-wrong", f"AccountName={account};AccountKey={wrong_azure_key}\n")
    broken_azure_file = plant("azure-broken", f"AccountName={account};AccountKey={azure_key[:-3]}!!!;AccountKey\n")
    broken_s3_file = plant("s3-broken", f"[default]\naws_secret_access_key = {s3_secret}\n{s3_token}\n")

    proxy = Proxy("127.0.0.1", int(server["ENDPOINT"].split(":")[2].split("/")[0]))
    s.at_end(proxy.stop)
    endpoint = f"endpoint=http://127.0.0.1:{proxy.port}/{account}"

    def azure(credentials, at=endpoint):
        return f"azblob://{account}/{container}/v?{at}&credentials={credentials}"

    said, failures = [], []

    def farshore(*words, **options):
        done = s.farshore(*words, ok=False, **options)
        said.append((" ".join(map(str, words)), done.stdout + done.stderr))
        return done

    def must(*words, **options):
        done = farshore(*words, **options)
        check(done.returncode == 0, f"{words}: {done.stderr}")
        return done

    def must_fail(*words, **options):
        done = farshore(*words, **options)
        check(done.returncode != 0, f"{words} did not fail")
        failures.append(done.stderr.strip().splitlines()[0] if done.stderr.strip() else "")

    # In use: a vault in the Azure double by a file of credentials and a key file, another in a directory by a passphrase.
    local = "file://" + s.path("vault")
    kit = must("vault", "create", azure(azure_file), "--key-file", key_file).stdout
    check("kit" in kit.lower(), "no recovery kit was printed")
    # The recovery kit is the key, and printing it once is what `vault create` is for.
    said.pop()
    must("vault", "create", local, "--passphrase-file", passphrase_file)
    said.pop()
    for name, url, key in (("a", azure(azure_file), ("--key-file", key_file)), ("p", local, ("--passphrase-file", passphrase_file))):
        with open(s.path(name + ".img"), "wb") as file:
            file.write(s.random.randbytes(2 * MIB))
            file.truncate(8 * MIB)
        must("protect", s.path(name + ".img"), "--name", name, "--vault", url, *key)
    mount, mnt = s.mount(served="a")
    crash = s.path("crash")
    os.mkdir(crash)
    environment = dict(os.environ, FARSHORE_SITE=s.site)
    log = open(s.path("upload.log"), "w")
    upload = subprocess.Popen([PROGRAM, "upload", "--foreground"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=crash, preexec_fn=limits,
                              start_new_session=True)
    s.at_end(lambda: upload.poll() is None and upload.kill())
    deadline = time.monotonic() + 60
    while any(disk["phase"] != "delta" for disk in s.farshore_json("status")["disks"]):
        check(time.monotonic() < deadline and upload.poll() is None, "not replicated: " + open(s.path("upload.log")).read())
        time.sleep(0.1)

    # Errors of all kinds with the secrets in hand.
    by_env = {"AWS_ACCESS_KEY_ID": "AKIACANARY", "AWS_SECRET_ACCESS_KEY": s3_secret, "AWS_SESSION_TOKEN": s3_token}
    dead = "endpoint=http://127.0.0.1:1"
    must_fail("vault", "check", f"s3://bucket/v?{dead}", "--key-file", key_file, env=by_env, timeout=120)
    must_fail("vault", "check", f"s3://bucket/v?{dead}", "--key-file", key_file, env={"AWS_SHARED_CREDENTIALS_FILE": s3_file}, timeout=120)
    must_fail("vault", "check", f"s3://bucket/v?{dead}", "--key-file", key_file, env={"AWS_SHARED_CREDENTIALS_FILE": broken_s3_file}, timeout=120)
    must_fail("vault", "check", f"s3://bucket/v?{dead}", "--key-file", key_file, env={"AWS_SECRET_ACCESS_KEY": s3_secret}, timeout=120)
    must_fail("vault", "check", f"s3://AKIACANARY:{s3_secret}@bucket/v?{dead}", "--key-file", key_file)
    must_fail("vault", "check", f"azblob://{account}/{container}/v?{endpoint}&sig={texts['signature']}", "--key-file", key_file)
    must_fail("vault", "check", azure(wrong_azure_file), "--key-file", key_file)
    must_fail("vault", "check", azure(broken_azure_file), "--key-file", key_file)
    must_fail("vault", "check", azure(azure_file), "--passphrase-file", passphrase_file)
    must_fail("vault", "check", azure(azure_file), "--key-file", passphrase_file)
    must_fail("vault", "check", azure(azure_file, dead + "/" + account), "--key-file", key_file, timeout=120)
    must_fail("vault", "check", local, "--key-file", key_file)
    must_fail("vault", "check", local, "--passphrase-file", key_file)
    must_fail("vault", "check", f"azblob://{account}/{container}/v?{endpoint}", "--key-file", key_file, env={"AZURE_STORAGE_KEY": wrong_azure_key})
    must_fail("vault", "check", f"azblob://{account}/{container}/v?{endpoint}", "--key-file", key_file,
              env={"AZURE_STORAGE_SAS_TOKEN": f"sv=2022-11-02&ss=b&srt=sco&sp=rl&se=2001-01-01&sig={texts['signature']}"})
    # The uploader's own: refused, and cut off in the middle.
    for fault in (403, 401, 500, "drop", "cut"):
        proxy.fault = lambda method, path, fault=fault: fault if method == "PUT" else None
        with open(os.path.join(mnt, "a", "disk.raw"), "r+b") as file:
            file.write(s.random.randbytes(4096))
            os.fsync(file.fileno())
        farshore("resume", "a")
        time.sleep(1)
    proxy.fault = None
    for words in (("status",), ("status", "--json"), ("events",), ("job", "list"), ("doctor",), ("point", "list", "p", "--vault", local, "--passphrase-file", passphrase_file)):
        farshore(*words)

    # /proc of all that runs: command lines, environments, names, links of open files.
    def proc(pid):
        found = {}
        for name in ("cmdline", "environ", "comm"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    found[f"/proc/{pid}/{name}"] = file.read()
            except ProcessLookupError:
                # It has ended.
                found[f"/proc/{pid}/{name}"] = b""
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except FileNotFoundError:
                # Closed since.
                continue
        found[f"/proc/{pid}/fd"] = "\n".join(links).encode()
        return found

    def tree(pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [pid] + [one for child in file.read().split() for one in tree(int(child))]

    shown = {}
    for root in (mount.pid, upload.pid):
        for pid in tree(root):
            shown.update(proc(pid))
    # One that has ended, or has not begun yet, shows nothing of its environment.
    for _ in range(20):
        given = subprocess.Popen([PROGRAM, "vault", "check", f"azblob://{account}/{container}/v?endpoint=http://127.0.0.1:{proxy.port}/{account}", "--key-file", key_file],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(environment, AZURE_STORAGE_KEY=azure_key))
        time.sleep(0.02)
        own = proc(given.pid)
        given.wait()
        by_design = own.pop(f"/proc/{given.pid}/environ")
        if by_design:
            break
    shown.update(own)

    # A crash, with cores allowed: none is written, though others write theirs. A pipe instead of a file cannot be looked at.
    # Swift's runtime has another program look at what crashed, and goes on after a first signal from outside. A second one that came meanwhile
    # would leave that program waiting for ever.
    while upload.poll() is None:
        os.kill(upload.pid, signal.SIGABRT)
        time.sleep(1)
        while upload.poll() is None and subprocess.run(["pgrep", "--parent", str(upload.pid)], capture_output=True).returncode == 0:
            time.sleep(0.1)
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read().strip()
    dummy = subprocess.Popen(["sleep", "60"], cwd=crash, preexec_fn=limits)
    time.sleep(0.2)
    os.kill(dummy.pid, signal.SIGABRT)
    dummy.wait()
    cores = [name for name in os.listdir(crash)]
    if "/" not in pattern and not pattern.startswith("|"):
        check(len(cores) == 1, f"cores: {cores}; one is that of sleep")
        os.unlink(os.path.join(crash, cores[0]))
    check(upload.returncode == -signal.SIGABRT, f"the uploader ended with {upload.returncode}")
    with open(f"/proc/{mount.pid}/limits") as file:
        core = next(line for line in file if line.startswith("Max core file size"))
    check(core.split()[4] == "1", f"a core of the mount may be written: {core}")

    s.stop(mount)
    must("upload", "--once")
    must("restore", "p", "--vault", local, "--passphrase-file", passphrase_file, "--at", "latest", "--to", s.path("restored.raw"))
    with open(s.path("restored.raw"), "rb") as restored, open(s.path("p.img"), "rb") as image:
        check(hashlib.file_digest(restored, "sha256").digest() == hashlib.file_digest(image, "sha256").digest(), "the restored disk differs")

    found = [(place, leaks(text.encode())) for place, text in said] + [(place, leaks(content)) for place, content in shown.items()]
    files = 0
    for folder, _, names in os.walk(s.dir):
        if folder.startswith(planted) or folder.startswith(s.path("azure-blob")):
            continue
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                files += 1
                with open(path, "rb") as file:
                    found.append((path, leaks(file.read())))
    with_secret = [(place, names) for place, names in found if names]
    # What the person typed into the URL is on that command line and comes back to nobody.
    check(not with_secret, f"secrets in {with_secret}")
    check("Azure key" in leaks(by_design), "the environment of a process does not hold what was given in it")
    for failure in failures:
        print("  " + failure)
    print(f"{len(needles)} secrets in {sum(map(len, needles.values()))} forms: none in {len(said)} outputs, {files} files, {len(shown)} entries of /proc, nor in a core; in the environment only where it was given")
