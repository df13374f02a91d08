"""One host as it was read, and its part of the explanation.

Pure: a slot in, plain values out. Times are product seconds from now; an age is None where nobody can tell.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.core import advice
from ovirt_he_ha.core import forecast as fc
from ovirt_he_ha.core.forecast import Forecast, Step, Wait, forecast
from ovirt_he_ha.core.model import Countdown, Invalid, Reason, Record
from ovirt_he_ha.core.reasons import COUNTDOWNS, describe, from_record
from ovirt_he_ha.core.timers import Timers

Struct = Dict[str, Any]

OURS, UPSTREAM, UNREADABLE = "ours", "upstream", "unreadable"
LIMIT = Timers().liveness_limit  # seconds; what is older is of a host that may be gone
_GONE = ("dead", "free")

# What is done, and what makes it unnecessary.
ACTIONS: Mapping[str, Tuple[str, str]] = {
    fc.START: ("starts it", ""),
    fc.STOP: ("restarts it", "its health is good by then"),
    fc.MOVE: ("moves it to another host", ""),
    fc.POWER_OFF: ("powers it off", "it has shut down by then"),
    fc.KILL: ("kills its process", "that has ended by then"),
    fc.ABORT: ("aborts the migration", "it has ended by then"),
}
_APART = 15.0  # seconds between two moments that are worth telling apart

# What oVirt's own agent does in its states; it publishes no reasons.
UPSTREAM_STATES: Mapping[str, str] = {
    "EngineDown": "starts the VM once no host publishes it as up and no live host has a better score",
    "EngineStart": "is starting the VM",
    "EngineStarting": "waits for its VM to become healthy, 10 minutes at most",
    "EngineUp": "runs the VM",
    "EngineUpBadHealth": "runs the VM, and stops it when its health stays bad for 5 minutes",
    "EngineStop": "is shutting the VM down, 5 minutes at most",
    "EngineForceStop": "is powering the VM off",
    "EngineMaybeAway": "waits for the VM that left it to appear elsewhere",
    "EngineMigratingAway": "is migrating the VM away",
    "EngineUnexpectedlyDown": "gives the VM to others: its score is 0 for 10 minutes",
    "GlobalMaintenance": "does nothing while global maintenance lasts",
    "LocalMaintenance": "starts nothing while its maintenance lasts",
    "ReinitializeFSM": "looks at everything anew",
    "StartState": "has just begun",
    "AgentStopped": "has been stopped",
}


@dataclass(frozen=True)
class HostSeen:
    """One host as it was read. ``live`` None: nobody can tell. ``age``: seconds since it published this, ``age_from``
    who says so. ``lease``: sanlock's word for the host, ``unknown`` without one."""

    host_id: int
    slot: Union[Record, Invalid]
    live: Optional[bool]
    age: Optional[float]
    age_from: str
    lease: str = "unknown"

    @property
    def record(self) -> Optional[Record]:
        return self.slot if isinstance(self.slot, Record) else None

    @property
    def counts(self) -> bool:
        """What it says of itself can be expected to happen."""
        if self.record is None or self.record.stopped or self.live is False:
            return False
        if self.live is None and self.lease in _GONE:
            return False
        return self.live is True or self.age is None or self.age < LIMIT

    @property
    def name(self) -> str:
        hostname = self.record.hostname if self.record is not None else ""
        return f"host {self.host_id} ({hostname})" if hostname else f"host {self.host_id}"

    @property
    def kind(self) -> str:
        if self.record is None:
            return UNREADABLE
        return OURS if self.record.extra_ok else UPSTREAM

    @property
    def state(self) -> str:
        return self.record.get("state") if self.record is not None else ""

    @property
    def forecast(self) -> Forecast:
        return forecast(self.record) if self.record is not None else Forecast((), ())


# --- time -------------------------------------------------------------------------------------------------------------


def from_now(host: HostSeen, seconds: Optional[float]) -> Optional[float]:
    """Seconds from now of what was ``seconds`` ahead when the host published it; with an age that nobody knows, at the
    latest."""
    return None if seconds is None else round(seconds - (host.age or 0.0), 1)


