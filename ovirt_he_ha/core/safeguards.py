"""What a host says of its own guards, as lines of its slot's free text, and back: any host can show the whole cluster.

A line that is not there says "not known", and so does every line of a host of oVirt's own.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import List, Optional, Tuple

from ovirt_he_ha.core.model import Record, ScoreConfig
from ovirt_he_ha.core.situation import Situation
from ovirt_he_ha.core.timers import Timers

NO_DEFINITION = "no-definition"  # it was not read yet: that says nothing of what it is
DIGEST = 6  # hexadecimal digits: for equality among a handful of hosts, and every byte of a slot counts
_MOST_SECONDS = 100_000
_MOST_WALL = 1 << 40


@dataclass(frozen=True)
class Facts:
    """One host's word on itself. Empty, None and 0: not known. ``told``: it says such things at all.

    ``definition``: ``ok``, or the code of what is refused in the VM's definition. ``running_lease``: the copy that runs
    there has the lease in its definition. ``lock_manager`` as in Safeguards. ``io_timeout`` and ``watchdog_timeout`` in
    seconds. ``deployment``, ``score``, ``timers``: digests that must be the same on all hosts. ``wall``: its wall
    clock in seconds since the epoch when it published. ``guard``: the state of the guard over the copy there.
    """

    told: bool = False
    definition: str = ""
    running_lease: Optional[bool] = None
    lock_manager: str = ""
    watchdog: Optional[bool] = None
    io_timeout: int = 0
    watchdog_timeout: int = 0
    deployment: str = ""
    score: str = ""
    timers: str = ""
    lease: str = ""
    wall: int = 0
    second_network: Optional[bool] = None
    migrates: bool = False
    cpu: str = ""
    agent: str = ""
    broker: str = ""
    libvirt: str = ""
    sanlock: str = ""
    guard: str = ""
    guard_why: str = ""
    problems: Tuple[str, ...] = ()
    resting: str = ""


UNTOLD = Facts()


# --- to the slot ----------------------------------------------------------------------------------------------------


def lines(sit: Situation) -> List[Tuple[str, str]]:
    """What this host publishes of its guards; an empty value is not written."""
    host, leases = sit.snapshot.host, sit.snapshot.leases
    known = host.safeguards
    running = sit.facts.lease_defined if sit.vm_here and sit.facts is not None else None
    held = leases.own_generation is not None  # before that, the timeouts are no more than sanlock's defaults
    digests = (known.deployment, score_digest(host.score), timers_digest(sit.timers))
    return [
        ("def", _definition(host.definition_problem)),
        ("def.run", _bit(running)),
        ("lockmgr", known.lock_manager),
        ("wd", _bit(leases.watchdog_armed)),
        ("io", f"{leases.io_timeout}/{leases.watchdog}" if held else ""),
        ("conf", "/".join(digests)),
        ("net2", _bit(known.second_network)),
        ("vers", "/".join(each.replace("/", "?") for each in (known.broker, known.libvirt, known.sanlock))),
        ("wall", f"{sit.now:.0f}"),  # the encoder writes the wall clock's
    ]


def _definition(problem: str) -> str:
    if problem == NO_DEFINITION:
        return ""
    return problem or "ok"


def _bit(value: Optional[bool]) -> str:
    return "" if value is None else str(int(value))


@lru_cache(maxsize=8)
def score_digest(config: ScoreConfig) -> str:
    """Of ``agent.conf`` [score]: the hosts' scores are compared with each other."""
    return digest(*(f"{row.name}={getattr(config, row.name)!r}" for row in fields(config)))


@lru_cache(maxsize=8)
def timers_digest(timers: Timers) -> str:
    return digest(*(f"{row.name}={getattr(timers, row.name)!r}" for row in fields(timers)))


def digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "replace")).hexdigest()[:DIGEST]


# --- from the slot --------------------------------------------------------------------------------------------------


_KEPT = "_facts"


def facts_of(record: Record) -> Facts:
    """Never raises: the text comes from another host."""
    # Made at the first question and kept beside the fields: each cycle asks for those of every peer.
    kept: Optional[Facts] = getattr(record, _KEPT, None)
    if kept is None:
        kept = _parsed(record) if record.extra_ok else UNTOLD
        object.__setattr__(record, _KEPT, kept)
    return kept


def _parsed(record: Record) -> Facts:
    get = record.get
    io_timeout, fire = _pair(get("io"))
    deployment, score, timers = _three(get("conf"))
    broker, libvirt, sanlock = _three(get("vers"))
    return Facts(
        told=True,
        definition=get("def"),
        running_lease=_truth(get("def.run")),
        lock_manager=get("lockmgr"),
        watchdog=_truth(get("wd")),
        io_timeout=io_timeout,
        watchdog_timeout=fire,
        deployment=deployment,
        score=score,
        timers=timers,
        lease=get("lease"),
        wall=_whole(get("wall"), _MOST_WALL),
        second_network=_truth(get("net2")),
        migrates=get("mig") == "1" and get("mig.uri") != "",
        cpu=get("cpu"),
        agent=get("version"),
        broker=broker,
        libvirt=libvirt,
        sanlock=sanlock,
        guard=get("fence.state"),
        guard_why=get("fence.why"),
        problems=tuple(code for code in get("problem").split(",") if code),
        resting=get("maintenance_state"),
    )


def _truth(text: str) -> Optional[bool]:
    return {"0": False, "1": True}.get(text)


def _whole(text: str, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 15 else 0
    return number if number <= most else 0


def _pair(text: str) -> Tuple[int, int]:
    """Both or none: half a pair says nothing of a recovery."""
    one, _, other = text.partition("/")
    first, second = _whole(one, _MOST_SECONDS), _whole(other, _MOST_SECONDS)
    return (first, second) if first and second else (0, 0)


def _three(text: str) -> Tuple[str, str, str]:
    parts = text.split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")
