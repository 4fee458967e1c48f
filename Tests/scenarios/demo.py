"""`make demo`'s script runs, twice, leaves nothing behind, and says what the README shows."""
import os
import re
import subprocess

from scenario import ROOT, Failed, Scenario, check, requires_root, run

requires_root()


def shape(text):
    """The text without what changes from run to run: times, sizes, ids, numbers."""
    return [re.sub(r"\b[0-9a-f]{16,}\b|[0-9][0-9.,:TZ-]*( [KMGT]?i?B\b)?", "#", line.strip()) for line in text.splitlines() if line.strip()]


with Scenario(seed=3):
    for attempt in range(2):
        before = run("mount").stdout, sorted(os.listdir("/var/tmp")), run("losetup", "-l").stdout
        done = subprocess.run([os.path.join(ROOT, "examples/quick-start/run")], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Failed(f"the demo exited {done.returncode}; its last lines:\n{done.stderr[-1000:]}{done.stdout[-3000:]}")
        after = run("mount").stdout, sorted(os.listdir("/var/tmp")), run("losetup", "-l").stdout
        check(before == after, f"the demo left something behind: {before} {after}")
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    with open(os.path.join(ROOT, "README.md")) as file:
        readme = file.read()
    shown = re.search(r"<!-- demo -->\n```\n(.*?)```", readme, re.S)
    check(shown, "README.md shows no demo session")
    missing = [line for line in shape(shown.group(1)) if line not in shape(said) and line != "…"]
    check(not missing, "README.md shows lines the demo does not print: " + "\n".join(missing))
    print(said)
