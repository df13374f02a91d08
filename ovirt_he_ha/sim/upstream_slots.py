"""How oVirt's own daemons read and write the shared volume: a second opinion on the bytes, written apart from
core/slot.py and never importing it.

Two readers stand here. :func:`is_valid_for_upstream` is the strict one: what a host may publish beside upstream's
hosts without crashing or blinding them. :func:`parse_host` and :func:`read_area` do what upstream's own code does,
faults included: one byte that is no UTF-8 ends the broker that reads it, a character of several bytes shifts every
later slot, a number that is none ends the agent.
"""

import json
import re
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Dict, List, Mapping, Optional, Set, Tuple, Union

SIZE = 4096
LINE = 512
GLOBAL = 0
BLANK = bytes(SIZE)
MAX_HOST_ID = 2000

Status = Mapping[str, str]

FIELDS = (
    "parse version",
    "feature version",
    "host timestamp",
    "host id",
    "score",
    "engine status",
    "host name",
    "local maintenance",
    "stopped",
    "crc32",
    "conf on shared storage",
    "local conf timestamp",
)
_CRC = 9
_FLAGS = (7, 8, 10)
_NUMBER = re.compile("[0-9]{1,18}")
# A line whose numbers have no fault, but for the host id.
_USUAL = re.compile(
    r"1\|[1-9][0-9]{0,17}(?:\|[0-9]{1,18}){3}\|[^|]*\|[^|]*\|[01]\|[01]\|[^|]*\|[01]\|[0-9]{1,18}", re.DOTALL
)
# A key, an equals sign, and nothing that cannot be printed.
_GOOD_LINE = re.compile("[ -<>-~]+=[ -~]*")


class BrokerDies(Exception):
    """Something in the broker's storage thread raised: the broker ends itself."""


class AgentDies(Exception):
    """Something in the agent's loop raised: the agent ends, and systemd starts it again after 10 s."""


# --- the strict reader ----------------------------------------------------------------------------------------------


def is_valid_for_upstream(data: bytes, slot: Optional[int] = None) -> Optional[str]:
    """Why a host must not publish these bytes beside upstream hosts; None: it may. A blank slot is a cleaned host.

    ``slot``: the number of the slot, to compare it with the line's host id (upstream does not); slot 0 holds the
    cluster's flags and has rules of its own.
    """
    if len(data) != SIZE:
        return f"{len(data)} bytes instead of {SIZE}"
    if not data.isascii():
        at = next(index for index, byte in enumerate(data) if byte > 127)
        return f"byte {at} is not ASCII"
    if slot == GLOBAL:
        return None if _is_flags(data) else "slot 0 is not maintenance=0 or maintenance=1, padded with NUL"
    if data == BLANK:
        return None
    return _line_fault(data[:LINE].decode("ascii"), slot) or _text_fault(data[LINE:].decode("ascii"))


def _is_flags(data: bytes) -> bool:
    return data in (BLANK, b"maintenance=0".ljust(SIZE, b"\0"), b"maintenance=1".ljust(SIZE, b"\0"))


def _line_fault(padded: str, slot: Optional[int]) -> Optional[str]:
    line = _unpadded(padded)
    if "\0" in line:
        return "NUL inside the host line"
    if not line.isprintable():
        return "control character in the host line"
    fields = line.split("|")
    if len(fields) != len(FIELDS):
        return f"{len(fields)} fields instead of {len(FIELDS)}"
    usual = slot is not None and fields[3] == f"{slot}" and 1 <= slot <= MAX_HOST_ID and _USUAL.fullmatch(line)
    fault = None if usual else _numbers_fault(fields, slot)
    return fault or _crc_fault(fields) or status_fault(fields[5])


def _numbers_fault(fields: List[str], slot: Optional[int]) -> Optional[str]:
    for index in (0, 1, 2, 3, 4, 7, 8, 10, 11):
        if not _NUMBER.fullmatch(fields[index]):
            return f"{FIELDS[index]} is no whole number"
    if int(fields[0]) != 1:
        return "parse version is not 1"
    if int(fields[1]) < 1:
        return "feature version is below 1"
    if not 1 <= int(fields[3]) <= MAX_HOST_ID or (slot is not None and int(fields[3]) != slot):
        return "host id is not the slot's"
    for index in _FLAGS:
        if fields[index] not in ("0", "1"):
            return f"{FIELDS[index]} is neither 0 nor 1"
    return None


def _crc_fault(fields: List[str]) -> Optional[str]:
    return None if fields[_CRC] == line_crc(fields) else "crc32 does not fit the line"


