"""What an upstream peer does with a slot, written from the format's description and not from our decoder: whatever
would end or blind such a reader is named."""

import binascii
import json
from typing import List, Optional

LINE = 512
SIZE = 4096
QUIET = ("unknown", "down", "down_unexpected", "down_missing")
_INTEGERS = (2, 3, 4, 7, 8, 10, 11)


def complaint(slot: int, data: bytes) -> str:
    """Empty, or why this slot must not be published under that number."""
    if len(data) != SIZE:
        return f"{len(data)} bytes"
    if data == bytes(SIZE):
        return ""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return "not ASCII"
    if slot == 0:
        flags = text.rstrip("\0")
        return "" if flags in ("maintenance=0", "maintenance=1") else f"slot 0 says {flags[:40]!r}"
    return _line(slot, text[:LINE].rstrip("\0"))


def _line(slot: int, line: str) -> str:
    if "\0" in line:
        return "NUL inside the line"
    fields = line.split("|")
    if len(fields) != 12:
        return f"{len(fields)} fields"
    if fields[0] != "1" or not fields[1].isdigit() or int(fields[1]) < 1:
        return "version"
    for index in _INTEGERS:
        if not fields[index].isdigit():
            return f"field {index} is no number"
    if int(fields[3]) != slot:
        return f"host id {fields[3]} in slot {slot}"
    return _checksum(fields) or _status(fields[5])


def _checksum(fields: List[str]) -> str:
    blanked = [*fields[:9], "00000000", *fields[10:]]
    crc = binascii.crc32("|".join(blanked).encode("ascii")) & 0xFFFFFFFF
    return "" if fields[9] == f"{crc:08x}" else "crc"


def _status(text: str) -> str:
    try:
        status: Optional[object] = json.loads(text)
    except ValueError:
        return "engine status is no JSON"
    if status is None:
        return ""
    if not isinstance(status, dict) or not {"vm", "health", "detail"} <= set(status):
        return "engine status without vm, health or detail"
    if status["vm"] in QUIET or (status["vm"] == "up" and status["detail"] == "Paused"):
        return ""
    return "" if status["health"] in ("good", "bad") else f"health {status['health']!r} of a VM that is up"
