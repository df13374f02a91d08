"""Names and types of the broker's calls, for both sides of the socket.

The methods of the field's client library come first; ``snapshot``, ``wait_for_change`` and ``health`` are ours. A
snapshot crosses the socket as one struct: the slots as one binary blob, everything else as one JSON text, in it every
reading with its age and, where there is no value, the code of why. Both directions are strict: what does not fit raises
:class:`ProtocolError`. Unknown keys are ignored, so that a newer broker may say more.

What grows with the cluster is packed, because one XML element costs as much as 4 KiB of a blob: each slot is its host
id and length (2 bytes each, big endian) and its bytes without the NULs at their end, ascending, all of it in zlib's
format (what hosts write is alike: 332 kB of 250 hosts become 10, in a sixth of the time that base64 and XML take for
the rest); sanlock's hosts are one text of ids per flag, such as ``1-80,82``.
"""

import json
import math
import re
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ovirt_he_ha.broker.structs import Members, ProtocolError, flag, integer, natural, number, text, word
from ovirt_he_ha.broker.wire import (  # the client's only door to the codec
    MAX_DIGITS,
    WireError,
    WireFault,
    answer_bytes,
    call_bytes,
    fault_bytes,
    parse_answer,
    parse_call,
    printable,
)
from ovirt_he_ha.core.model import (
    MAX_HOST_ID,
    SLOT_SIZE,
    EngineFacts,
    EngineStatus,
    Exit,
    Health,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Reading,
    Vm,
)
from ovirt_he_ha.core.slot import LINE_SIZE

__all__ = [
    "MAX_BODY",
    "METHODS",
    "BrokerSnapshot",
    "FaultCode",
    "ProtocolError",
    "PublishFacts",
    "StorageFacts",
    "WireError",
    "WireFault",
    "answer_bytes",
    "call_bytes",
    "fault_bytes",
    "fold",
    "pack_snapshot",
    "parse_answer",
    "parse_call",
    "printable",
    "trimmed",
    "unpack_snapshot",
]

T = TypeVar("T")
Struct = Dict[str, Any]

_NULS = bytes(SLOT_SIZE)
_SLOT_HEAD = struct.Struct("!HH")
_MOST_SLOTS = (MAX_HOST_ID + 1) * (_SLOT_HEAD.size + SLOT_SIZE)
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")

MAX_BODY = 1 << 20  # bytes of one request; the largest honest one (a slot in base64) is below 6 KiB
MAX_ANSWER = 1 << 25  # bytes of one answer; 2001 slots in base64 are 11 MB

START_MONITOR = "start_monitor"
STOP_MONITOR = "stop_monitor"
STATUS_MONITOR = "status_monitor"
GET_STATS = "get_stats"
PUT_STATS = "put_stats"
PUSH_HOSTS_STATE = "push_hosts_state"
IS_HOST_ALIVE = "is_host_alive"
NOTIFY = "notify"
START_DOMAIN_MONITOR = "start_domain_monitor"
STOP_DOMAIN_MONITOR = "stop_domain_monitor"
LOCK_HOST_ID = "lock_host_id"
RELEASE_HOST_ID = "release_host_id"
RESET_LOCKSPACE = "reset_lockspace"
SNAPSHOT = "snapshot"
WAIT_FOR_CHANGE = "wait_for_change"
HEALTH = "health"

METHODS: Tuple[str, ...] = (
    START_MONITOR,
    STOP_MONITOR,
    STATUS_MONITOR,
    GET_STATS,
    PUT_STATS,
    PUSH_HOSTS_STATE,
    IS_HOST_ALIVE,
    NOTIFY,
    START_DOMAIN_MONITOR,
    STOP_DOMAIN_MONITOR,
    LOCK_HOST_ID,
    RELEASE_HOST_ID,
    RESET_LOCKSPACE,
    SNAPSHOT,
    WAIT_FOR_CHANGE,
    HEALTH,
)


class FaultCode(IntEnum):
    """``faultCode`` of an answer. 1 is what the field's broker uses for unknown methods and unreadable requests."""

    REQUEST = 1
    ARGUMENT = 2  # wrong number, type or range
    NOT_ALLOWED = 3  # the caller's user may not do this
    NOT_OWNER = 4  # a slot that is neither this host's nor 0
    NOT_HELD = 5  # this host does not hold its host id in the whiteboard's lockspace
    STORAGE = 6  # the volume did not take or give the bytes; the state's name is in the message
    OVERDUE = 7  # it did not finish by its deadline and was abandoned
    NO_MONITOR = 8
    BUSY = 9  # too many at once
    NOT_CONFIGURED = 10
    LOCKSPACE = 11  # the lockspace could not be joined, left or written
    STOPPING = 12
    INTERNAL = 13  # a defect of ours; the journal has the trace


