"""App-consistent points with the real QEMU guest agent: ext4 over a protected disk, written all the time, and qemu-ga in a mount namespace
that holds nothing but that filesystem, so that it can bring nothing else of this machine to rest.

An app-consistent point holds a filesystem whose journal is empty; a crash-consistent one beside it does not. Then the agent is
stopped at rest, killed at rest, and the mount's worker is killed with the guest at rest: the guest writes on, within the time-out.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from scenario import MIB, PROGRAM, Scenario, check, requires, requires_root, run

requires("qemu-ga", "mkfs.ext4", "dumpe2fs", "losetup", "unshare", "pivot_root", "fsfreeze", "ldd")
requires_root()
SECONDS = 4

# Runs in a mount namespace of its own: a root of its own, the guest's filesystem, nothing else. It says what can be seen from
# there, and becomes the agent only if that is nothing but the guest's.
CAGE = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1"/old "$1"/guest "$1"/proc "$1"/run "$1"/tmp "$1"/dev
for file in $2; do mkdir -p "$1${file%/*}"; cp -L "$file" "$1$file"; done
mount --bind "$3" "$1"/guest
mount --bind "$4" "$1"/run
mount -t proc proc "$1"/proc
cd "$1"
pivot_root . old
/bin/umount -l /old
seen=$(/bin/grep -c ' /guest ' /proc/self/mountinfo)
others=$(/bin/grep -v ' /guest ' /proc/self/mountinfo | /bin/grep -c ' - \\(ext[234]\\|xfs\\|btrfs\\|overlay\\) ' || true)
[ "$seen" = 1 ] && [ "$others" = 0 ] || { echo "the cage is open"; /bin/cat /proc/self/mountinfo; exit 9; }
exec /usr/sbin/qemu-ga -m unix-listen -p /run/agent.sock -t /tmp -f /tmp/pid
"""


