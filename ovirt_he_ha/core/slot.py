"""Bytes of the whiteboard to records and back. The format is shared with oVirt's own agents.

A slot is 4,096 bytes. The first 512 hold the host line: twelve fields joined by ``|``, NUL padded, protected by a
CRC-32 over the line with its own field set to eight zeros. The rest is free text: lines ``key=value``, NUL padded.

Fields of the host line: parse version, feature version, timestamp, host id, score, engine status (JSON or ``null``),
host name, maintenance, stopped, crc32, configuration on shared storage, timestamp of the local configuration.

Free text, in the order written:

1. what repeats the host line: ``metadata_parse_version``, ``metadata_feature_version``, ``timestamp``, ``host-id``,
   ``score``, ``vm_conf_refresh_time``, ``conf_on_shared_storage``, ``maintenance``, ``stopped``. They are made from the
   record's fields and are not part of ``Record.extra``: decoding drops them, encoding refuses them as keys.
2. ``state`` (before ``stopped``) and ``timeout`` (after it), as oVirt has them: taken from ``Record.extra``. A
   ``timeout`` that is a number is a monotonic second, and is written as wall time; other text is written as it is.
3. the other pairs of ``Record.extra`` in their order, and ``crc``, the CRC-32 of the free text before it. Without such
   pairs there is no ``crc`` either, and the slot is byte for byte oVirt's.

So decoding gives back ``extra`` in the canonical order: ``state``, ``timeout``, the rest. What does not fit into 3,584
bytes is left out: first ``why.*`` from the last one up, then the other pairs of group 3 from the last one up.

Reading is total: any bytes give a record, ``Invalid`` or ``Empty``. Writing is stricter than reading, because oVirt's
readers terminate on what they do not expect: ASCII only, all twelve fields, and a health of ``good`` or ``bad`` for a
VM that is up. Characters that would break the format become ``?``.
"""

import json
import re
from binascii import crc32
from datetime import datetime, tzinfo
from functools import lru_cache
from itertools import filterfalse, repeat
from operator import itemgetter
from typing import Dict, List, Optional, Tuple

from ovirt_he_ha.core.model import (
    MAX_HOST_ID,
    SLOT_SIZE,
    Empty,
    EngineStatus,
    Health,
    Invalid,
    Reading,
    Record,
    Slot,
    Vm,
)

LINE_SIZE = 512
TEXT_SIZE = SLOT_SIZE - LINE_SIZE
PARSE_VERSION = 1
FEATURE_VERSION = 1
UNPARSABLE = "unparsable"

_BLANK_CRC = b"00000000"
_NULS = bytes(SLOT_SIZE)
_CRC_FIELD = 9
_FEWEST_FIELDS = 7
# Longest detail, state and timeout: they are words, and with these bounds what must be written always fits.
_WORD_LENGTH = 64
# Years 1970 to 9999 in any time zone; outside them there is no calendar.
_LAST_WALL_SECOND = 253_402_128_000
_MOST_DIGITS = 12
_LARGEST = {"timestamp": 10**12 - 1, "score": 10**9 - 1, "local conf timestamp": 10**12 - 1}

_COUNT = rb"\|([0-9]{1,12})"
_USUAL = re.compile(
    rb"1\|([1-9][0-9]{0,3})" + 3 * _COUNT + rb"\|([^|]*)\|([^|]*)" + 2 * _COUNT + rb"\|([0-9a-f]{8})" + 2 * _COUNT
)
_VERSION = re.compile(rb"[0-9]{1,4}")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OWN_CRC = re.compile(rb"crc=([0-9a-f]{8})\n")
_PLAIN = bytes(range(0x20, 0x7F)) + b"\n"
_UNSAFE = re.compile(r"[^\x20-\x7e]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_DERIVED = frozenset(
    (
        "metadata_parse_version",
        "metadata_feature_version",
        "timestamp",
        "host-id",
        "score",
        "vm_conf_refresh_time",
        "conf_on_shared_storage",
        "maintenance",
        "stopped",
        "crc",
    )
)
_OVIRTS = ("state", "timeout")
_KEY_OF = itemgetter(0)

