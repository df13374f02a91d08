"""When the engine's process on this host must die: the guard's facts in, one verdict out.

The guard of a running copy is sanlock: it renews this host's lease and ends the copy when it no longer can. A copy
whose guard is gone is ended by us, before any other host may take its lease (``8 * io_timeout`` after the last renewal
at the earliest, and the watchdog's time on top of that). These rules know neither libvirt nor the broker.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import List, Optional

from ovirt_he_ha.core import reasons
from ovirt_he_ha.core.model import GuardReport, LeaseOwner, Reason
from ovirt_he_ha.core.timers import Timers

# In io_timeouts, all after the last renewal that sanlock confirmed. It renews every 2 and kills at 8 by itself; other
# hosts wait for 8 and the watchdog. 6 leaves two (20 s at the default) for the look, the signal and the end of qemu.
UNCONFIRMED = 6.0
LATEST_KILL = 8.0
# From here on a copy that nothing ends has the host reset. wdmd may take 10 s to look, and the device 60 s more; others
# wait for 8 and the device's time. At 6, nothing would be left with an io_timeout of 5 s.
RESET = 4.0
# One renewal late is ordinary (a slow disk); from here on the countdown is shown.
WORRYING = 3.0
# A host that slept longer than this may have been given up; the clock that sanlock counts with stood still meanwhile.
SLEPT = 2.0


@dataclass(frozen=True)
class Copy:
    """The engine's process here. ``age`` in product seconds; ``incoming``: made as the destination of a migration;
    ``held``: it was seen with the lease before."""

    pid: int
    age: float
    incoming: bool = False
    held: bool = False


@dataclass(frozen=True)
class Registration:
    """What this host's sanlock said of the copy: the same answer from ``since`` to ``at``.

    ``known``: the process is registered with it. ``holds``: with the VM's lease. ``host_id`` and ``generation`` are
    those under which it holds the lockspace; 0 when it does not.
    """

    known: bool
    holds: bool
    host_id: int
    generation: int
    since: float
    at: float


@dataclass(frozen=True)
class OwnerLook:
    """The owner record as read from the volume between ``started`` and ``finished``."""

    owner: LeaseOwner
    started: float
    finished: float


@dataclass(frozen=True)
class GuardFacts:
    """All that one verdict may look at; times are product seconds of this host's monotonic clock.

    ``confirmed_at``: last renewal of the lockspace's lease that sanlock reported (the first look at this copy, before
    the first report). ``refused_since``: nobody listens at sanlock's socket since then. ``blind``: sanlock answers, and
    the answer says nothing of renewals. ``slept``: seconds of host sleep since ``confirmed_at``, which the monotonic
    clock does not count; ``longest_sleep``: the longest one in the life of this copy. ``registration`` and ``owner``
    are None while unknown: a read error is no mismatch. ``suspended_until``: our own hand-over or start is under way.
    ``young``: seconds below which a copy may still be without lease. ``stands_since``: it holds the lease since then,
    and no virtual CPU of it has ever run; None: one has, or that is not known.
    """

    now: float
    copy: Copy
    io_timeout: float
    confirmed_at: float
    refused_since: Optional[float] = None
    blind: bool = False
    slept: float = 0.0
    longest_sleep: float = 0.0
    registration: Optional[Registration] = None
    owner: Optional[OwnerLook] = None
    suspended_until: float = 0.0
    young: float = 10.0
    stands_since: Optional[float] = None


class Kind(IntEnum):
    """In the order of severity."""

    KEEP = 0
    COUNTDOWN = 1
    KILL = 2


@dataclass(frozen=True)
class Verdict:
    """``state`` is the word that is published; ``kill_at`` belongs to COUNTDOWN."""

    kind: Kind
    state: str
    reason: Optional[Reason] = None
    kill_at: Optional[float] = None

    def report(self) -> GuardReport:
        return GuardReport(self.state, self.reason, self.kill_at)


@dataclass(frozen=True)
class _Threat:
    """The copy is killed at ``at`` unless this ends before."""

    at: float
    why: Reason
    shown_from: float


def judge(facts: GuardFacts, timers: Timers) -> Verdict:
    """Keep, a countdown, or kill. Same facts, same verdict; never raises."""
    threats = _threats(facts, timers)
    if not threats:
        return Verdict(Kind.KEEP, _state(facts, timers))
    due = [threat for threat in threats if threat.at <= facts.now]
    if due:
        return Verdict(Kind.KILL, "killing", due[0].why)
    shown = [threat for threat in threats if threat.shown_from <= facts.now]
    if shown:
        first = min(shown, key=lambda threat: threat.at)
        return Verdict(Kind.COUNTDOWN, "threatened", first.why, first.at)
    return Verdict(Kind.KEEP, _state(facts, timers))


def reset_due(f: GuardFacts, stuck: bool) -> bool:
    """Whether the host must be reset for this copy. ``stuck``: it has survived SIGKILL. With the lease it is sanlock's,
    whose watchdog resets the host at 8 io_timeouts and the device's time; one that gave the lease back before is
    nobody's, and others start when this host's id is dead, at the same moment. Asked of wdmd by now, the reset comes
    within the device's time and 10 s."""
    if not stuck or f.blind or (f.registration is not None and f.registration.holds):
        return False
    return f.now >= f.confirmed_at - f.slept + RESET * f.io_timeout


