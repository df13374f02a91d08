"""The VM was here and is not any more: which end it was, and what follows from it."""

from typing import Callable, Dict, Tuple

from ovirt_he_ha.core import liveness, notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import Exit, HostLease, State
from ovirt_he_ha.core.situation import Situation, is_fresh

Step = Tuple[State, bool]

# The exit that libvirt reported may be this much older than the last look that showed the VM here, and still be its
# end: a poll in between, two processes. 15 s is three polls; an older exit belongs to an earlier copy.
_EXIT_SLACK = 15.0

# The same end, reported again, may seem this much younger: its age is taken by the broker and read after a call of
# up to 5 s.
_EXIT_JITTER = 5.0


def is_departed(sit: Situation, d: Draft) -> bool:
    """The VM was seen here, is known not to be here, and its end is not accounted for yet."""
    return d.note(notes.SEEN_HERE) is not None and sit.facts is not None and not sit.vm_here


def depart(sit: Situation, d: Draft) -> State:
    """Account for the end of the copy that ran here, and say where that leads. Clears all that belonged to that
    copy."""
    exit_ = _which_end(sit, d)
    d.drop_notes(notes.SEEN_HERE, notes.STARTED, notes.EXIT_KNOWN, notes.MOVED)
    d.spend(healthy_since=None)
    d.keep(own_start_at=None, migration=None, better_peer_since=None)
    return _ENDS[exit_](sit, d)


def _which_end(sit: Situation, d: Draft) -> Exit:
    seen, moved = d.note(notes.SEEN_HERE), d.note(notes.MOVED)
    if moved is not None and sit.now <= moved + sit.timers.own_migration_pause:
        # Our migration came to its good end. What is said of the process here may be a guess: with the VM on its way
        # back within the same second, libvirt's last word on the old copy comes too late.
        return Exit.MIGRATED
    exit_ = own_start_end(sit, d) if seen is None else sit.exit_since(seen - _EXIT_SLACK)
    return Exit.MIGRATED if exit_ is Exit.NONE and d.carried.migration is not None else exit_


def own_start_end(sit: Situation, d: Draft) -> Exit:
    """The end of the copy that our own START made, if it was never seen here. NONE: no end was reported, or only the
    earlier copy's, which a restart at once follows within a tenth of a second."""
    started = d.carried.own_start_at
    if started is None:
        return Exit.NONE
    known = d.note(notes.EXIT_KNOWN)
    return sit.exit_since(started if known is None else max(started, known + _EXIT_JITTER))


def forget(d: Draft) -> None:
    """Maintenance: what happens to the VM now is somebody's will, not a crash."""
    d.drop_notes(
        notes.SEEN_HERE,
        notes.RESTART_AT,
        notes.CRASH_BACKOFF,
        notes.GUEST_OFF,
        notes.LOST_RACE,
        notes.STARTED,
        notes.EXIT_KNOWN,
        notes.MOVED,
        notes.AWAY,
        notes.POWERED_OFF,
    )
    d.keep(own_start_at=None, hold_down_until=None, stop_asked_at=None, stop_purpose="", better_peer_since=None)


# --- ends ---------------------------------------------------------------------------------------------------------


def _crashed(sit: Situation, d: Draft) -> State:
    """Same-host restarts: the first at once, the second after 10 s; then the VM is handed over, or the waits grow."""
    t = sit.timers
    crashes = (*(at for at in d.carried.budgets.crashes if at > sit.now - t.crash_window), sit.now)
    d.spend(crashes=crashes)
    exit_ = sit.facts.last_exit.value if sit.facts is not None else "?"
    d.because("crash", exit=exit_, count=len(crashes), window=f"{t.crash_window:g}")
    step = d.carried.budgets.backoff_step
    # Once in the back-off, only a healthy time resets it: the waits outgrow the window that counts crashes.
    if len(crashes) <= t.crash_restarts and step == 0:
        wait = 0.0 if len(crashes) == 1 else t.crash_second_delay
        _restart_here(sit, d, wait)
        d.because("crash-restart")
        return State.ENGINE_DOWN
    if sit.view.eligible:
        return hand_over(sit, d)
    d.spend(backoff_step=step + 1)
    d.put_note(notes.RESTART_AT, sit.now + t.crash_wait(step))
    d.put_note(notes.CRASH_BACKOFF, sit.now)
    d.because("crash-backoff")
    return State.ENGINE_DOWN


def _guest_shutdown(sit: Situation, d: Draft) -> State:
    """Not a crash, and yet HA keeps it up. A guest that keeps switching itself off costs a start every 30 s, not a
    loop."""
    last = d.note(notes.GUEST_OFF)
    again = last is not None and sit.now - last < sit.timers.crash_window
    d.put_note(notes.GUEST_OFF, sit.now)
    _restart_here(sit, d, sit.timers.crash_wait(0) if again else 0.0)
    d.because("guest-shutdown")
    return State.ENGINE_DOWN