# Words of the wire; anything else is no engine status.
_VMS = {vm.value: vm for vm in Vm}
_HEALTHS = {health.value: health for health in Health}


class SlotError(ValueError):
    """A record that cannot be written. ``field``, ``found`` and ``expected`` say what to mend."""

    msg = "The slot cannot be written: {field} is {found}, expected {expected}"

    def __init__(self, field: str, found: object, expected: str) -> None:
        self.field = field
        self.found = found
        self.expected = expected
        super().__init__(self.msg.format(field=field, found=repr(found)[:80], expected=expected))


# --- reading --------------------------------------------------------------------------------------------------------


def decode(slot_id: int, data: bytes) -> Slot:
    """The slot of host ``slot_id``. Never raises.

    ``Invalid.reason`` is one of: ``size`` (fewer than 512 bytes), ``padding`` (something after the NUL that ends the
    line), ``no-version``, ``too-new`` (a parse version above ours), ``feature-version``, ``short-line``, ``crc``,
    ``integer`` (detail: which field), ``foreign-id`` (the line is another host's), ``encoding``.
    """
    line = bytes(data[:LINE_SIZE])
    if len(line) < LINE_SIZE:
        return Invalid("size", f"{len(line)} bytes")
    if line[:1] == b"\0":
        return Empty()
    content, _, padding = line.partition(b"\0")
    if not _NULS.startswith(padding):
        return Invalid("padding")
    usual = _USUAL.fullmatch(content)
    if usual is not None:
        return _usual_record(slot_id, usual, bytes(data[LINE_SIZE:SLOT_SIZE]))
    fields = content.split(b"|")
    problem = _version_problem(fields) or _line_problem(fields)
    if problem is not None:
        return problem
    return _record(slot_id, fields, bytes(data[LINE_SIZE:SLOT_SIZE]))


def _usual_record(slot_id: int, line: "re.Match[bytes]", free_text: bytes) -> Slot:
    """The same as the long way, for a line that has what every writer writes: with 250 hosts there are 250 in each
    cycle."""
    feature, timestamp, host_id, score, status, name, maintenance, stopped, crc, shared, conf = line.groups()
    begin, end = line.span(9)
    if crc32(line.string[end:], crc32(_BLANK_CRC, crc32(line.string[:begin]))) != int(crc, 16):
        return Invalid("crc")
    if int(host_id) != slot_id:
        return Invalid("foreign-id", str(int(host_id)))
    try:
        engine, hostname = decode_engine(status.decode("utf-8")), name.decode("utf-8")
    except UnicodeDecodeError:
        return Invalid("encoding")
    extra, extra_ok = _read_text(free_text)
    return Record(
        host_id=slot_id,
        timestamp=int(timestamp),
        score=int(score),
        engine=engine,
        hostname=hostname if hostname.isprintable() else _CONTROL.sub("?", hostname),
        maintenance=int(maintenance) > 0,
        stopped=int(stopped) > 0,
        conf_on_shared_storage=int(shared) > 0,
        local_conf_timestamp=int(conf),
        crc32=crc.decode("ascii"),
        parse_version=PARSE_VERSION,
        feature_version=int(feature),
        extra=extra,
        extra_ok=extra_ok,
    )


def _version_problem(fields: List[bytes]) -> Optional[Invalid]:
    """The versions come before the CRC: a newer format may have it elsewhere. Noise that merely starts with a digit
    is not a newer format: the second field must be a version too."""
    versions = fields[:2]
    if len(versions) < 2 or not _VERSION.fullmatch(versions[0]):
        return Invalid("no-version")
    if not _VERSION.fullmatch(versions[1]) or int(versions[1]) < 1:
        return Invalid("feature-version")
    parse_version = int(versions[0])
    if parse_version > PARSE_VERSION:
        return Invalid("too-new", str(parse_version))
    return None if parse_version == PARSE_VERSION else Invalid("no-version")


def _line_problem(fields: List[bytes]) -> Optional[Invalid]:
    if len(fields) < _FEWEST_FIELDS:
        return Invalid("short-line", f"{len(fields)} fields")
    if len(fields) > _CRC_FIELD and fields[_CRC_FIELD] != _line_crc(fields):
        return Invalid("crc")
    return None


