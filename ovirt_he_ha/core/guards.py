"""What comes before every state: the kill of a paused copy, maintenance, and a VM whose state is unknown."""

from typing import Optional, Tuple

from ovirt_he_ha.core import leaving, notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import PREPARED, ActionKind, EngineFacts, Fence, State
from ovirt_he_ha.core.situation import Situation

Step = Tuple[State, bool]

# --- fencing: not an action, so also in global maintenance --------------------------------------------------------

# A migration does not pause the VM for these: the lease is gone, and the copy may be needed elsewhere at once.
_NOT_FOR_A_MOVE = ("ioerror", "watchdog", "crashed")


def paused_for(facts: EngineFacts) -> Optional[float]:
    """Seconds that the VM here has been paused; None when it is not."""
    if facts.paused_for is None and facts.status.detail != "Paused":
        return None
    return facts.paused_for or 0.0


def fence(sit: Situation, d: Draft) -> None:
    """A paused copy holds no lease, another host may run the VM from the first second: it must die within 5 s and
    never run again."""
    _say_kill(sit, d)
    if sit.facts is None or not sit.vm_here:
        return
    paused = paused_for(sit.facts)
    if paused is None:
        return
    tolerated = _tolerated(sit, d, sit.facts)
    why = sit.facts.pause_reason or "unknown"
    if paused <= tolerated:
        d.because("paused-tolerated", why=why)
        d.ahead("fence", sit.now + tolerated - paused)
        return
    d.fence = Fence(f"paused: {why}", max(0.5, sit.timers.paused_kill - paused))
    d.because("fencing", why=d.fence.reason)
    d.phase = "fencing"


def _tolerated(sit: Situation, d: Draft, facts: EngineFacts) -> float:
    """Seconds that this pause may last. 0 would still tolerate a pause of 0 s, so "not at all" is below that."""
    if facts.incoming or facts.pause_reason == "starting-up":
        return float("inf")  # qemu waits for its lease or for the memory: no CPU has run yet
    if _is_being_moved(sit, d) and facts.pause_reason not in _NOT_FOR_A_MOVE:
        return sit.timers.own_migration_pause
    return sit.timers.paused_kill if facts.outgoing or facts.pause_reason == "migration" else -1.0


def _is_being_moved(sit: Situation, d: Draft) -> bool:
    """By us, at this moment: a migration that came to its end long ago excuses nothing."""
    moved = d.note(notes.MOVED)
    return sit.is_running(ActionKind.MIGRATE) or (
        moved is not None and sit.now <= moved + sit.timers.own_migration_pause
    )


def _say_kill(sit: Situation, d: Draft) -> None:
    if sit.snapshot.fencing == "stuck":
        d.problem("fence-stuck")
    elif sit.snapshot.fencing:
        d.because("fencing", why=sit.snapshot.fencing)
    _say_guard(sit, d)


def _say_guard(sit: Situation, d: Draft) -> None:
    guard = sit.snapshot.guard
    if guard.state == "blind":
        d.problem("guard-blind")
    if guard.reason is None:
        return
    d.problem(guard.reason.code, **guard.reason.values)
    if guard.kill_at is not None:
        d.ahead("guard-kill", guard.kill_at)


# --- the guards of the states -------------------------------------------------------------------------------------

_ENTRY = (State.START, State.AGENT_STOPPED)
_STOPPING = (State.ENGINE_STOP, State.ENGINE_FORCE_STOP)


def destination(sit: Situation, d: Draft) -> State:
    """The state that a guard leads to, or the present one: global maintenance, then an unknown VM, then local
    maintenance."""
    if d.state in _ENTRY:
        return d.state
    if sit.snapshot.global_maintenance.value is True:
        return State.GLOBAL_MAINTENANCE
    if d.state in (State.GLOBAL_MAINTENANCE, State.LOCAL_MAINTENANCE):
        return d.state
    if sit.facts is None:
        return State.UNKNOWN_LOCAL_VM
    return State.LOCAL_MAINTENANCE if _rests(sit, d) else d.state


def _rests(sit: Situation, d: Draft) -> bool:
    """Local maintenance counts once the VM has left: not while it is here, on its way, or being stopped by us."""
    if not sit.in_local_maintenance or sit.vm_here or d.state in _STOPPING:
        return False
    if sit.is_running(ActionKind.START) or (sit.facts is not None and sit.facts.incoming):
        return False
    return not (d.state is State.ENGINE_MAYBE_AWAY and d.note(notes.AWAY) is not None)


# --- their states -------------------------------------------------------------------------------------------------


def start(sit: Situation, d: Draft) -> Step:
    return State.REINITIALIZE, True


def reinitialize(sit: Situation, d: Draft) -> Step:
    """What runs here is taken over at once and without any action. Otherwise one cycle at score 0, when we come from
    doing nothing."""
    if sit.vm_here:
        d.because("adopted")
        return State.ENGINE_STARTING, True
    idle = (*_ENTRY, State.GLOBAL_MAINTENANCE, State.LOCAL_MAINTENANCE)
    if sit.snapshot.carried.state in idle:
        d.because("reinitializing")
        d.ahead("reinitialize", sit.now + sit.timers.cycle)
        d.phase = "reinitializing"
        return State.REINITIALIZE, False
    return State.ENGINE_DOWN, True


def global_maintenance(sit: Situation, d: Draft) -> Step:
    """Hands off. Left only when slot 0 is known to say so."""
    flag = sit.snapshot.global_maintenance
    if flag.value is False:
        return State.REINITIALIZE, True
    leaving.forget(d)
    d.phase = "global-maintenance"
    if flag.value is True:
        d.because("global-maintenance")
    return State.GLOBAL_MAINTENANCE, False


def local_maintenance(sit: Situation, d: Draft) -> Step:
    """The VM has left. A copy that turns up here all the same (started by hand) is taken over, and moved away again."""
    if sit.vm_here and not sit.hands_off:
        d.because("adopted")
        return State.ENGINE_STARTING, True
    if sit.snapshot.host.local_maintenance.value is False:
        return State.REINITIALIZE, True
    leaving.forget(d)
    d.phase = "local-maintenance"
    d.maintenance_state = PREPARED
    if sit.in_local_maintenance:
        d.because("local-maintenance")
    return State.LOCAL_MAINTENANCE, False


def unknown_local_vm(sit: Situation, d: Draft) -> Step:
    if sit.facts is not None:
        return State.REINITIALIZE, True
    d.because("engine-unknown", why=sit.engine_unknown)
    d.phase = "engine-unknown"
    return State.UNKNOWN_LOCAL_VM, False