@dataclass(frozen=True)
class StorageFacts:
    """The metadata volume as the broker finds it. ``state``: ``ok``, ``starting`` (not tried yet) or a storage
    error's code, such as ``missing``, ``too-small``, ``read-only``, ``sector-size``, ``overdue``. ``age``: seconds
    since it was last found so."""

    state: str = "starting"
    age: Optional[float] = None
    detail: str = ""


@dataclass(frozen=True)
class PublishFacts:
    """Our own slot. ``last_written_age``: seconds since a write of it was last confirmed on the volume.
    ``overwritten``: the volume holds something else than what we wrote last. ``problem``: code of the last failed
    write, empty after a good one."""

    last_written_age: Optional[float] = None
    overwritten: bool = False
    problem: str = ""


@dataclass(frozen=True)
class BrokerSnapshot:
    """What the broker knows at one moment. Ages in product seconds."""

    serial: int = 0
    host_id: int = 0
    slots: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    slots_age: Optional[float] = None
    storage: StorageFacts = StorageFacts()
    monitors: Monitors = field(default_factory=Monitors)
    leases: LeaseFacts = field(default_factory=LeaseFacts)
    publish: PublishFacts = PublishFacts()
    version: str = ""


# --- packing ---------------------------------------------------------------------------------------------------------


def _pack_reading(reading: "Reading[T]", pack: Callable[[T], Any]) -> Struct:
    value = None if reading.value is None else pack(reading.value)
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    unknown = "" if value is not None else printable(reading.unknown) or "error"
    return {"value": value, "age": _pack_age(reading.age), "unknown": unknown}


def _pack_age(age: Optional[float]) -> Optional[float]:
    return None if age is None else float(age)


def _pack_engine(facts: EngineFacts) -> Struct:
    return {
        "vm": facts.status.vm.value,
        "health": facts.status.health.value,
        "detail": printable(facts.status.detail),
        "reason": printable(facts.status.reason),
        "last_exit": facts.last_exit.value,
        "exit_age": _pack_age(facts.exit_age),
        "uptime": _pack_age(facts.uptime),
        "paused_for": _pack_age(facts.paused_for),
        "pause_reason": printable(facts.pause_reason),
        "bad_for": _pack_age(facts.bad_for),
        "stalled_for": _pack_age(facts.stalled_for),
        "guest_agent": facts.guest_agent,
        "pid": facts.pid,
        "lease_defined": facts.lease_defined,
        "incoming": facts.incoming,
        "outgoing": facts.outgoing,
    }


def _pack_owner(owner: LeaseOwner) -> Struct:
    return {
        "host_id": owner.host_id,
        "generation": owner.generation,
        "timestamp": owner.timestamp,
        "version": owner.version,
    }


def _pack_hosts(hosts: Mapping[int, HostLease]) -> Struct:
    by_flag: Dict[str, List[int]] = {}
    for host_id, flagged in sorted(hosts.items()):
        by_flag.setdefault(flagged.value, []).append(host_id)
    return {word: _pack_ids(ids) for word, ids in by_flag.items()}


def _pack_ids(ids: Sequence[int]) -> str:
    """Ascending ids as ranges."""
    parts: List[str] = []
    first = last = ids[0]
    for host_id in [*ids[1:], -1]:
        if host_id == last + 1:
            last = host_id
            continue
        parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = host_id
    return ",".join(parts)


def trimmed(data: bytes) -> bytes:
    """Without the NULs at its end, but for the first 512 bytes."""
    end = data.find(b"\0", LINE_SIZE)
    if end < 0:
        return data
    if _NULS.startswith(data[end:]):
        return data[:end]  # the usual case, a tenth of the time of the other one
    return data.rstrip(b"\0").ljust(LINE_SIZE, b"\0")


def _pack_slots(slots: Mapping[int, bytes]) -> bytes:
    parts: List[bytes] = []
    for host_id, data in sorted(slots.items()):
        content = trimmed(data)
        parts += [_SLOT_HEAD.pack(host_id, len(content)), content]
    return zlib.compress(b"".join(parts), 1)


def _pack_leases(leases: LeaseFacts) -> Struct:
    return {
        "lockspace": _pack_reading(leases.lockspace, lambda state: state.value),
        "whiteboard": _pack_reading(leases.whiteboard, lambda state: state.value),
        "hosts": _pack_reading(leases.hosts, _pack_hosts),
        "owner": _pack_reading(leases.owner, _pack_owner),
        "own_generation": leases.own_generation,
        "watchdog_armed": leases.watchdog_armed,
        "reset_within": leases.reset_within,
        "owner_silent": _pack_age(leases.owner_silent),
        "joining_for": _pack_age(leases.joining_for),
        "renewed_ago": _pack_age(leases.renewed_ago),
        "owner_left": leases.owner_left,
        "owner_left_for": _pack_age(leases.owner_left_for),
    }


