"""Answers of the product's pure functions that worlds work out once: a host says the same for hours, and every host of
a world reads it. What an answer depends on is its key; where a function began to look at more than that, every
sixteenth answer, which is worked out all the same and compared, would say so.
"""

from functools import lru_cache
from typing import Any, Callable, Dict, Hashable, List, Optional, Tuple

from ovirt_he_ha.agent import collect
from ovirt_he_ha.broker import slot_reads
from ovirt_he_ha.core import protection, publishing, reasons, safeguards, slot
from ovirt_he_ha.core.model import Invalid, Reason, Record
from ovirt_he_ha.core.protection import Cluster, Host
from ovirt_he_ha.core.safeguards import Facts

Function = Callable[..., Any]

REMEMBERED = 1024  # answers of one function
LINES = 4096
SLOTS = 512  # 4 KiB each
CHECKED = 16


def quick_functions() -> Dict[Function, Function]:
    """What stands in the place of what, while worlds run."""
    quick: Dict[Function, Function] = {each: remembered(each) for each in (slot.decode, slot.decode_global)}
    quick.update({each: known(each) for each in KNOWN})
    quick.update({each: lru_cache(maxsize=LINES)(each) for each in OF_LINES})
    quick.update({each: lru_cache(maxsize=SLOTS)(each) for each in OF_SLOTS})
    quick[safeguards._parsed] = Words().facts
    quick[protection.assess] = Checked(protection.assess, _of_cluster).answer
    quick[reasons.encode_reason] = Checked(reasons.encode_reason, _of_reason).answer
    return quick


KNOWN: Tuple[Function, ...] = (safeguards.score_digest, safeguards.timers_digest)
OF_LINES: Tuple[Function, ...] = (publishing._line, slot._own_line, slot._printable)
OF_SLOTS: Tuple[Function, ...] = (collect._content, slot_reads.meaning_of)
PLAIN: Tuple[Function, ...] = (
    slot.decode, slot.decode_global, *KNOWN, *OF_LINES, *OF_SLOTS, safeguards._parsed, protection.assess,
    reasons.encode_reason,
)  # fmt: skip


def remembered(plain: Function) -> Function:
    """The same answers: they depend on nothing but the arguments, which do not change."""
    answers: Dict[Tuple[Any, ...], Any] = {}

    def answer(*arguments: Any) -> Any:
        found = answers.get(arguments)
        if found is None:
            if len(answers) >= REMEMBERED:
                answers.clear()
            found = answers[arguments] = plain(*arguments)
        return found

    return answer


def known(plain: Function) -> Function:
    """The same answers for the same object, of which there are few: a cache by its value would hash all of it each
    time."""
    answers: Dict[int, Tuple[Any, Any]] = {}

    def answer(argument: Any) -> Any:
        found = answers.get(id(argument))
        if found is None:
            if len(answers) >= REMEMBERED:
                answers.clear()
            found = answers[id(argument)] = (argument, plain(argument))  # kept: its id is nobody else's
        return found[1]

    return answer


class Checked:
    """The same answers for the same ``key(argument)``; None: not to be remembered."""

    def __init__(self, plain: Function, key: Callable[[Any], Optional[Hashable]]) -> None:
        self._plain = plain
        self._key = key
        self._answers: Dict[Hashable, Any] = {}
        self._repeated = 0

    def answer(self, argument: Any) -> Any:
        key = self._key(argument)
        if key is None:
            return self._plain(argument)
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            found = self._answers[key] = self._plain(argument)
            return found
        self._repeated += 1
        if not self._repeated % CHECKED and self._plain(argument) != found:
            raise AssertionError(f"{self._plain.__name__} depends on more than {key}")
        return found


# --- what a host says of itself ---------------------------------------------------------------------------------------

WORDS = (
    "def", "def.run", "lockmgr", "wd", "io", "conf", "vers", "lease", "net2", "mig", "mig.uri", "cpu", "version",
    "fence.state", "fence.why", "problem", "maintenance_state",
)  # fmt: skip
TIME = "wall"
_MARK = "_words"  # beside the fields of the facts: a number for what they were made of


class Words:
    """``safeguards._parsed``: only the time is new in each slot."""

    def __init__(self) -> None:
        self._plain = safeguards._parsed
        self._made: Dict[Tuple[Optional[str], ...], Facts] = {}
        self._marks = 0
        self._repeated = 0

    def facts(self, record: Record) -> Facts:
        time = record.get(TIME)
        key = tuple(map((record._texts or {}).get, WORDS))
        like = self._made.get(key)
        if like is None:
            return self._new(record, key)
        seconds = safeguards._whole(time, safeguards._MOST_WALL)
        found = like if like.wall == seconds else _at(like, seconds)
        self._repeated += 1
        if not self._repeated % CHECKED and self._plain(record) != found:
            raise AssertionError(f"what a host says of itself depends on more than {key} and {time}")
        return found

    def _new(self, record: Record, key: Tuple[Optional[str], ...]) -> Facts:
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._marks += 1
        found = self._made[key] = self._plain(record)
        found.__dict__[_MARK] = self._marks
        return found


def _at(facts: Facts, wall: int) -> Facts:
    made = object.__new__(Facts)
    made.__dict__.update(facts.__dict__, wall=wall)
    return made


# --- what answers depend on -------------------------------------------------------------------------------------------


def _of_cluster(cluster: Cluster) -> Optional[Hashable]:
    """None where an age or a clock is among the findings."""
    age = cluster.slots_age
    if age is None or age > protection._SLOTS_OLD or cluster.wall is not None:
        return None
    key: List[Hashable] = [cluster.own_id, cluster.flags_known]
    key += (cluster.global_maintenance.value, cluster.global_maintenance.unknown)
    for host in cluster.hosts:
        mark = 0 if host.facts is safeguards.UNTOLD else host.facts.__dict__.get(_MARK)
        if mark is None:
            return None
        key += (host.host_id, host.live, host.silent, host.lease, mark, _of_slot(host))
    return tuple(key)


def _of_slot(host: Host) -> Hashable:
    found = host.slot
    if isinstance(found, Record):
        engine = found.engine
        status = None if engine is None else (engine.vm, engine.detail)
        return status, found.stopped, found.maintenance, found.score > 0 or found.get("score.zero")
    return found.reason if isinstance(found, Invalid) else None


def _of_reason(why: Reason) -> Hashable:
    return (why.code, *why.values.items())
