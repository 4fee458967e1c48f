"""Reads and edits a change log's `log.state` as docs/formats/change-log.md specifies it, for what no command offers."""
import os

_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    _TABLE.append(_byte)


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def lines(folder):
    with open(os.path.join(folder, "log.state")) as file:
        return file.read().splitlines()[:-1]


def edit(folder, values):
    """Replaces the values of these keys. Nobody may have the log open."""
    body = ""
    for line in lines(folder):
        key = line.split(" ")[0]
        body += f"{key} {values[key]}\n" if key in values else line + "\n"
    with open(os.path.join(folder, "log.state"), "w") as file:
        file.write(body + f"crc32c {crc32c(body.encode()):x}\n")
        file.flush()
        os.fsync(file.fileno())