def wait_until(what, condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        check(time.monotonic() < deadline, "waited in vain: " + what)
        time.sleep(0.02)


class Writer(threading.Thread):
    """A guest that writes and syncs; `longest` is how long one of its writes stood still."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.count, self.longest, self.over = folder, 0, 0.0, False

    def run(self):
        while not self.over:
            began = time.monotonic()
            with open(os.path.join(self.folder, f"file{self.count % 20}"), "wb") as file:
                file.write(os.urandom(20_000))
                os.fsync(file.fileno())
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    def reset(self):
        count = self.count
        wait_until("the guest writes", lambda: self.count > count + 1, 60)
        self.longest = 0.0


def libraries(*programs):
    found = set()
    for program in programs:
        found.add(program)
        for word in run("ldd", program).stdout.split():
            if word.startswith("/"):
                found.add(word)
    return " ".join(sorted(found))


def journal_is_empty(image):
    return "needs_recovery" not in run("dumpe2fs", "-h", image).stdout


with Scenario() as s:
    url = s.make_vault()
    vault = ["--vault", url, "--key-file", s.key()]
    image = s.path("disk.img")
    with open(image, "wb") as file:
        file.truncate(48 * MIB)
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", image)
    s.farshore("protect", image, "--name", "web1", *vault, "--policy", s.policy(1))
    mount, mnt = s.mount(served="web1")
    # The agent's socket lies in memory: a folder of this machine's disk in the cage would be one more filesystem to bring to rest.
    device = s.loop(os.path.join(mnt, "web1", "disk.raw"))
    guest, runs, cage = s.path("guest"), s.path("run"), s.path("cage")
    os.makedirs(cage)
    s.mount_filesystem("none", runs, "-t", "tmpfs")
    s.mount_filesystem(device, guest)
    # Whatever happens, nothing stays at rest: the unmounting above would wait for ever.
    s.at_end(lambda: subprocess.run(["fsfreeze", "--unfreeze", guest], capture_output=True))
    agent_socket = os.path.join(runs, "agent.sock")
    programs = libraries("/usr/sbin/qemu-ga", "/bin/sh", "/bin/grep", "/bin/umount", "/bin/cat")

    def start_agent():
        if os.path.exists(agent_socket):
            os.unlink(agent_socket)
        agent = subprocess.Popen(["unshare", "--mount", "sh", "-c", CAGE, "cage", cage, programs, guest, runs],
                                 stdout=open(s.path("agent.log"), "a"), stderr=subprocess.STDOUT, start_new_session=True)
        s.at_end(lambda: (agent.kill(), agent.wait()))
        wait_until("the agent: " + open(s.path("agent.log")).read(), lambda: os.path.exists(agent_socket) or agent.poll() is not None)
        check(agent.poll() is None, "the agent ended: " + open(s.path("agent.log")).read())
        return agent

    agent = start_agent()
    s.farshore("machine", "set", "web1", "--agent", agent_socket, "--freeze-timeout", f"{SECONDS}s", "--cpus", "2", "--nic", "network=lan,test=isolated")
    writer = Writer(guest)
    s.at_end(lambda: setattr(writer, "over", True))
    writer.start()
    writer.reset()

    # --- the two kinds of points
    s.farshore("upload", "--once")
    crash = s.farshore_json("point", "cut", "web1", "--tag", "crash")[0]
    app = s.farshore_json("point", "cut", "web1", "--tag", "app", "--app-consistent")[0]
    check((crash["kind"], app["kind"]) == ("crash", "app"), f"{crash} {app}")
    writer.reset()
    # Its writer in the cage would have to be alive to tell: the real agent says that nothing is at rest.
    s.farshore("upload", "--once")
    listed = {point.get("tag"): point["kind"] for point in s.farshore_json("point", "list", "web1", *vault)}
    check(listed.get("app") == "app" and listed.get("crash") == "crash", f"listed {listed}")
    for name, expected in (("latest-app-consistent", True), ("crash", False)):
        out = s.path("restored.raw")
        s.farshore("restore", "web1", *vault, "--at", name, "--to", out, "--force", site=s.path("other-site"))
        check(journal_is_empty(out) == expected, f"{name}: the journal is {'not ' if expected else ''}empty")
        if expected:
            check(run("e2fsck", "-fn", out, ok=False).returncode == 0, "e2fsck finds faults in the app-consistent point")
    catalog = s.farshore("machine", "show", "web1").stdout
    check("at rest" in catalog and "isolated" in catalog, catalog)
    print("the app-consistent point has an empty journal, the crash-consistent one beside it has not")

    # --- by the policy
    s.farshore("policy", "edit", s.policy(1), "--app-consistent", "10s")
    wait_until("a point by the policy", lambda: any(p["kind"] == "app" and not p.get("tag") for p in s.farshore_json("point", "list", "web1")), 40)
    s.farshore("policy", "edit", s.policy(1), "--app-consistent", "0")

    # --- an agent that hangs: stopped before it is asked, woken when the point was cut without it
    writer.reset()
    os.kill(agent.pid, signal.SIGSTOP)
    done = s.farshore("point", "cut", "web1", "--tag", "hung", "--app", status=1)
    check("crash-consistent only" in done.stderr and "did not answer" in done.stderr, done.stderr)
    check(any("was to be app-consistent" in event["text"] and event["severity"] == "warning" for event in s.farshore_json("events")), "no event tells of it")
    os.kill(agent.pid, signal.SIGCONT)
    time.sleep(1)
    writer.reset()
    # A policy's point that fails is a warning until one succeeds.
    check(not os.path.exists(os.path.join(s.site, "frozen", "web1.json")), "a note stays though the agent was never asked to freeze")

    # --- the worker is killed with the guest at rest
    def worker():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/status") as file:
                    status = file.read()
                if f"PPid:\t{mount.pid}\n" in status and "State:\tZ" not in status:
                    return int(pid)
            except OSError:
                continue
        return None

    s.farshore("machine", "set", "web1", "--freeze-timeout", "20s", "--before-point", "true")
    note = os.path.join(s.site, "frozen", "web1.json")
    first = worker()
    writer.longest = 0.0
    # Scripts run before the agent, so that the guest is at rest the longer part of a cut that is held up by another machine's script.
    with open(s.path("two.img"), "wb") as file:
        file.truncate(8 * MIB)
    s.farshore("protect", s.path("two.img"), "--name", "slow", *vault, "--policy", s.policy(1))
    s.farshore("machine", "set", "slow", "--before-point", f"touch {s.path('resting')}; sleep 8", "--freeze-timeout", "20s")
    s.farshore("group", "create", "both", "web1", "slow")
    cutting = subprocess.Popen([PROGRAM, "point", "cut", "--group", "both", "--app"], env=dict(os.environ, FARSHORE_SITE=s.site),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s.at_end(cutting.kill)
    wait_until("the script", lambda: os.path.exists(s.path("resting")) and os.path.exists(note))
    count = -1
    while count != writer.count:
        count = writer.count
        time.sleep(0.5)
    began = time.monotonic()
    os.kill(first, signal.SIGKILL)
    wait_until("the guest runs on after the worker's death", lambda: writer.count > count, 20)
    seconds = time.monotonic() - began
    check(worker() != first, "the worker lives")
    wait_until("no note", lambda: not os.path.exists(note), 20)
    check(any("left at rest" in event["text"] for event in s.farshore_json("events")), "no event says so")
    cutting.wait(60)
    print(f"the worker was killed with the guest at rest: it wrote on after {seconds:.1f} s")

    # --- the agent is killed at rest, and comes back
    s.farshore("group", "delete", "both")
    s.farshore("machine", "set", "web1", "--freeze-timeout", f"{SECONDS}s", "--before-point", "none",
               "--rescue", f"fsfreeze --unfreeze {guest}")
    writer.reset()
    hook = s.path("kill-agent")
    killer = threading.Thread(target=lambda: (wait_until("the note", lambda: os.path.exists(note)), wait_until("rest", lambda: at_rest()), agent.kill()), daemon=True)

    def at_rest():
        before = writer.count
        time.sleep(0.1)
        return writer.count == before

    # The point is held up by the other machine's script, so that the agent is at rest when it is killed.
    s.farshore("group", "create", "both", "web1", "slow")
    s.farshore("machine", "set", "slow", "--before-point", "sleep 1.5", "--freeze-timeout", f"{SECONDS}s")
    killer.start()
    s.farshore("point", "cut", "--group", "both", "--app", ok=False)
    wait_until("the guest runs on after the agent's death", lambda: not at_rest(), 20)
    writer.reset_from = writer.longest
    check(writer.longest <= SECONDS + 1.5, f"the guest stood still for {writer.longest:.1f} s, the time-out is {SECONDS} s")
    check(any("cannot be thawed" in event["text"] for event in s.farshore_json("events")), "no event says so")
    print(f"the agent was killed with the guest at rest: it stood still for {writer.longest:.1f} s of {SECONDS} s")
    writer.over = True
    writer.join(30)
    run("umount", guest)