def _line_crc(fields: List[bytes]) -> bytes:
    blanked = [*fields[:_CRC_FIELD], _BLANK_CRC, *fields[_CRC_FIELD + 1 :]]
    return b"%08x" % crc32(b"|".join(blanked))


def _record(slot_id: int, fields: List[bytes], free_text: bytes) -> Slot:
    numbers: Dict[int, int] = {}
    for index, name in _NUMBERS:
        if index < len(fields):
            digits = fields[index]
            if not digits.isdigit() or len(digits) > _MOST_DIGITS:
                return Invalid("integer", name)
            numbers[index] = int(digits)
    # Both or none, as oVirt reads them.
    shared = len(fields) > 11
    if numbers[3] != slot_id:
        return Invalid("foreign-id", str(numbers[3]))
    try:
        status, hostname = fields[5].decode("utf-8"), fields[6].decode("utf-8")
    except UnicodeDecodeError:
        return Invalid("encoding")
    extra, extra_ok = _read_text(free_text)
    return Record(
        host_id=slot_id,
        timestamp=numbers[2],
        score=numbers[4],
        engine=decode_engine(status),
        hostname=_CONTROL.sub("?", hostname),
        maintenance=numbers.get(7, 0) > 0,
        stopped=numbers.get(8, 0) > 0,
        conf_on_shared_storage=numbers[10] > 0 if shared else True,
        local_conf_timestamp=numbers[11] if shared else 0,
        crc32=fields[_CRC_FIELD].decode("ascii") if len(fields) > _CRC_FIELD else "",
        parse_version=int(fields[0]),
        feature_version=int(fields[1]),
        extra=extra,
        extra_ok=extra_ok,
    )


_NUMBERS = (
    (2, "timestamp"),
    (3, "host id"),
    (4, "score"),
    (7, "maintenance"),
    (8, "stopped"),
    (10, "conf on shared storage"),
    (11, "local conf timestamp"),
)


@lru_cache(maxsize=256)  # of one cluster's hosts most say the same, and say it for days
def decode_engine(text: str) -> Optional[EngineStatus]:
    """The engine status of a host line; None for ``null``. What is not an object of the expected words has vm and
    health unknown, and detail ``unparsable``. Never raises."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _UNPARSABLE
    if found is None:
        return None
    if not isinstance(found, dict):
        return _UNPARSABLE
    words = [found.get("vm"), found.get("health"), found.get("detail"), found.get("reason", "")]
    if not all(isinstance(word, str) for word in words):
        return _UNPARSABLE
    vm, health, detail, reason = words
    if vm not in _VMS or health not in _HEALTHS:
        return _UNPARSABLE
    return EngineStatus(_VMS[vm], _HEALTHS[health], _whole(detail), _whole(reason))


_UNPARSABLE = EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, UNPARSABLE)


def _whole(text: str) -> str:
    """JSON may escape half a character, which no encoder can write again."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_text(free_text: bytes) -> Tuple[Tuple[Tuple[str, str], ...], bool]:
    content, _, padding = free_text.partition(b"\0")
    body = _whole_text(content)
    # The checksum's line, new in every slot, says nothing more once it is right.
    text = body if body is not None and body.endswith(b"\n") else content
    lines = text.decode("utf-8", "replace").split("\n")
    pairs = tuple(filter(None, map(_pair, lines)))
    if content.translate(None, _PLAIN):  # one look at all of it: ours and oVirt's have nothing else
        pairs = tuple((_CONTROL.sub("?", key), _CONTROL.sub("?", value)) for key, value in pairs)
    return pairs, body is not None and _NULS.startswith(padding)


@lru_cache(maxsize=2048)  # lines; most are what the same host, or every host, wrote in the cycle before
def _pair(line: str) -> Optional[Tuple[str, str]]:
    """Nothing for what is no ``key=value``, and for what repeats the host line."""
    key, equals, value = line.partition("=")
    return (key, value) if key and equals and key not in _DERIVED else None


def _whole_text(content: bytes) -> Optional[bytes]:
    """What stands before our checksum; None where there is none, or not the right one."""
    body, line = content[:-13], content[-13:]
    match = _OWN_CRC.fullmatch(line)
    return body if match is not None and match.group(1) == b"%08x" % crc32(body) else None


