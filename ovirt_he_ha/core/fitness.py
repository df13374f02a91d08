"""This host's score in a given state: the formula, and what sets it to 0 whatever the formula says."""

from ovirt_he_ha.core.model import Carried, LockspaceState, ScoreCard, State
from ovirt_he_ha.core.score import score_card
from ovirt_he_ha.core.situation import Situation

# In these states the VM has its memory already, or nothing is compared.
_WITHOUT_MEMORY = (State.ENGINE_UP, State.ENGINE_UP_BAD_HEALTH, State.GLOBAL_MAINTENANCE)

_ZERO_IN_STATE = {
    State.START: "reinitializing",
    State.REINITIALIZE: "reinitializing",
    State.ENGINE_UNEXPECTEDLY_DOWN: "handed-over",
    State.LOCAL_MAINTENANCE: "local-maintenance",
    State.AGENT_STOPPED: "agent-stopped",
}

_NOT_OURS = (LockspaceState.MISMATCH.value, LockspaceState.ID_TAKEN.value)


def own_card(sit: Situation, carried: Carried, state: State) -> ScoreCard:
    """What this host publishes in ``state``."""
    return _card(sit, state not in _WITHOUT_MEMORY, carried.budgets.start_failures, zero_reason(sit, carried, state))


def running_score(sit: Situation) -> int:
    """The bare formula for the host that runs the VM: what a better peer is compared with.

    What only forbids a *start* here (failed starts, a hand-over, a newer format, maintenance) is no ground to move a
    VM that runs.
    """
    return _card(sit, False, 0, "").score


def zero_reason(sit: Situation, carried: Carried, state: State) -> str:
    """Why the score is 0 in ``state``, as a code; empty when the formula counts."""
    if state in _ZERO_IN_STATE:
        return _ZERO_IN_STATE[state]
    if carried.budgets.handed_over_until > sit.now:
        return "handed-over"
    if sit.in_local_maintenance and not sit.vm_here:
        return "local-maintenance"
    if not sit.snapshot.host.local_maintenance.known:
        return "local-maintenance-unknown"
    if sit.view.too_new:
        return "too-new"
    return _unable(sit)


def _unable(sit: Situation) -> str:
    """A host that could not start the VM must not look like a place to hand it to. The one that runs it keeps its
    score, unless its very id is in doubt."""
    leases = sit.snapshot.leases
    states = (sit.lockspace_state(leases.lockspace), sit.lockspace_state(leases.whiteboard))
    if any(state in _NOT_OURS for state in states):
        return "lockspace"
    if sit.vm_here:
        return ""
    if any(state not in (LockspaceState.HELD.value, LockspaceState.UNKNOWN.value) for state in states):
        return "lockspace"
    if sit.snapshot.host.definition_problem:
        return "definition"
    if sit.snapshot.host.lease is None:
        return "lease-unset"
    if sit.snapshot.leases.reset_within is not None:
        return "reset-pending"
    return "unfenced" if is_unfenced(sit) else ""


def is_unfenced(sit: Situation) -> bool:
    """No watchdog is known to be armed, and this host's configuration does not accept that."""
    return sit.snapshot.leases.watchdog_armed is not True and not sit.snapshot.host.allow_unfenced


def _card(sit: Situation, counts_memory: bool, retries: int, zero: str) -> ScoreCard:
    host = sit.snapshot.host
    return score_card(
        host.score,
        sit.snapshot.monitors,
        sit.loads,
        sit.now,
        host.memory_needed,
        counts_memory,
        retries,
        zero_reason=zero,
    )
