"""Stopping the VM: ask the guest once, power it off at the limit, and what comes after."""

from typing import Tuple

from ovirt_he_ha.core import leaving, moving, notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, Outcome, State
from ovirt_he_ha.core.situation import Situation

Step = Tuple[State, bool]


def engine_stop(sit: Situation, d: Draft) -> Step:
    """The guest was asked to shut down."""
    if not sit.vm_here:
        return ended(sit, d), True
    asked = d.carried.stop_asked_at
    if asked is None or not d.carried.stop_purpose:
        return State.REINITIALIZE, True
    limit = asked + d.carried.stop_limit
    d.because("stopping", why=d.carried.stop_purpose)
    d.phase = "stopping"
    if sit.now < limit or sit.running is not None:
        d.ahead("power-off", limit)
        return State.ENGINE_STOP, False
    if not moving.is_cold_move_wanted(sit, d.carried.stop_purpose):
        d.because("stop-cancelled")
        _clear(d)
        return State.REINITIALIZE, True
    return (State.ENGINE_FORCE_STOP, True) if d.may_act else (State.ENGINE_STOP, False)


def engine_force_stop(sit: Situation, d: Draft) -> Step:
    """Power off, once; a power-off that failed leads back to looking at everything anew."""
    if not sit.vm_here:
        return ended(sit, d), True
    ordered = d.note(notes.POWERED_OFF)
    if d.carried.stop_asked_at is None or not d.carried.stop_purpose:
        return State.REINITIALIZE, True
    if ordered is None:
        if d.act(Action(ActionKind.POWER_OFF, deadline=sit.timers.power_off_deadline)):
            d.put_note(notes.POWERED_OFF, sit.now)
    elif sit.running is None and sit.now >= ordered + sit.timers.away_limit:
        _clear(d)
        return State.REINITIALIZE, True
    d.because("power-off", why=d.carried.stop_purpose)
    d.phase = "powering-off"
    return State.ENGINE_FORCE_STOP, False


def settle(sit: Situation, d: Draft, report: ActionReport) -> None:
    """A power-off that finished. (A failed request to the guest changes nothing: the limit powers it off.)"""
    if report.action.kind is not ActionKind.POWER_OFF or report.outcome is Outcome.OK or not sit.vm_here:
        return
    d.because("power-off-failed", detail=report.detail)
    if d.state is State.ENGINE_FORCE_STOP:
        _clear(d)
        d.enter(State.REINITIALIZE)


def is_ours(d: Draft) -> bool:
    """We asked for the end of the VM that was here, and it is not accounted for yet."""
    return d.carried.stop_asked_at is not None and bool(d.carried.stop_purpose)


def ended(sit: Situation, d: Draft) -> State:
    """The VM is gone because we asked for it: its end is no crash, whatever libvirt calls it."""
    purpose = d.carried.stop_purpose
    d.drop_notes(notes.SEEN_HERE, notes.STARTED, notes.MOVED)
    d.spend(healthy_since=None)
    d.keep(own_start_at=None, better_peer_since=None)
    _clear(d)
    if purpose == "hung":
        leaving.restart_after_stop(sit, d)
    elif purpose == "never-healthy":
        d.start_failed("never-healthy", f"{sit.timers.starting_limit:g}")
    elif purpose == "hand-over":
        return leaving.hand_over(sit, d, "handed-over")
    return State.ENGINE_DOWN


def _clear(d: Draft) -> None:
    d.keep(stop_asked_at=None, stop_purpose="", stop_limit=0.0)
    d.drop_notes(notes.POWERED_OFF)
