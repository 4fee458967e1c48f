"""The places where a process writes: lists them, and makes one of them fail, wait or kill (Tests/tools/faults.c).

A place is a call and the functions of the program that led to it; `Places` reads those that were met. `Faults` builds the library, hands
out the environment that loads it, and changes the rules while the process runs. Not a scenario.
"""
import bisect
import ctypes
import errno
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys

from scenario import PROGRAM, ROOT, run

RULES, RULE_BYTES, PATH_BYTES, HEAD_BYTES = 8, 256, 184, 64
ANY = (1 << 64) - 1
KILL, LEAVE_OUT, SHORT = -1, -2, -3
RULE = struct.Struct("<I12siIIIQQQIIQ")
assert RULE.size + PATH_BYTES == RULE_BYTES
FAILED_AT = 60


def build(folder):
    """The library, compiled into `folder`; ends the scenario as skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        print("skipped: this machine lacks a C compiler")
        sys.exit(77)
    library = os.path.join(folder, "faults.so")
    run(compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, os.path.join(ROOT, "Tests", "tools", "faults.c"), "-ldl")
    return library


def kind(path):
    """What a file is, whatever its number: segment, reserve, log.state, image …"""
    name = os.path.basename(path.removesuffix(" (deleted)"))
    name = re.sub(r"\.\d+\.new$", ".new", name)
    name = re.sub(r"^segment-\d+$", "segment", name)
    name = re.sub(r"^replicated-[0-9a-f]+", "replicated", name)
    return name


def places(library, file, kill=None, count=1):
    """The environment in which a program notes its places in `file`, and is killed at the `count`-th call from the place `kill`."""
    return {"LD_PRELOAD": library, "FARSHORE_PLACES": file, **({"FARSHORE_KILL_PLACE": f"{kill}:{count}"} if kill else {})}


class Places:
    """The places met so far, by the program's role: for (role, id) the call, a path and the return addresses."""

    def __init__(self, s):
        self.files = {role: s.path("places-" + role) for role in ("mount", "upload")}
        self.met = {}

    def read(self):
        for role, file in self.files.items():
            if not os.path.exists(file):
                continue
            with open(file, errors="replace") as lines:
                for line in lines:
                    fields = line.rstrip("\n").split("\t")
                    if len(fields) == 4:
                        self.met.setdefault((role, fields[0]), fields[1:])

    def names(self):
        """Address to function, for the list that is printed."""
        table = []
        for line in run("nm", "--defined-only", PROGRAM).stdout.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in "tT":
                table.append((int(words[0], 16), words[2]))
        table.sort()
        symbols = {}
        for _, _, frames in self.met.values():
            for frame in frames.split():
                at = bisect.bisect_right(table, (int(frame, 16), "~")) - 1
                symbols[frame] = table[at][1] if at >= 0 else "?"
        mangled = sorted(set(symbols.values()))
        demangle = shutil.which("swift-demangle") or shutil.which("c++filt")
        plain = subprocess.run([demangle, "--simplified"] if demangle and "swift" in demangle else [demangle or "cat"],
                               input="\n".join(mangled), capture_output=True, text=True).stdout.splitlines()
        told = dict(zip(mangled, plain))
        return {frame: told.get(symbol, symbol) for frame, symbol in symbols.items()}

    def told(self, key, names, frames=3):
        """One line on a place."""
        call, path, addresses = self.met[key]
        chain = " < ".join(names[frame].split("(")[0][-60:] for frame in addresses.split()[:frames])
        return f"{key[0]:6s} {call:12s} {os.path.basename(path)[:28]:28s} {chain}"


class Faults:
    def __init__(self, folder, name="faults"):
        self.file = os.path.join(folder, name)
        with open(self.file, "wb") as file:
            file.truncate(HEAD_BYTES + RULES * RULE_BYTES)
        self.environment = {"LD_PRELOAD": build(folder), "FARSHORE_FAULTS": self.file}
        with open(self.file, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def arm(self, call, path, error, rule=0, skip=0, times=0, offset=(0, ANY), least=0, delay_us=0, place=0):
        """From now on `call` on a file whose path holds `path` (ends with it, if `path` ends with $), or made at `place` (an id),
        fails with `error` (an errno; 0: only waits; KILL; of syncs LEAVE_OUT; of reads and writes SHORT)."""
        start = HEAD_BYTES + rule * RULE_BYTES
        self.disarm(rule)
        body = RULE.pack(0, call.encode(), error, skip, times, 0, offset[0], offset[1], least, delay_us, 0, place)
        self.memory[start + 4:start + RULE.size] = body[4:]
        self.memory[start + RULE.size:start + RULE_BYTES] = path.encode().ljust(PATH_BYTES, b"\0")
        self._armed(rule).value = 1

    def disarm(self, rule=None):
        for number in range(RULES) if rule is None else [rule]:
            self._armed(number).value = 0

    def failed(self, rule=0):
        """Calls that were made to fail since the rule was armed."""
        return self._word(rule, FAILED_AT).value

    def close(self):
        self.memory = None

    def _armed(self, rule):
        return self._word(rule, 0)

    def _word(self, rule, at):
        return ctypes.c_uint32.from_buffer(self.memory, HEAD_BYTES + rule * RULE_BYTES + at)


def name_of(error):
    return {KILL: "kill", SHORT: "short"}.get(error) or errno.errorcode.get(error, str(error))
