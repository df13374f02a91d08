"""The HA policy: one snapshot in, one decision out. No input or output, no clock, no log: same snapshot, same decision.

Order of one step: account for what finished and what is gone, look for a copy that must be killed, then guards and
state bodies until a state stays (a transition that upstream marks "now" happens within the same step).
"""

from typing import Callable, Mapping, Tuple

from ovirt_he_ha.core import guards, leaving, moving, publishing, running, starting, stopping
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import ActionKind, Decision, Snapshot, State
from ovirt_he_ha.core.situation import Situation, look
from ovirt_he_ha.core.timers import Timers

_Body = Callable[[Situation, Draft], Tuple[State, bool]]

_BODIES: Mapping[State, _Body] = {
    State.START: guards.start,
    State.AGENT_STOPPED: guards.start,
    State.REINITIALIZE: guards.reinitialize,
    State.GLOBAL_MAINTENANCE: guards.global_maintenance,
    State.LOCAL_MAINTENANCE: guards.local_maintenance,
    State.UNKNOWN_LOCAL_VM: guards.unknown_local_vm,
    State.ENGINE_DOWN: starting.engine_down,
    State.ENGINE_START: starting.engine_start,
    State.ENGINE_STARTING: running.engine_starting,
    State.ENGINE_UP: running.engine_up,
    State.ENGINE_UP_BAD_HEALTH: running.engine_up,
    State.ENGINE_STOP: stopping.engine_stop,
    State.ENGINE_FORCE_STOP: stopping.engine_force_stop,
    State.ENGINE_MAYBE_AWAY: leaving.engine_maybe_away,
    State.ENGINE_UNEXPECTEDLY_DOWN: leaving.engine_unexpectedly_down,
}

# The longest chain of immediate transitions has six links; a longer one would be a loop in the table.
_MOST_LINKS = 10

# In these states the end of the copy that ran here is accounted for by the state itself, or by nobody.
_OWN_ACCOUNT = (
    State.START,
    State.AGENT_STOPPED,
    State.GLOBAL_MAINTENANCE,
    State.ENGINE_STOP,
    State.ENGINE_FORCE_STOP,
)

_DEFAULTS = Timers()


def decide(snapshot: Snapshot, timers: Timers = _DEFAULTS) -> Decision:
    """The next state, at most one action, the score, what to publish and why. Never raises for any snapshot of the
    model."""
    sit = look(snapshot, timers)
    d = Draft(sit)
    d.keep(seen=sit.view.seen, loads=sit.loads)
    _settle(sit, d)
    starting.track(sit, d)
    guards.fence(sit, d)
    if snapshot.stopping:
        d.enter(State.AGENT_STOPPED)
        d.because("agent-stopped")
    else:
        _step(sit, d)
    return publishing.finish(sit, d)


def _settle(sit: Situation, d: Draft) -> None:
    """Account for the action that finished, whatever the state: a failed start counts also if maintenance came
    meanwhile."""
    moving.oversee(sit, d)
    report = sit.finished
    if report is None:
        return
    if report.action.kind is ActionKind.START:
        starting.settle(sit, d, report)
    elif report.action.kind is ActionKind.MIGRATE:
        moving.settle(sit, d, report)
    else:
        stopping.settle(sit, d, report)


def _step(sit: Situation, d: Draft) -> None:
    if leaving.is_departed(sit, d) and d.state not in _OWN_ACCOUNT:
        # Its process ends before libvirt says how: for some tenths of a second nothing is known, and the end that we
        # asked for is found from there.
        d.enter(stopping.ended(sit, d) if stopping.is_ours(d) else leaving.depart(sit, d))
    for _ in range(_MOST_LINKS):  # pragma: no branch
        guarded = guards.destination(sit, d)
        if guarded is not d.state:
            d.enter(guarded)
        state, again = _BODIES[d.state](sit, d)
        stays = state is d.state
        d.enter(state)
        if stays or not again:
            return