def _pack_monitors(monitors: Monitors) -> Struct:
    return {
        "network": _pack_reading(monitors.network, float),
        "bridge": _pack_reading(monitors.bridge, bool),
        "mem_free": _pack_reading(monitors.mem_free, int),
        "cpu_load": _pack_reading(monitors.cpu_load, float),
        "storage_latency": _pack_reading(monitors.storage_latency, float),
    }


def pack_snapshot(snapshot: BrokerSnapshot) -> Struct:
    """The struct that ``snapshot`` answers with. Texts lose what XML cannot carry and are cut at 4,096 characters."""
    return {
        "serial": snapshot.serial,
        "host_id": snapshot.host_id,
        "slots": _pack_slots(snapshot.slots),
        "slots_age": _pack_age(snapshot.slots_age),
        "storage": {
            "state": printable(snapshot.storage.state),
            "age": _pack_age(snapshot.storage.age),
            "detail": printable(snapshot.storage.detail),
        },
        "monitors": _pack_monitors(snapshot.monitors),
        "engine": _pack_reading(snapshot.monitors.engine, _pack_engine),
        "leases": _pack_leases(snapshot.leases),
        "io_timeout": snapshot.leases.io_timeout,
        "watchdog": snapshot.leases.watchdog,
        "publish": {
            "last_written_age": _pack_age(snapshot.publish.last_written_age),
            "overwritten": snapshot.publish.overwritten,
            "problem": printable(snapshot.publish.problem),
        },
        "version": printable(snapshot.version),
    }


def fold(struct: Struct) -> Struct:
    """For the wire: all but the slots as one JSON text. Its 300 XML elements are half of what a cycle of three hosts
    costs the agent."""
    facts = {key: value for key, value in struct.items() if key != "slots"}
    return {"facts": json.dumps(facts, separators=(",", ":")), "slots": struct["slots"]}


# --- unpacking -------------------------------------------------------------------------------------------------------


def _host_id(value: object, path: str) -> int:
    number = integer(value, path)
    if not 0 <= number <= MAX_HOST_ID:
        raise ProtocolError(path, f"a host id 0..{MAX_HOST_ID}", value)
    return number


def _engine(value: object, path: str) -> EngineFacts:
    members = Members(value, path)
    status = EngineStatus(
        vm=members.get("vm", word(Vm)),
        health=members.get("health", word(Health)),
        detail=members.get("detail", text),
        reason=members.get("reason", text),
    )
    return EngineFacts(
        status=status,
        last_exit=members.get("last_exit", word(Exit)),
        exit_age=members.optional("exit_age", number),
        uptime=members.optional("uptime", number),
        paused_for=members.optional("paused_for", number),
        pause_reason=members.get("pause_reason", text),
        bad_for=members.optional("bad_for", number),
        stalled_for=members.optional("stalled_for", number),
        guest_agent=members.optional("guest_agent", flag),
        pid=members.optional("pid", natural),
        lease_defined=members.optional("lease_defined", flag),
        incoming=members.get("incoming", flag),
        outgoing=members.get("outgoing", flag),
    )


def _owner(value: object, path: str) -> LeaseOwner:
    members = Members(value, path)
    return LeaseOwner(
        host_id=members.get("host_id", _host_id),
        generation=members.get("generation", natural),
        timestamp=members.get("timestamp", natural),
        # Only the ledger looks at it: a broker from before an update need not send it.
        version=members.get("version", natural) if "version" in members else 0,
    )


def _hosts(value: object, path: str) -> Mapping[int, HostLease]:
    if not isinstance(value, dict):
        raise ProtocolError(path, "a struct of flag to host ids", value)
    read = word(HostLease)
    hosts: Dict[int, HostLease] = {}
    for key, ids in value.items():
        flagged = read(key, path)
        for host_id in _ranges(ids, f"{path}.{key}"):
            if host_id in hosts:
                raise ProtocolError(f"{path}.{key}", "each host id under one flag", host_id)
            hosts[host_id] = flagged
    return MappingProxyType(hosts)


def _ranges(value: object, path: str) -> Iterator[int]:
    """Bounded whatever is written: 2,001 ids at most, each once."""
    last = -1
    for part in text(value, path).split(","):
        match = _RANGE.fullmatch(part)
        first = int(match.group(1)) if match else -1
        end = int(match.group(2) or match.group(1)) if match else -1
        if not last < first <= end <= MAX_HOST_ID:
            raise ProtocolError(path, f"ascending host ids 0..{MAX_HOST_ID} such as 1-80,82", value)
        yield from range(first, end + 1)
        last = end


