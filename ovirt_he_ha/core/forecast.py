"""What one host does next, and when, from what it publishes: its state, its reasons and its countdowns.

Times are seconds after the publication. ``at`` is when the step comes if only clocks decide; None where somebody else
has to do something first. ``earliest``: it does not come before that, as long as nothing unforeseen happens.
"""

from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.core import advice
from ovirt_he_ha.core.liveness import LATE, LOOKS, UNTIL_DEAD
from ovirt_he_ha.core.model import Countdown, LeaseFacts, Reason, Record, State
from ovirt_he_ha.core.reasons import from_record
from ovirt_he_ha.core.timers import Timers

START = "start"
STOP = "stop"  # and start it again, unless it is handed over
MOVE = "move"  # live, or by a stop here and a start there
POWER_OFF = "power-off"
KILL = "kill"
ABORT = "abort-migration"


@dataclass(frozen=True)
class Wait:
    """One thing that holds a step up. ``at``: when it ends, or will have ended at the latest; None: not known."""

    why: Reason
    earliest: float
    at: Optional[float]


@dataclass(frozen=True)
class Step:
    """``waits``: everything that holds it up now, the most important first; empty: only the clock does."""

    action: str
    earliest: float
    at: Optional[float]
    waits: Tuple[Wait, ...] = ()

    @property
    def events(self) -> Tuple[Reason, ...]:
        """What has to happen first and has no known moment."""
        return tuple(wait.why for wait in self.waits if wait.at is None)


@dataclass(frozen=True)
class Forecast:
    """``steps``: what comes if nothing happens that is not awaited. ``reactions``: what happens to the VM or the
    cluster, and which step of this host follows at once."""

    steps: Tuple[Step, ...]
    reactions: Tuple[Tuple[str, str], ...]


# --- what a host is ready for -----------------------------------------------------------------------------------------

# Event of a reaction -> its sentence.
REACTIONS: Mapping[str, str] = {
    "vm-crash": "If the VM crashes, this host starts it again, or hands it over after too many crashes",
    "vm-ends": "If the VM is shut down, it is started again",
    "local-maintenance": "If this host is put into local maintenance, the VM is moved away",
    "bad-health": "If its health stays bad, the VM is restarted",
    "better-peer": "If another host becomes better by 800 points for long enough, the VM is moved there",
    "vm-appears": "If the VM appears here, it is taken over; in maintenance it is moved on, and restarted if it hangs",
    "migration-fails": "If the migration fails, it is tried again, or the VM is handed over by a stop and a start",
    "power-off-fails": "If the VM cannot be powered off, it is looked at anew",
    "vm-lost": "If the host that runs the VM is lost, this one starts it when it is its turn",
}

_GOES_ON = (("vm-crash", START), ("vm-ends", START))
_KEEPS = (("local-maintenance", MOVE), ("bad-health", STOP), ("better-peer", MOVE))
_APPEARS = (("vm-appears", MOVE), ("vm-appears", STOP))

_RUNS = (State.ENGINE_STARTING.value, State.ENGINE_UP.value, State.ENGINE_UP_BAD_HEALTH.value)
_STOPPING = (State.ENGINE_STOP.value, State.ENGINE_FORCE_STOP.value)
_RESTING = (State.GLOBAL_MAINTENANCE.value, State.LOCAL_MAINTENANCE.value, State.AGENT_STOPPED.value)

# Countdown -> the step that comes at its end, while the VM is here.
_DUE: Mapping[str, str] = {
    "guard-kill": KILL,
    "fence": KILL,
    "power-off": POWER_OFF,
    "hung": STOP,
    "hung-budget": STOP,
    "starting-limit": STOP,
    "better-peer": MOVE,
    "move-budget": MOVE,
    "migration-retry": MOVE,
    "migration-deadline": ABORT,
}

# Reason -> the step that it holds up, while the VM is here; the others say how things stand.
_HOLDS_UP: Mapping[str, str] = {
    "hung-doubt": STOP,
    "hung-budget": STOP,
    "no-target": MOVE,
    "migration-error": MOVE,
    "migration-failed": MOVE,
    "migration-foreign": MOVE,
    "better-peer": MOVE,
    "network-lost-by-most": MOVE,
    "moves-exhausted": MOVE,
    "paused-tolerated": KILL,
}


def forecast(record: Record) -> Forecast:
    """From one slot of ours. An upstream host publishes no reasons: it has no steps."""
    why, ahead = from_record(record, 0.0)
    left = {each.event: each for each in reversed(ahead)}
    state = record.get("state")
    if not (record.extra_ok and state):
        return Forecast((), ())
    if state in _STOPPING:
        return Forecast(_while_stopping(why, left), (*_GOES_ON, ("power-off-fails", STOP)))
    if state in _RUNS:
        moving = (("migration-fails", MOVE),) if any(each.code == "migrating" for each in why) else ()
        return Forecast(tuple(_while_here(why, left)), (*_GOES_ON, *_KEEPS, *moving))
    if state == State.ENGINE_START.value:
        return Forecast((_start(why, left),), (*_GOES_ON, *_KEEPS))
    if state == State.AGENT_STOPPED.value:
        return Forecast((), ())
    reactions = () if state in _RESTING else (("vm-lost", START), *_GOES_ON)
    return Forecast((_start(why, left),), (*reactions, *_APPEARS))