def clock(seconds: float, known: bool = True) -> str:
    """``in 12 s``; below 0 ``overdue by 12 s``; without a known age ``within 12 s``."""
    whole = round(seconds)
    if whole < 0:
        return f"overdue by {-whole} s"
    return f"{'in' if known else 'within'} {whole} s"


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3 h 20 min``, ``5 d 3 h``."""
    minutes = int(max(0.0, seconds)) // 60
    if minutes < 2:
        return f"{max(0.0, seconds):.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def lasting(host: HostSeen, key: str) -> Optional[float]:
    """Seconds since the moment that the host published under ``key``; with an unknown age, at least."""
    record = host.record
    text = record.get(key) if record is not None else ""
    if record is None or not (text.isascii() and text.isdigit()):
        return None
    return max(0.0, record.timestamp - float(text[:12]) + (host.age or 0.0))


# --- what comes next --------------------------------------------------------------------------------------------------


def step_struct(host: HostSeen, step: Step) -> Struct:
    at = from_now(host, step.at)
    verb, unless = ACTIONS[step.action]
    text = f"{host.name} {verb}"
    if at is not None:
        text += f" {clock(at, host.age is not None)}"
    governing = _governing(step)
    if governing is not None and advice.until(governing.why):
        text += f"{',' if at is not None else ''} once {advice.until(governing.why)}"
    elif at is None:
        text += " next"
    if step.action == fc.STOP and at is not None and step.earliest < (step.at or 0.0) - _APART:
        text += f", or {clock(from_now(host, step.earliest) or 0.0)} with a second sign of a hang"
    if unless and not step.waits:
        text += f", unless {unless}"
    return {
        "host": host.host_id,
        "action": step.action,
        "in": at,
        "earliest": from_now(host, step.earliest),
        "waits": [wait.why.code for wait in step.waits],
        "text": text,
    }


def _governing(step: Step) -> Optional[Wait]:
    """Of what holds it up, the thing that ends last: one without a known end before all others."""
    if not step.waits:
        return None
    return max(step.waits, key=lambda wait: (wait.at is None, wait.at or 0.0))


# --- one host ---------------------------------------------------------------------------------------------------------


def said(host: HostSeen) -> Tuple[Tuple[Reason, ...], Tuple[Countdown, ...]]:
    if host.record is None or host.kind != OURS:
        return (), ()
    return from_record(host.record, 0.0)


def host_struct(host: HostSeen, own_id: int, standby: bool) -> Struct:
    """``standby``: another host has the VM, and this one waits for nothing else."""
    record = host.record
    why, ahead = said(host)
    ends = [(wait.why, wait.at) for step in host.forecast.steps for wait in step.waits]
    struct: Struct = {
        "host_id": host.host_id,
        "hostname": record.hostname if record is not None else "",
        "local": host.host_id == own_id,
        "kind": host.kind,
        "live": host.live,
        "age": None if host.age is None else round(host.age, 1),
        "age_from": host.age_from,
        "sanlock": host.lease,
        "state": host.state,
        "since": lasting(host, "since"),
        "standby": standby,
        "vm": _vm(record),
        "maintenance": _maintenance(record),
        "reasons": [_reason(host, each, ends) for each in why],
        "countdowns": [_countdown(host, each) for each in ahead],
        "next": [step_struct(host, step) for step in host.forecast.steps],
        "reactions": [_reaction(each) for each in dict.fromkeys(event for event, _ in host.forecast.reactions)],
        "fence": _fence(host),
        "score": _score(record),
    }
    if host.kind == UPSTREAM:
        struct["does"] = UPSTREAM_STATES.get(host.state, "publishes no reasons")
    if isinstance(host.slot, Invalid):
        struct["invalid"] = {"reason": host.slot.reason, "detail": host.slot.detail}
    return struct


Ends = List[Tuple[Reason, Optional[float]]]


def _reason(host: HostSeen, why: Reason, ends: Ends) -> Struct:
    return {
        "code": why.code,
        "values": dict(why.values),
        "kind": advice.word(why.code).kind,
        "text": describe(why),
        "until": advice.until(why),
        "in": from_now(host, _end(why, ends)),
        "do": advice.to_do(why),
    }


def _end(why: Reason, ends: Ends) -> Optional[float]:
    return next((at for other, at in ends if other == why), None)


def _countdown(host: HostSeen, what: Countdown) -> Struct:
    left = from_now(host, what.at)
    text = COUNTDOWNS.get(what.event, what.event)
    return {"event": what.event, "in": left, "text": f"{clock(left or 0.0, host.age is not None)}: {text}"}


def _reaction(event: str) -> Struct:
    return {"event": event, "text": fc.REACTIONS.get(event, event)}


def _vm(record: Optional[Record]) -> Struct:
    engine = record.engine if record is not None else None
    if engine is None:
        return {"vm": "unknown", "health": "unknown", "detail": "unknown", "reason": ""}
    return {"vm": engine.vm.value, "health": engine.health.value, "detail": engine.detail, "reason": engine.reason}


def _maintenance(record: Optional[Record]) -> Struct:
    return {"local": record is not None and record.maintenance, **upkeep.of_host(record)}


def _fence(host: HostSeen) -> Optional[Struct]:
    record = host.record
    if record is None or not record.extra_ok or not record.get("fence.state"):
        return None
    left = record.get("fence.in")
    seconds = from_now(host, float(left[:9])) if left.isascii() and left.isdigit() else None
    return {"state": record.get("fence.state"), "why": record.get("fence.why"), "in": seconds}


def _score(record: Optional[Record]) -> Struct:
    if record is None:
        return {"points": 0, "of": None, "penalties": [], "zero": "", "zero_text": ""}
    penalties: List[Struct] = []
    lost_all = 0
    for key, text in record.extra if record.extra_ok else ():
        if key.startswith("score.") and key != "score.zero":
            points, _, value = text.partition(" ")
            number = points.lstrip("-")
            code = key[len("score.") :]
            lost = int(number[:9]) if number.isascii() and number.isdigit() else 0
            lost_all += lost
            penalties.append({"code": code, "points": lost, "value": value, "text": advice.penalty(code, value)})
    zero = record.get("score.zero") if record.extra_ok else ""
    whole = record.score + lost_all if record.score > 0 else None
    return {
        "points": record.score,
        "of": whole if record.extra_ok else None,
        "penalties": penalties,
        "zero": zero,
        "zero_text": advice.ZEROES.get(zero, zero),
    }