def _threats(f: GuardFacts, t: Timers) -> List[_Threat]:
    found = [
        _sleep(f),
        _gone(f, t),
        _unconfirmed(f),
        _unknown_process(f, t),
        _without_lease(f, t),
        _other_owner(f),
        _never_ran(f, t),
    ]
    return [threat for threat in found if threat is not None]


# --- the guard is lost ----------------------------------------------------------------------------------------------


def _sleep(f: GuardFacts) -> Optional[_Threat]:
    if f.longest_sleep <= SLEPT * f.io_timeout:
        return None
    return _Threat(f.now, reasons.reason("guard-slept", seconds=f"{f.longest_sleep:.0f}"), f.now)


def _gone(f: GuardFacts, t: Timers) -> Optional[_Threat]:
    """A sanlock that comes back does not know the process any more, so there is nothing to wait for but doubt."""
    if f.refused_since is None:
        return None
    return _Threat(f.refused_since + t.guard_gone, reasons.reason("guard-gone"), f.refused_since)


def _unconfirmed(f: GuardFacts) -> Optional[_Threat]:
    if f.blind:
        return None
    since = f.confirmed_at - f.slept
    shown_from = since + WORRYING * f.io_timeout
    if f.now < shown_from:
        return None
    silent = f.now - f.confirmed_at + f.slept
    why = reasons.reason("guard-unconfirmed", seconds=f"{silent:.0f}")
    return _Threat(since + UNCONFIRMED * f.io_timeout, why, shown_from)


def _unknown_process(f: GuardFacts, t: Timers) -> Optional[_Threat]:
    """libvirt registers the process before it becomes qemu. One that is not registered was started without a guard, or
    its sanlock died and another one runs."""
    registration = f.registration
    if registration is None or registration.known:
        return None
    born = f.now - f.copy.age
    # One answer alone may have been cut short between two records; a second one is asked for within guard_poll.
    wait = t.guard_newborn if registration.at > registration.since else 2 * t.guard_poll
    at = max(born, registration.since) + wait
    return _Threat(at, reasons.reason("guard-unknown-process", pid=f.copy.pid), f.now)


# --- the audit of the owner ------------------------------------------------------------------------------------------


def _without_lease(f: GuardFacts, t: Timers) -> Optional[_Threat]:
    """Registered, and without the VM's lease: paused, started without one, or handed over."""
    registration = f.registration
    if registration is None or not registration.known or registration.holds or _may_lack_lease(f, t):
        return None
    look = _covering(f)
    foreign = look is not None and look.owner.host_id not in (0, registration.host_id)
    at = f.now if foreign else registration.since + t.owner_audit
    owner = "unknown" if look is None else look.owner.host_id or "nobody"
    return _Threat(at, reasons.reason("guard-no-lease", pid=f.copy.pid, owner=owner), f.now)


def _may_lack_lease(f: GuardFacts, t: Timers) -> bool:
    """No CPU of it has run yet, or our own hand-over is under way."""
    waits_for_memory = f.copy.incoming and not f.copy.held and f.copy.age < t.incoming_limit
    return f.copy.age < f.young or f.now < f.suspended_until or waits_for_memory


def _other_owner(f: GuardFacts) -> Optional[_Threat]:
    """Definite only if sanlock's answer was the same before and after the record was read: a lease is taken and given
    back while we look."""
    registration, look = f.registration, _covering(f)
    if registration is None or look is None or not registration.holds or f.now < f.suspended_until:
        return None
    if registration.host_id == 0:
        return None  # sanlock is leaving the lockspace: nothing to compare with, and no renewal comes any more
    found, ours = look.owner, registration
    if (found.host_id, found.generation) == (ours.host_id, ours.generation):
        return None
    why = reasons.reason(
        "guard-other-owner",
        owner=found.host_id,
        generation=found.generation,
        host=ours.host_id,
        ours=ours.generation,
    )
    return _Threat(f.now, why, f.now)


def _never_ran(f: GuardFacts, t: Timers) -> Optional[_Threat]:
    """libvirt lets the CPUs run as soon as sanlock has given it the lease. Where it died in between, sanlock gives the
    lease to a process that stands still, and that keeps it from everybody. Nothing is lost with what never ran."""
    if f.stands_since is None or f.copy.incoming or f.now < f.suspended_until:
        return None
    why = reasons.reason("guard-never-ran", pid=f.copy.pid, seconds=f"{f.now - f.stands_since:.0f}")
    return _Threat(f.stands_since + t.guard_standing, why, f.stands_since + t.owner_audit)


def _covering(f: GuardFacts) -> Optional[OwnerLook]:
    registration, look = f.registration, f.owner
    if registration is None or look is None:
        return None
    return look if registration.since <= look.started and look.finished <= registration.at else None


# --- when nothing threatens ------------------------------------------------------------------------------------------


def _state(f: GuardFacts, t: Timers) -> str:
    registration = f.registration
    if f.blind:
        return "blind"
    if f.now < f.suspended_until:
        return "suspended"
    if registration is None:
        return "unverified"
    if not registration.holds:
        return "starting"
    return "guarded" if _verified(f, t) else "unverified"


def _verified(f: GuardFacts, t: Timers) -> bool:
    """The owner on the volume was compared lately: two audits may have been missed."""
    return f.owner is not None and f.now - f.owner.finished <= 3 * t.owner_audit