def _requested(sit: Situation, d: Draft) -> State:
    d.because("requested-stop")
    return State.ENGINE_DOWN


def _never_came_up(sit: Situation, d: Draft) -> State:
    d.start_failed("never-came-up")
    return State.ENGINE_DOWN


def _lease_lost(sit: Situation, d: Draft) -> State:
    """The next start waits for the lockspace like any other; peers may be faster, and are not held up."""
    d.because("lease-lost")
    return State.ENGINE_DOWN


def _migrated(sit: Situation, d: Draft) -> State:
    d.put_note(notes.AWAY, sit.now)
    d.keep(migration_tries=0, migration_error="", next_migration_at=0.0)
    d.because("migrated-away")
    return State.ENGINE_MAYBE_AWAY


def _without_word(sit: Situation, d: Draft) -> State:
    """No end was reported (the broker was not looking). If another host that lives owns the lease now, it has gone
    there; else it crashed."""
    owner = sit.snapshot.leases.owner
    host_id = owner.value.host_id if owner.value is not None and is_fresh(owner, sit.timers) else 0
    if host_id not in (0, sit.own_id) and sit.flags.get(host_id) is HostLease.LIVE:
        d.because("away", host=host_id)
        return State.ENGINE_MAYBE_AWAY
    return _crashed(sit, d)


_ENDS: Dict[Exit, Callable[[Situation, Draft], State]] = {
    Exit.NONE: _without_word,
    Exit.GUEST_SHUTDOWN: _guest_shutdown,
    Exit.REQUESTED: _requested,
    Exit.MIGRATED: _migrated,
    Exit.CRASHED: _crashed,
    Exit.FAILED: _never_came_up,
    Exit.LEASE_LOST: _lease_lost,
}


def _restart_here(sit: Situation, d: Draft, wait: float) -> None:
    d.put_note(notes.RESTART_AT, sit.now + wait)
    d.keep(hold_down_until=sit.now + sit.timers.down_hold)


def restart_after_stop(sit: Situation, d: Draft) -> None:
    """We stopped a hung VM: it starts again here, by the normal checks, as soon as the lease allows."""
    d.put_note(notes.RESTART_AT, sit.now)


# --- handing over ---------------------------------------------------------------------------------------------------


def hand_over(sit: Situation, d: Draft, why: str = "crash-hand-over") -> State:
    """Score 0 for a minute: every peer reads it, the next rank starts."""
    d.drop_notes(notes.RESTART_AT, notes.CRASH_BACKOFF)
    d.spend(handed_over_until=sit.now + sit.timers.score_zero_after_crash)
    d.keep(hold_down_until=None)
    d.because(why)
    return State.ENGINE_UNEXPECTEDLY_DOWN


def must_hand_over(sit: Situation, d: Draft) -> bool:
    """Backing off after crashes while nobody else could start, and now somebody can."""
    return d.note(notes.CRASH_BACKOFF) is not None and bool(sit.view.eligible)


def engine_unexpectedly_down(sit: Situation, d: Draft) -> Step:
    """Handed over: at score 0 until peers had their minute."""
    if sit.vm_here:
        return State.ENGINE_STARTING, True
    until = d.carried.budgets.handed_over_until
    if sit.now >= until:
        return State.ENGINE_DOWN, True
    d.because("handed-over")
    d.ahead("hand-over-end", until)
    d.phase = "handed-over"
    return State.ENGINE_UNEXPECTEDLY_DOWN, False


# --- gone elsewhere ---------------------------------------------------------------------------------------------------


def engine_maybe_away(sit: Situation, d: Draft) -> Step:
    """The VM went to another host. `Migration Source` stays published until its slot says so, 20 s at most: peers
    never read that there is no VM at all."""
    if sit.vm_here:
        d.drop_notes(notes.AWAY)
        return State.ENGINE_STARTING, True
    if liveness.engine_elsewhere(sit.view):
        d.drop_notes(notes.AWAY)
        return State.ENGINE_DOWN, True
    away = d.note(notes.AWAY)
    if away is not None:
        return _await_destination(sit, d, away)
    limit = d.carried.entered_at + sit.timers.away_limit
    if sit.now < limit:
        d.because("away", host=_owner(sit))
        d.ahead("away", limit)
        d.phase = "away"
        return State.ENGINE_MAYBE_AWAY, False
    return hand_over(sit, d, "away-lost"), True


def _await_destination(sit: Situation, d: Draft, away: float) -> Step:
    limit = away + sit.timers.destination_ack
    if sit.now >= limit:
        d.drop_notes(notes.AWAY)
        return State.ENGINE_DOWN, True
    d.because("migrated-away")
    d.ahead("destination-ack", limit)
    d.phase = "migrated"
    return State.ENGINE_MAYBE_AWAY, False


def _owner(sit: Situation) -> str:
    owner = sit.snapshot.leases.owner.value
    return str(owner.host_id) if owner is not None else "?"
