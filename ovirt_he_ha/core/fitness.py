"""This host's score in a given state: the formula, and what sets it to 0 whatever the formula says."""

from ovirt_he_ha.core.liveness import left_in_order
from ovirt_he_ha.core.model import Carried, HostLease, LockspaceState, ScoreCard, State, Vm
from ovirt_he_ha.core.score import score_card
from ovirt_he_ha.core.situation import Situation, is_fresh

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
    if is_unfenced(sit):
        return "unfenced"
    return "lease-held" if _yields(sit) else ""


def _yields(sit: Situation) -> bool:
    """An upstream host holds the VM's lease by its record, lives, and says itself that the VM is not there: it was
    reset, and came back before sanlock called it dead. We cannot tell that from a sanlock that was restarted beside a
    running VM, so we do not start; an upstream host starts only if nobody has a better score. Without this both would
    wait for each other for ever. (A host of ours publishes its generation, and is not waited for.)"""
    owner = sit.snapshot.leases.owner
    if owner.value is None or not is_fresh(owner, sit.timers) or left_in_order(sit.snapshot.leases):
        return False
    peer = sit.view.peers.get(owner.value.host_id)
    if peer is None or peer.record is None or not peer.alive or peer.record.extra_ok:
        return False
    engine = peer.record.engine
    gone = engine is not None and engine.vm not in (Vm.UP, Vm.UNKNOWN)
    return gone and sit.flags.get(peer.host_id) is HostLease.LIVE


def is_unfenced(sit: Situation) -> bool:
    """No watchdog is known to be armed, and this host's configuration does not accept that."""
    return sit.snapshot.leases.watchdog_armed is not True and not sit.snapshot.host.allow_unfenced


def _card(sit: Situation, counts_memory: bool, retries: int, zero: str) -> ScoreCard:
    asked = counts_memory, retries, zero
    found = sit.cards.get(asked)
    if found is None:
        host = sit.snapshot.host
        found = sit.cards[asked] = score_card(
            host.score,
            sit.snapshot.monitors,
            sit.mean_load,
            host.memory_needed,
            counts_memory,
            retries,
            zero_reason=zero,
        )
    return found
