"""What every scenario shares: a scratch directory, the farshore program, real loop devices, and a clean end.

A scenario is one script: it builds `with Scenario() as s:`, raises on failure, exits 77 with a reason when the machine
lacks what it needs. Whatever it mounted, attached or started is gone when it ends, also when it fails.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("FARSHORE", os.path.join(ROOT, ".build", "release", "farshore"))
sys.path.insert(0, os.path.join(ROOT, "Tests", "servers"))
SCALE = float(os.environ.get("FARSHORE_CAMPAIGN_SCALE", "1"))


class Failed(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failed(message)


def requires(*tools):
    """Ends the scenario as skipped when a program is not on the path."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        print("skipped: this machine lacks " + ", ".join(missing))
        sys.exit(77)


def requires_root():
    if os.geteuid() != 0:
        print("skipped: needs root (loop devices)")
        sys.exit(77)


def run(*command, ok=True, **options):
    """Runs a command to its end and returns it; a failure prints what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if ok and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))} exited {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def ended(*_):
    """What takes too long is ended by SIGTERM, which `timeout` sends twice, and cleans up all the same."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


class Scenario:
    def __init__(self, seed=None):
        self.seed = seed if seed is not None else int(os.environ.get("FARSHORE_SEED", random.SystemRandom().randrange(1 << 32)))
        self.random = random.Random(self.seed)
        self._ends = []
        self.loops = set()

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="farshore-scenario-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self.at_end(lambda: shutil.rmtree(self.dir, ignore_errors=True))
        self.site = self.path("site")
        print(f"seed {self.seed}")
        if threading.current_thread() is threading.main_thread():  # no other may say what a signal does
            signal.signal(signal.SIGTERM, ended)
        return self

    def __exit__(self, kind, error, trace):
        for end in reversed(self._ends):
            try:
                end()
            except Exception as problem:  # the rest must still be cleaned up
                print(f"clean-up: {problem}")
        return False

    def at_end(self, action):
        self._ends.append(action)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    # --- farshore

    def farshore(self, *words, site=None, ok=True, status=None, env=None, timeout=300):
        environment = dict(os.environ, FARSHORE_SITE=site or self.site, **(env or {}))
        done = run(PROGRAM, *words, ok=False, env=environment, timeout=timeout)
        if status is not None:
            check(done.returncode == status, f"farshore {' '.join(map(str, words))}: exit {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
        elif ok:
            check(done.returncode == 0, f"farshore {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def farshore_json(self, *words, **options):
        return json.loads(self.farshore(*words, "--json", **options).stdout)

    def start(self, *words, site=None, env=None, log=None, wait_for=None, timeout=120, program=PROGRAM, cwd=None):
        """Starts farshore in the foreground; returns its process when `wait_for()` is true. Ended at the end, by pid."""
        environment = dict(os.environ, FARSHORE_SITE=site or self.site, **(env or {}))
        out = open(log or self.path(f"{words[0]}-{len(self._ends)}.log"), "w")
        process = subprocess.Popen([program, *map(str, words)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True, cwd=cwd)
        process.log = out.name
        self.at_end(lambda: self.stop(process))
        if wait_for:
            deadline = time.monotonic() + timeout
            while not wait_for():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"farshore {' '.join(map(str, words))} did not get ready: exit {process.poll()}\n{open(out.name).read()}")
                time.sleep(0.02)
        return process

    def stop(self, process, timeout=60):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode

    def mount(self, directory=None, *options, site=None, served=None, env=None, program=PROGRAM):
        """Mounts every protected disk of the site; returns (process, directory)."""
        directory = directory or self.path("mnt")
        os.makedirs(directory, exist_ok=True)
        self.at_end(lambda: subprocess.run(["umount", "-l", directory], capture_output=True))
        process = self.start("mount", directory, "--foreground", *options, site=site, env=env, program=program,
                             wait_for=lambda: os.path.ismount(directory) and (served is None or os.path.exists(os.path.join(directory, served, "disk.raw"))))
        return process, directory

    def mount_points(self, directory, *options, site=None):
        os.makedirs(directory, exist_ok=True)
        self.at_end(lambda: subprocess.run(["umount", "-l", directory], capture_output=True))
        return self.start("point", "mount", directory, "--foreground", *options, site=site, wait_for=lambda: os.path.ismount(directory))

    def key(self):
        """A vault key file made by `vault create` on first use."""
        return self.path("vault.key")

    def make_vault(self, url=None, *options):
        url = url or "file://" + self.path("vault")
        self.farshore("vault", "create", url, *(options or ("--key-file", self.key())))
        return url

    def policy(self, seconds, site=None):
        """The name of a policy with that interval, made on first use."""
        name = f"every-{seconds}s"
        if not any(policy["policy"] == name for policy in self.farshore_json("policy", "list", site=site)):
            self.farshore("policy", "create", name, "--interval", f"{seconds}s", site=site)
        return name

    # --- real block devices

    def loop(self, file, read_only=False):
        """Attaches `file` to a loop device; detached at the end."""
        words = ["losetup", "--find", "--show"] + (["--read-only"] if read_only else []) + [file]
        device = run(*words).stdout.strip()
        self.loops.add(device)
        self.at_end(lambda: device in self.loops and subprocess.run(["losetup", "-d", device], capture_output=True))
        return device

    def detach(self, device):
        run("losetup", "-d", device)
        # From now on somebody else may have it.
        self.loops.discard(device)

    def mount_filesystem(self, device, directory, *options):
        os.makedirs(directory, exist_ok=True)
        run("mount", *options, device, directory)
        self.at_end(lambda: subprocess.run(["umount", "-l", directory], capture_output=True))


def tree_digest(directory):
    """One line a file: path, size, content hash; the comparison of two file trees."""
    import hashlib
    lines = []
    for folder, names, files in os.walk(directory):
        names.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                lines.append(f"{os.path.relpath(path, directory)} -> {os.readlink(path)}")
                continue
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{os.path.relpath(path, directory)} {os.path.getsize(path)} {digest}")
    return "\n".join(lines)


def write_tree(directory, rng, files=200, size_max=256 * KIB):
    """A file tree with directories, odd names, symlinks and sparse files."""
    for number in range(files):
        folder = os.path.join(directory, f"dir{number % 13}", f"sub{number % 5}")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"file {number} é.bin"), "wb") as file:
            file.write(rng.randbytes(rng.randrange(size_max)))
            if number % 17 == 0:
                file.seek(rng.randrange(4 * MIB), os.SEEK_CUR)
                file.write(b"end")