# --- writing --------------------------------------------------------------------------------------------------------


def encode(record: Record, wall_offset: float, tz: Optional[tzinfo] = None) -> bytes:
    """The 4,096 bytes of a slot. ``crc32``, ``extra_ok`` and the versions of the record are not looked at.

    ``wall_offset``: wall clock minus monotonic clock in seconds; ``tz``: zone of the readable times, the process's if
    None. Where the host line would exceed 512 bytes, ``reason`` and then the host name are cut. A health that is
    unknown while the VM is up is written as ``bad``: oVirt's readers know no third word there.

    Raises SlotError for numbers out of range and for keys of ``extra`` that are not ours to write.
    """
    _check(record)
    line = _fitting_line(record)
    text = _fitting_text(record, int(wall_offset), tz)
    return line.ljust(LINE_SIZE, b"\0") + text.ljust(TEXT_SIZE, b"\0")


def wall_time(second: float, wall_offset: float, tz: Optional[tzinfo] = None) -> str:
    """A monotonic second as ``Tue Nov 14 22:13:20 2023``; ``unknown`` where the wall clock is out of this world."""
    wall = int(second) + int(wall_offset)
    if not 0 <= wall <= _LAST_WALL_SECOND:
        return "unknown"
    return datetime.fromtimestamp(wall, tz).ctime()


def _check(record: Record) -> None:
    if not 1 <= record.host_id <= MAX_HOST_ID:
        raise SlotError("host id", record.host_id, f"1 to {MAX_HOST_ID}")
    numbers = {
        "timestamp": record.timestamp,
        "score": record.score,
        "local conf timestamp": record.local_conf_timestamp,
    }
    for name, number in numbers.items():
        if not 0 <= number <= _LARGEST[name]:
            raise SlotError(name, number, f"0 to {_LARGEST[name]}")
    for key in filterfalse(_is_ours, map(_KEY_OF, record.extra)):
        raise SlotError("key of the free text", key, "letters, digits, '.', '_' and '-', and none of the host line's")


@lru_cache(maxsize=256)  # there are some fifty
def _is_ours(key: str) -> bool:
    return key not in _DERIVED and _KEY.fullmatch(key) is not None


def _fitting_line(record: Record) -> bytes:
    reason = record.engine.reason[:LINE_SIZE] if record.engine is not None else ""
    hostname = record.hostname[:LINE_SIZE]
    while True:
        line = _line(record, hostname, reason)
        if len(line) <= LINE_SIZE:
            return line
        if reason:
            reason = reason[:-1]
        else:
            hostname = hostname[:-1]


def _line(record: Record, hostname: str, reason: str) -> bytes:
    before = (
        f"{PARSE_VERSION}|{FEATURE_VERSION}|{int(record.timestamp)}|{int(record.host_id)}|{int(record.score)}|"
        f"{encode_engine(record.engine, reason)}|{_printable(hostname).replace('|', '?')}|"
        f"{int(bool(record.maintenance))}|{int(bool(record.stopped))}|"
    ).encode("ascii")
    behind = f"|{int(bool(record.conf_on_shared_storage))}|{int(record.local_conf_timestamp)}".encode("ascii")
    return b"%s%08x%s" % (before, crc32(before + _BLANK_CRC + behind), behind)


def encode_engine(status: Optional[EngineStatus], reason: Optional[str] = None) -> str:
    """The engine status as JSON text in ASCII, with the separators ``", "`` and ``": "`` that other tools search for.
    ``reason`` replaces the status's own; an empty one is left out."""
    if status is None:
        return "null"
    health = status.health
    if status.vm is Vm.UP and health is Health.UNKNOWN:
        health = Health.BAD
    why = status.reason if reason is None else reason
    return _engine_text(status.vm.value, health.value, status.detail[:_WORD_LENGTH], why)


@lru_cache(maxsize=32)  # a host says the same for hours
def _engine_text(vm: str, health: str, detail: str, why: str) -> str:
    words = {"vm": vm, "health": health, "detail": _printable(detail).replace("|", "?")}
    if why:
        words["reason"] = _field(why)
    return json.dumps(words)


