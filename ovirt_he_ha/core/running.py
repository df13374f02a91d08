"""The VM is here: EngineStarting, EngineUp and EngineUpBadHealth.

Whatever a remote slot says never stops it (a stale `up` elsewhere is published as a reason and ignored). It is
stopped for a hang, for never becoming healthy, or to hand it to a better host; it is moved for maintenance.
"""

from typing import Optional, Tuple

from ovirt_he_ha.core import guards, leaving, liveness, moving, notes, starting
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import Action, ActionKind, EngineFacts, Health, State
from ovirt_he_ha.core.situation import Situation

Step = Tuple[State, bool]


def engine_starting(sit: Situation, d: Draft) -> Step:
    if not sit.vm_here:
        return starting.not_up_yet(sit, d)
    return _here(sit, d)


def engine_up(sit: Situation, d: Draft) -> Step:
    """EngineUp and EngineUpBadHealth: they differ in what is published."""
    if not sit.vm_here:
        return leaving.depart(sit, d), True
    return _here(sit, d)


def _here(sit: Situation, d: Draft) -> Step:
    """One look at the running copy. Only the health moves between the three states; the VM leaves them by a stop or
    by itself."""
    assert sit.facts is not None
    _account(sit, d, sit.facts)
    state = _by_health(d.state, sit.facts.status.health)
    d.enter(state)
    _say(sit, d, sit.facts)
    if moving.under_way(sit, d) or _is_off_limits(sit, d, sit.facts):
        return state, False
    stop = _leave(sit, d, state) or _hung(sit, d, sit.facts) or _never_healthy(sit, d, sit.facts)
    if stop is not None and _begin_stop(sit, d, *stop):
        return State.ENGINE_STOP, False
    return state, False


def _account(sit: Situation, d: Draft, facts: EngineFacts) -> None:
    d.put_note(notes.SEEN_HERE, sit.seen_at())
    d.drop_notes(
        notes.RESTART_AT,
        notes.CRASH_BACKOFF,
        notes.LOST_RACE,
        notes.STARTED,
        notes.EXIT_KNOWN,
        notes.AWAY,
        notes.POWERED_OFF,
    )
    d.keep(own_start_at=None, hold_down_until=None, stop_asked_at=None, stop_purpose="", stop_limit=0.0)
    health = facts.status.health
    if health is Health.BAD:
        d.spend(healthy_since=None)
    if health is not Health.GOOD:
        return
    since = sit.now if d.carried.budgets.healthy_since is None else d.carried.budgets.healthy_since
    d.spend(healthy_since=since, start_failures=0, next_start_at=0.0)
    d.keep(start_problem="", start_detail="")
    if sit.now - since >= sit.timers.healthy_reset:
        d.spend(crashes=(), backoff_step=0)
        d.drop_notes(notes.GUEST_OFF)


def _by_health(state: State, health: Health) -> State:
    if health is Health.GOOD:
        return State.ENGINE_UP
    if health is Health.BAD and state is State.ENGINE_UP:
        return State.ENGINE_UP_BAD_HEALTH
    return state


def _say(sit: Situation, d: Draft, facts: EngineFacts) -> None:
    d.phase = {State.ENGINE_UP: "up", State.ENGINE_UP_BAD_HEALTH: "bad-health"}.get(d.state, "starting")
    if facts.status.health is Health.UNKNOWN:
        d.because("health-unknown")
    elif d.state is State.ENGINE_UP:
        d.because("up")
    elif d.state is State.ENGINE_STARTING:
        d.because("starting")
    else:
        d.because("bad-health", seconds=f"{facts.bad_for or 0:.0f}")
    for peer in liveness.engine_elsewhere(sit.view):
        name = peer.record.hostname if peer.record is not None else "?"
        d.because("up-elsewhere-too", host=peer.host_id, hostname=name)


def _is_off_limits(sit: Situation, d: Draft, facts: EngineFacts) -> bool:
    """Paused or being killed: the fence rules alone decide."""
    return d.fence is not None or bool(sit.snapshot.fencing) or guards.paused_for(facts) is not None


# --- why it is stopped --------------------------------------------------------------------------------------------

_Stop = Optional[Tuple[str, float]]


def _leave(sit: Situation, d: Draft, state: State) -> _Stop:
    why = moving.purpose(sit, d, settled=state is not State.ENGINE_STARTING)
    if why:
        return moving.move(sit, d, why)
    moving.stay(d)
    return None


def _hung(sit: Situation, d: Draft, facts: EngineFacts) -> _Stop:
    """Bad health for a minute with a second signal, or for five on the page alone; never a copy younger than five
    minutes."""
    t = sit.timers
    if facts.status.health is not Health.BAD or facts.bad_for is None or facts.uptime is None or facts.outgoing:
        return None
    signal = _second_signal(facts, t.hung_health)
    if not signal:
        d.ahead("hung-signal", sit.now + max(t.hung_health - facts.bad_for, t.hung_min_uptime - facts.uptime))
    if not signal and (d.state is State.ENGINE_STARTING or _page_in_doubt(sit, d)):
        return None
    limit = t.hung_health if signal else t.hung_alone
    due_in = max(limit - facts.bad_for, t.hung_min_uptime - facts.uptime)
    if due_in > 0:
        d.ahead("hung", sit.now + due_in)
        return None
    restarts = moving.recent(sit, d.carried.budgets.hung_restarts)
    if len(restarts) >= t.hung_per_hour:
        d.problem("hung-budget", signal=signal or "health page", count=len(restarts))
        if restarts:
            d.ahead("hung-budget", restarts[0] + 3600.0)
        return None
    d.because("hung", signal=signal or "health page")
    return "hung", t.acpi_stop


def _second_signal(facts: EngineFacts, hung_health: float) -> str:
    """Something besides the health page that says so. Half of the health's patience: the counters may start a window
    later."""
    if facts.stalled_for is not None and facts.stalled_for >= hung_health / 2:
        return "no progress"
    return "guest agent" if facts.guest_agent is False else ""


def _page_in_doubt(sit: Situation, d: Draft) -> bool:
    """This host itself may be what cannot reach the page."""
    doubt = moving.network_lost(sit) or sit.snapshot.monitors.bridge.value is False
    if doubt:
        d.because("hung-doubt")
    return doubt


def _never_healthy(sit: Situation, d: Draft, facts: EngineFacts) -> _Stop:
    """Only known bad health counts: a health that cannot be read is no reason to stop."""
    if d.state is not State.ENGINE_STARTING or facts.status.health is not Health.BAD or facts.outgoing:
        return None
    limit = d.carried.entered_at + sit.timers.starting_limit
    d.ahead("starting-limit", limit)
    if sit.now < limit:
        return None
    d.because("never-healthy", seconds=f"{sit.timers.starting_limit:g}")
    return "never-healthy", sit.timers.stop_limit_vm


def _begin_stop(sit: Situation, d: Draft, purpose: str, limit: float) -> bool:
    """Ask the guest. False when actions are forbidden now; then nothing is counted."""
    if not d.act(Action(ActionKind.STOP, deadline=limit)):
        return False
    d.keep(stop_asked_at=sit.now, stop_purpose=purpose, stop_limit=limit)
    if purpose == "hung":
        d.spend(hung_restarts=(*moving.recent(sit, d.carried.budgets.hung_restarts), sit.now))
    elif purpose == moving.HAND_OVER and d.carried.migration_tries == 0:
        moving.count_move(sit, d, purpose)
    d.because("stopping", why=purpose)
    d.ahead("power-off", sit.now + limit)
    d.phase = "stopping"
    return True