def line_crc(fields: List[str]) -> str:
    blanked = list(fields)
    blanked[_CRC] = "0" * 8
    return format(zlib.crc32("|".join(blanked).encode("utf-8")), "08x")


@lru_cache(maxsize=256)
def status_fault(text: str) -> Optional[str]:
    """Why a peer's state machine would raise over this engine status; None: it would not."""
    try:
        found = json.loads(text)
    except ValueError:
        return "engine status is no JSON"
    if found is None:
        return None
    if not isinstance(found, dict):
        return "engine status is no object"
    missing = [key for key in ("vm", "health", "detail") if key not in found]
    if missing:
        return f"engine status without {missing[0]}"
    if not all(isinstance(value, str) for value in found.values()):
        return "engine status with a value that is no text"
    return None if is_rankable(found) else f"engine status that cannot be ranked: {found['vm']}, {found['health']}"


def is_rankable(status: Status) -> bool:
    try:
        engine_rank(status)
    except (AgentDies, KeyError):
        return False
    return True


_MOST_LINES = 8192
_good_lines: Set[str] = set()  # most lines are what the same host, or every host, wrote before


def _are_good(lines: List[str]) -> bool:
    new = set(lines) - _good_lines
    if not all(map(_GOOD_LINE.fullmatch, new)):
        return False
    if len(_good_lines) > _MOST_LINES:
        _good_lines.clear()
    _good_lines.update(new)
    return True


def _unpadded(padded: str) -> str:
    """Without the NULs that end it; a NUL inside stays."""
    end = padded.find("\0")
    return padded[:end] if end >= 0 and _NULS.startswith(padded[end:]) else padded.rstrip("\0")


_NULS = "\0" * SIZE


def _text_fault(padded: str) -> Optional[str]:
    text = _unpadded(padded)
    lines = text.split("\n")
    if not lines.pop() and _are_good(lines):
        return None
    if "\0" in text:
        return "NUL inside the free text"
    if text and not text.endswith("\n"):
        return "the free text does not end with a line"
    for line in text.split("\n")[:-1]:
        key, equals, value = line.partition("=")
        if not key or not equals or not (key + value).isprintable():
            return f"line of the free text: {line[:40]!r}"
    return None


# --- upstream's reader ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """One host as upstream's agent sees it. ``timestamp`` None: an empty record, made of a slot that it could not
    parse (it never counts as alive)."""

    host_id: int
    timestamp: Optional[int] = None
    score: int = 0
    status: Optional[Status] = None
    hostname: str = ""
    maintenance: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class TooNew:
    """A format above 1: the host is left out, and a flag is set that nothing acts on."""

    host_id: int


def read_area(slots: Mapping[int, bytes]) -> Dict[int, str]:
    """What upstream's broker makes of the whole area, ids ascending, absent slots left out. ``slots``: those that are
    not blank. Raises BrokerDies for a byte that is no UTF-8 anywhere."""
    ids = sorted(slots)
    if all(slots[slot].isascii() for slot in ids):
        found = {slot: slots[slot].decode("ascii") for slot in ids}
    else:
        whole = b"".join(slots.get(slot, BLANK) for slot in range(ids[-1] + 1))
        try:
            text = whole.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokerDies(f"no UTF-8 in slot {error.start // SIZE}") from error
        # It is cut after it was decoded: behind a character of n bytes every slot begins n - 1 characters late. What
        # is missing at the end was zeros.
        text = text.ljust(len(whole), "\0")
        found = {slot: text[slot * SIZE : (slot + 1) * SIZE] for slot in range(ids[-1] + 1)}
    return {slot: text for slot, text in found.items() if text[:1] != "\0"}


def parse_host(slot: int, text: str) -> Union[Peer, TooNew]:
    """Raises AgentDies where upstream's parser does not catch: a number that is none, looked at before the CRC."""
    line = text[:LINE].rstrip("\0")
    fields = line.split("|")
    if not re.fullmatch("[0-9]+", fields[0]):
        return Peer(slot)
    if int(fields[0]) > 1:
        return TooNew(slot)
    if len(fields) < 7 or not _is_version(fields[1]):
        return Peer(slot)
    numbers = _numbers(slot, fields)
    if len(fields) > _CRC and fields[_CRC] != line_crc(fields):
        return Peer(slot)
    return Peer(
        host_id=slot,
        timestamp=numbers[2],
        score=numbers[4],
        status=parse_status(fields[5]),
        hostname=fields[6],
        maintenance=numbers.get(7, 0) > 0,
        stopped=numbers.get(8, 0) > 0,
    )