def _leases(root: Members) -> LeaseFacts:
    members = root.struct("leases")
    return LeaseFacts(
        lockspace=members.reading("lockspace", word(LockspaceState)),
        whiteboard=members.reading("whiteboard", word(LockspaceState)),
        hosts=members.reading("hosts", _hosts),
        owner=members.reading("owner", _owner),
        own_generation=members.optional("own_generation", natural),
        io_timeout=root.get("io_timeout", natural),
        watchdog=root.get("watchdog", natural),
        watchdog_armed=members.optional("watchdog_armed", flag),
        reset_within=members.optional("reset_within", number),
        # A broker from before an update need not send these. Only countdowns look at the first two; without the third
        # nothing is started here until the broker was started again, without the others no owner is known to have left.
        owner_silent=members.optional("owner_silent", number) if "owner_silent" in members else None,
        joining_for=members.optional("joining_for", number) if "joining_for" in members else None,
        renewed_ago=members.optional("renewed_ago", number) if "renewed_ago" in members else None,
        owner_left=members.optional("owner_left", natural) if "owner_left" in members else None,
        owner_left_for=members.optional("owner_left_for", number) if "owner_left_for" in members else None,
    )


def _monitors(root: Members) -> Monitors:
    members = root.struct("monitors")
    return Monitors(
        network=members.reading("network", number),
        bridge=members.reading("bridge", flag),
        mem_free=members.reading("mem_free", integer),
        cpu_load=members.reading("cpu_load", number),
        storage_latency=members.reading("storage_latency", number),
        engine=root.reading("engine", _engine),
    )


def _slots(value: object, path: str) -> Mapping[int, bytes]:
    data = _unpacked(value, path)
    found: Dict[int, bytes] = {}
    at, last = 0, -1
    while at < len(data):
        begin = at + _SLOT_HEAD.size
        host_id, length = _SLOT_HEAD.unpack_from(data, at) if begin <= len(data) else (-1, 0)
        at = begin + length
        if not last < host_id <= MAX_HOST_ID or length > SLOT_SIZE or at > len(data):
            raise ProtocolError(path, f"slots of at most {SLOT_SIZE} bytes, by ascending host id", len(data))
        found[host_id] = data[begin:at].ljust(SLOT_SIZE, b"\0")
        last = host_id
    return MappingProxyType(found)


def _unpacked(value: object, path: str) -> bytes:
    if not isinstance(value, bytes):
        raise ProtocolError(path, "binary data", value)
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(value, _MOST_SLOTS + 1)
    except zlib.error as error:
        raise ProtocolError(path, "zlib data", len(value)) from error
    if len(data) > _MOST_SLOTS or not unpacker.eof:
        raise ProtocolError(path, f"zlib data of at most {_MOST_SLOTS} bytes", len(value))
    return data


def _unfolded(answer: object) -> object:
    """The struct that ``fold`` was given; anything else as it is."""
    if not isinstance(answer, dict) or "facts" not in answer:
        return answer
    try:
        struct = json.loads(text(answer["facts"], "snapshot.facts"), parse_int=_int, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("snapshot.facts", "a JSON object", type(error).__name__) from error
    if not isinstance(struct, dict):
        raise ProtocolError("snapshot.facts", "a JSON object", struct)
    return {**answer, **struct}


def _int(digits: str) -> int:
    """int() of a megabyte of digits takes seconds before Python 3.11."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("integer of too many digits")
    return int(digits)


def _refused(constant: str) -> object:
    raise ValueError(constant)


def unpack_snapshot(answer: object) -> BrokerSnapshot:
    """The typed snapshot of a struct, folded or not. Raises ProtocolError naming the member that does not fit."""
    root = Members(_unfolded(answer), "snapshot")
    storage = root.struct("storage")
    publish = root.struct("publish")
    return BrokerSnapshot(
        serial=root.get("serial", natural),
        host_id=root.get("host_id", _host_id),
        slots=root.get("slots", _slots),
        slots_age=root.optional("slots_age", number),
        storage=StorageFacts(
            state=storage.get("state", text),
            age=storage.optional("age", number),
            detail=storage.get("detail", text),
        ),
        monitors=_monitors(root),
        leases=_leases(root),
        publish=PublishFacts(
            last_written_age=publish.optional("last_written_age", number),
            overwritten=publish.get("overwritten", flag),
            problem=publish.get("problem", text),
        ),
        version=root.get("version", text),
    )
