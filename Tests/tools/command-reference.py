#!/usr/bin/env python3
"""Writes docs/reference/commands.md from the program's own description of its commands.

usage: farshore --experimental-dump-help | Tests/tools/command-reference.py > docs/reference/commands.md
"""
import json
import sys

HEAD = """# Commands

Made by `Tests/tools/command-reference.py` from the program itself; `farshore help COMMAND` prints the same. Exit statuses:
[exit-statuses.md](exit-statuses.md); the documents of `--json`: [json.md](json.md).

Every command that works with this host's disks takes `--site DIR`, also before the command; without it FARSHORE_SITE counts, then
/var/lib/farshore for root and $XDG_STATE_HOME/farshore (else ~/.local/state/farshore) for everybody else. Credentials of targets come
from the environment or their usual files, never from the command line: [targets.md](targets.md).
`farshore --generate-completion-script bash|zsh|fish` prints shell completions.
"""


def spelled(argument):
    if argument["kind"] == "positional":
        name = argument.get("valueName", "value").upper()
        name += "…" if argument.get("isRepeating") else ""
        return f"[{name}]" if argument.get("isOptional") else name
    names = [("--" if n["kind"] == "long" else "-") + n["name"] for n in argument["names"]]
    text = ", ".join(names)
    return text if argument["kind"] == "flag" else f"{text} {argument.get('valueName', 'value').upper()}"


def shown(arguments):
    return [a for a in arguments if a.get("shouldDisplay", True) and not any(n["name"] in ("help", "version") for n in a.get("names") or [])]


def describe(command, path, lines):
    path = path + [command["commandName"]]
    children = [c for c in command.get("subcommands", []) if c["commandName"] != "help" and c.get("shouldDisplay", True)]
    arguments = shown(command.get("arguments", []))
    if not children:
        positional = " ".join(spelled(a) for a in arguments if a["kind"] == "positional")
        lines.append(f"\n## `{' '.join(path + [positional]).strip()}`\n")
        lines.append(command.get("abstract", "") + "\n")
        if command.get("discussion"):
            text, _, example = command["discussion"].partition("Example:\n")
            if text.strip():
                lines.append(text.strip() + "\n")
            if example:
                lines.append("```\n" + "\n".join(line.strip() for line in example.strip().splitlines()) + "\n```\n")
        if arguments:
            lines.append("| argument | meaning |\n|---|---|")
            for argument in arguments:
                default = f" Default: {argument['defaultValue']}." if argument.get("defaultValue") and argument["kind"] != "flag" else ""
                meaning = argument.get("abstract", "") + default
                if argument["kind"] == "option" and not argument.get("isOptional") and not default:
                    meaning = meaning.rstrip(".") + ". Required."
                meaning = meaning.replace("|", "\\|")
                lines.append(f"| `{spelled(argument)}` | {meaning} |")
    for child in children:
        describe(child, path, lines)


def main():
    lines = [HEAD]
    describe(json.load(sys.stdin)["command"], [], lines)
    print("\n".join(lines))


main()