def _is_version(text: str) -> bool:
    try:
        return int(text) >= 1
    except ValueError:
        return False


def _numbers(slot: int, fields: List[str]) -> Dict[int, int]:
    numbers: Dict[int, int] = {}
    # Fields 10 and 11 are looked at only when both are there.
    wanted = (2, 4, 7, 8, 10, 11) if len(fields) > 11 else (2, 4, 7, 8)
    for index in wanted:
        if index < len(fields):
            try:
                numbers[index] = int(fields[index])
            except ValueError as error:
                raise AgentDies(f"slot {slot}: {FIELDS[index]} is no number") from error
    return numbers


def parse_status(text: str) -> Status:
    """What is no JSON object is a status of unknown words; that is harmless."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return {"vm": "unknown", "health": "unknown", "detail": "unreadable"}
    return {str(key): str(value) for key, value in found.items()}


def engine_rank(status: Status) -> int:
    """How much of an engine a host has: 0 unknown, 1 none, 2 paused, 3 bad, 4 good. Raises AgentDies for words that
    upstream does not know."""
    vm = _word(status, "vm")
    if vm == "unknown":
        return 0
    if vm.startswith("down"):
        return 1
    if vm == "up" and _word(status, "detail") == "Paused":
        return 2
    health = _word(status, "health")
    if health not in ("bad", "good"):
        raise AgentDies(f"engine status {dict(status)!r} cannot be ranked")
    return 3 if health == "bad" else 4


def _word(status: Status, key: str) -> str:
    if key not in status:
        raise AgentDies(f"engine status without {key}")
    return status[key]


def parse_flags(text: str) -> Dict[str, bool]:
    """The cluster's flags. Raises AgentDies for a value that is no truth."""
    flags: Dict[str, bool] = {}
    if len(text.encode("utf-8")) < SIZE:
        return flags
    for line in text.rstrip("\0").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key == "maintenance":
            letter = value[:1].lower()
            if letter not in ("t", "y", "1", "f", "n", "0"):
                raise AgentDies(f"slot 0: maintenance is {value[:20]!r}")
            flags[key] = letter in ("t", "y", "1")
    return flags


# --- upstream's writer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """What one upstream agent publishes. Times are seconds of its own monotonic clock; ``wall_offset`` turns them
    into wall time. ``timeout``: what the state adds, monotonic but printed as if it were wall time."""

    host_id: int
    timestamp: int
    score: int
    status: Optional[Status]
    hostname: str
    state: str
    maintenance: bool = False
    stopped: bool = False
    conf_shared: bool = True
    conf_timestamp: int = 0
    timeout: Optional[int] = None
    wall_offset: int = 0


def write_host(out: Published) -> bytes:
    """The 4,096 bytes. Raises AgentDies where the line is too long."""
    fields = [
        "1",
        "1",
        str(out.timestamp),
        str(out.host_id),
        str(out.score),
        "null" if out.status is None else json.dumps(dict(out.status)),
        out.hostname,
        str(int(out.maintenance)),
        str(int(out.stopped)),
        "",
        str(int(out.conf_shared)),
        str(out.conf_timestamp),
    ]
    fields[_CRC] = line_crc(fields)
    line = "|".join(fields)
    if len(line) > LINE:
        raise AgentDies(f"host line of {len(line)} characters")
    return line.encode("utf-8").ljust(LINE, b"\0") + _free_text(out).ljust(SIZE - LINE, b"\0")


def _free_text(out: Published) -> bytes:
    def moment(second: int) -> str:
        return f"{second} ({_ctime(second + out.wall_offset)})"

    pairs: List[Tuple[str, str]] = [
        ("metadata_parse_version", "1"),
        ("metadata_feature_version", "1"),
        ("timestamp", moment(out.timestamp)),
        ("host-id", str(out.host_id)),
        ("score", str(out.score)),
        ("vm_conf_refresh_time", moment(out.conf_timestamp)),
        ("conf_on_shared_storage", str(out.conf_shared)),
        ("maintenance", str(out.maintenance)),
        ("state", out.state),
        ("stopped", str(out.stopped)),
    ]
    if out.timeout is not None:
        pairs.append(("timeout", _ctime(out.timeout)))
    return "".join(f"{key}={value}\n" for key, value in pairs).encode("utf-8")


def _ctime(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).ctime()


def write_flags(maintenance: bool) -> bytes:
    return f"maintenance={int(maintenance)}".encode("ascii").ljust(SIZE, b"\0")