def _field(text: str) -> str:
    """JSON escapes all but the separator of the line."""
    return _whole(text).replace("|", "?")


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub("?", text)


def _fitting_text(record: Record, wall_offset: int, tz: Optional[tzinfo]) -> bytes:
    lines = [*map(_own_line, (pair for pair in record.extra if pair[0] not in _OVIRTS), repeat(wall_offset))]
    state = _printable(record.get("state")[:_WORD_LENGTH])
    timeout = _timeout(record.get("timeout")[:_WORD_LENGTH], wall_offset, tz)
    while True:
        text = _text(record, state, timeout, lines, wall_offset, tz)
        if len(text) <= TEXT_SIZE:
            return text
        del lines[_least_needed(lines)]


def _own_line(pair: Tuple[str, str], wall_offset: int) -> str:
    """``wall`` is a monotonic second for us, and one since the epoch for the others: nothing that is decided may depend
    on a wall clock."""
    key, value = pair
    if key == "wall" and _SECONDS.fullmatch(value):
        return f"wall={min(max(0, int(float(value)) + wall_offset), _LAST_WALL_SECOND)}\n"
    return f"{key}={_printable(value)}\n"


def _least_needed(lines: List[str]) -> int:
    """The last ``why.*``, else the last one."""
    why = [index for index, line in enumerate(lines) if line.startswith("why.")]
    return why[-1] if why else -1


def _timeout(value: str, wall_offset: int, tz: Optional[tzinfo]) -> str:
    if _SECONDS.fullmatch(value):
        return wall_time(float(value), wall_offset, tz)
    return _printable(value)


def _text(
    record: Record,
    state: str,
    timeout: str,
    own_lines: List[str],
    wall_offset: int,
    tz: Optional[tzinfo],
) -> bytes:
    lines = [
        f"metadata_parse_version={PARSE_VERSION}\n",
        f"metadata_feature_version={FEATURE_VERSION}\n",
        f"timestamp={_moment(record.timestamp, wall_offset, tz)}\n",
        f"host-id={record.host_id}\n",
        f"score={record.score}\n",
        f"vm_conf_refresh_time={_moment(record.local_conf_timestamp, wall_offset, tz)}\n",
        f"conf_on_shared_storage={bool(record.conf_on_shared_storage)}\n",
        f"maintenance={bool(record.maintenance)}\n",
        f"state={state}\n" if state else "",
        f"stopped={bool(record.stopped)}\n",
        f"timeout={timeout}\n" if timeout else "",
    ]
    text = "".join(lines + own_lines).encode("ascii")
    return text + b"crc=%08x\n" % crc32(text) if own_lines else text


def _moment(second: int, wall_offset: int, tz: Optional[tzinfo]) -> str:
    return f"{int(second)} ({wall_time(second, wall_offset, tz)})"


# --- the global slot ------------------------------------------------------------------------------------------------


def encode_global(maintenance: bool) -> bytes:
    """Slot 0. Exactly one key: oVirt's writer puts no separator between two, and its reader takes none."""
    return (b"maintenance=1" if maintenance else b"maintenance=0").ljust(SLOT_SIZE, b"\0")


def decode_global(data: bytes) -> Reading[bool]:
    """Global maintenance. A slot of NULs was never set: False. What cannot be understood is unknown: ``size``,
    ``garbage``, ``no-maintenance``, ``maintenance-value``. Never raises.

    Lines with other keys are skipped; of several the last counts; true begins with t, y or 1, false with f, n or 0,
    in either case, as oVirt has it.
    """
    if len(data) != SLOT_SIZE:
        return Reading.missing("size")
    content = bytes(data).rstrip(b"\0")
    if not content:
        return Reading.of(False)
    if not content.isascii() or b"\0" in content:
        return Reading.missing("garbage")
    values = [
        line[len("maintenance=") :] for line in content.decode("ascii").split("\n") if line.startswith("maintenance=")
    ]
    if not values:
        return Reading.missing("no-maintenance")
    letter = values[-1][:1].lower()
    if letter not in ("t", "y", "1", "f", "n", "0"):
        return Reading.missing("maintenance-value")
    return Reading.of(letter in ("t", "y", "1"))