# --- starting ---------------------------------------------------------------------------------------------------------


def _start(why: Sequence[Reason], left: Mapping[str, Countdown]) -> Step:
    held_up = [each for each in why if advice.word(each.code).kind in (advice.TIME, advice.EVENT)]
    codes = [each.code for each in held_up]
    # A score of 0 that comes from another wait is over together with that.
    same = [each for each in held_up if each.code == "score-zero" and each.values.get("why") in codes]
    waits = [_wait(each, left) for each in held_up if each.code != "rank" and each not in same]
    rank = next((each for each in held_up if each.code == "rank"), None)
    if rank is not None:
        waits.append(_turn(rank, left, waits))
    return _step(START, waits) if waits else Step(START, 0.0, Timers.cycle)


def _wait(why: Reason, left: Mapping[str, Countdown]) -> Wait:
    known = advice.word(why.code)
    at = next((left[event].at for event in known.timers if event in left), None)
    if known.kind == advice.TIME:
        return Wait(why, at or 0.0, at or 0.0)
    return Wait(why, 0.0, at)


def _turn(rank: Reason, left: Mapping[str, Countdown], others: Sequence[Wait]) -> Wait:
    """The wait of a rank begins when the lease could be had, so it comes on top of the others. It is over at once when
    the better hosts step back."""
    if "rank" in left:
        return Wait(rank, 0.0, left["rank"].at)
    step = _seconds(rank.values.get("wait", ""))
    ends = [wait.at for wait in others]
    known = [at for at in ends if at is not None]
    at = None if len(known) < len(ends) or step is None else max(known, default=0.0) + step
    return Wait(rank, 0.0, at)


def informed(step: Step, ends: Sequence[Tuple[Reason, float]]) -> Step:
    """The same start where it is known from another host when something ends that this one waits for as well."""
    waits = [replace(wait, at=_end(wait.why, ends)) if wait.at is None else wait for wait in step.waits]
    turn = next((wait for wait in waits if wait.why.code == "rank" and wait.at is None), None)
    if turn is not None:
        others = [wait for wait in waits if wait is not turn]
        waits = [*others, _turn(turn.why, {}, others)]
    return _step(step.action, waits) if waits else step


def _end(why: Reason, ends: Sequence[Tuple[Reason, float]]) -> Optional[float]:
    at = min((at for other, at in ends if _is_same(why, other)), default=None)
    if at is None or why.values.get("flag") not in UNTIL_DEAD:
        return at
    # Each sanlock counts from its own look, so this one's moment may be a look before or after the other's; not sooner
    # than is left of a silence that this host had not told when it published.
    io_timeout = LeaseFacts.io_timeout
    unsaid = (8.0 - LATE) * io_timeout + LeaseFacts.watchdog
    return (max(at - LOOKS * io_timeout, unsaid) + at + LOOKS * io_timeout) / 2.0


def _is_same(one: Reason, other: Reason) -> bool:
    """The flag of a lease's owner may have been read at another moment."""
    return one.code == other.code and one.values.get("host") == other.values.get("host")


def _seconds(text: str) -> Optional[float]:
    return float(text[:9]) if text.replace(".", "", 1).isdigit() and text.isascii() else None


def _step(action: str, waits: Sequence[Wait]) -> Step:
    ends = [wait.at for wait in waits]
    known = [at for at in ends if at is not None]
    at = max(known, default=0.0) if len(known) == len(ends) else None
    return Step(action, max((wait.earliest for wait in waits), default=0.0), at, tuple(waits))


# --- while the VM is here ---------------------------------------------------------------------------------------------


def _while_here(why: Sequence[Reason], left: Mapping[str, Countdown]) -> Iterator[Step]:
    waits: Dict[str, List[Wait]] = {}
    for each in why:
        action = _HOLDS_UP.get(each.code)
        if action is not None:
            waits.setdefault(action, []).append(_wait(each, left))
    for event, action in _DUE.items():
        if event in left and action not in waits:
            waits[action] = []
            yield Step(action, _earliest(action, left), left[event].at)
    for action, held_up in waits.items():
        if held_up:
            yield _step(action, held_up)


def _earliest(action: str, left: Mapping[str, Countdown]) -> float:
    """The soonest of the moments at which this step may come, whatever joins."""
    events = [event for event, due in _DUE.items() if due == action and event in left]
    moments = [left[event].at for event in events]
    if action == STOP:
        # A second signal of a hang shortens the wait; one that is there already leaves no such countdown.
        moments.append(left["hung-signal"].at if "hung-signal" in left else 0.0 if "hung" not in left else moments[0])
    return min(moments, default=0.0)


def _while_stopping(why: Sequence[Reason], left: Mapping[str, Countdown]) -> Tuple[Step, ...]:
    steps = [Step(POWER_OFF, left["power-off"].at, left["power-off"].at)] if "power-off" in left else []
    waits = [_wait(each, {}) for each in why if each.code in ("stopping", "power-off", "action-running")]
    return (*steps, _step(START, waits))
