"""The places where a process writes: lists them, and makes one of them fail, wait or kill (Tests/tools/faults.c).

A site is a call and a kind of file: ("fdatasync", "segment"); a place is a call and the functions of the program that led to it. `Faults` builds the library, hands out the environment that
loads it, and changes the rules while the process runs. Not a scenario.
"""
import collections
import ctypes
import errno
import mmap
import os
import re
import shutil
import struct
import sys

from scenario import ROOT, run

RULES, RULE_BYTES, PATH_BYTES, HEAD_BYTES = 8, 256, 192, 64
ANY = (1 << 64) - 1
KILL, LEAVE_OUT = -1, -2
RULE = struct.Struct("<I12siIIIQQQII")
assert RULE.size + PATH_BYTES == RULE_BYTES
HITS_AT, FAILED_AT = 28, 60


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


class Faults:
    def __init__(self, folder):
        self.file = os.path.join(folder, "faults")
        with open(self.file, "wb") as file:
            file.truncate(HEAD_BYTES + RULES * RULE_BYTES)
        open(self.file + ".calls", "wb").close()
        self.environment = {"LD_PRELOAD": build(folder), "FARSHORE_FAULTS": self.file}
        with open(self.file, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def arm(self, call, path, error, place=0, skip=0, times=0, offset=(0, ANY), least=0, delay_us=0):
        """From now on `call` on a file whose path holds `path` (ends with it, if `path` ends with $) fails with `error` (an errno; 0: only waits; KILL; of syncs LEAVE_OUT)."""
        start = HEAD_BYTES + place * RULE_BYTES
        self.disarm(place)
        body = RULE.pack(0, call.encode(), error, skip, times, 0, offset[0], offset[1], least, delay_us, 0)
        self.memory[start + 4:start + RULE.size] = body[4:]
        self.memory[start + RULE.size:start + RULE_BYTES] = path.encode().ljust(PATH_BYTES, b"\0")
        self._armed(place).value = 1

    def disarm(self, place=None):
        for number in range(RULES) if place is None else [place]:
            self._armed(number).value = 0

    def failed(self, place=0):
        """Calls that were made to fail since the rule was armed."""
        return self._word(place, FAILED_AT).value

    def hits(self, place=0):
        return self._word(place, HITS_AT).value

    def listing(self, on):
        ctypes.c_uint32.from_buffer(self.memory, 0).value = 1 if on else 0

    def calls(self):
        """What was listed: (call, offset, length, path)."""
        with open(self.file + ".calls") as file:
            for line in file:
                call, offset, length, path = line.rstrip("\n").split(" ", 3)
                yield call, int(offset), int(length), path

    def sites(self):
        """How often each (call, kind of file) was listed."""
        return collections.Counter((call, kind(path)) for call, _, _, path in self.calls())

    def close(self):
        self.memory = None

    def _armed(self, place):
        return self._word(place, 0)

    def _word(self, place, at):
        return ctypes.c_uint32.from_buffer(self.memory, HEAD_BYTES + place * RULE_BYTES + at)


def name_of(error):
    return "kill" if error == KILL else errno.errorcode.get(error, str(error))
