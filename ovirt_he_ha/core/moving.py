"""Moving the VM off this host: live migration first, a cold hand-over where nobody can take it live."""

from typing import Optional, Tuple

from ovirt_he_ha.core import liveness, notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.fitness import running_score
from ovirt_he_ha.core.liveness import Peer
from ovirt_he_ha.core.model import (
    PREPARING,
    PREPARING_FAILED,
    Action,
    ActionKind,
    ActionReport,
    HostLease,
    Outcome,
    Record,
)
from ovirt_he_ha.core.situation import Situation, is_fresh, lease_text

# Why it moves.
MAINTENANCE = "maintenance"
SHUTDOWN = "host-shutdown"
NETWORK = "network"
BETTER_PEER = "better-peer"

# Purposes of a stop that makes sense only while another host can start the VM.
HAND_OVER = "hand-over"
COLD = (HAND_OVER, MAINTENANCE)

_HOUR = 3600.0


# --- why ------------------------------------------------------------------------------------------------------------


def purpose(sit: Situation, d: Draft, settled: bool) -> str:
    """Why the VM should leave this host now; empty when it should not. ``settled``: it has been healthy here."""
    if sit.in_local_maintenance:
        d.maintenance_state = PREPARING
        d.keep(better_peer_since=None)
        return MAINTENANCE if sit.snapshot.host.leave_by is None else SHUTDOWN
    gap = _better_by(sit) if settled and sit.slots_fresh and not sit.hands_off else None
    if gap is None:
        d.keep(better_peer_since=None)
        return ""
    return _better_peer(sit, d, *gap)


def _better_by(sit: Situation) -> Optional[Tuple[Peer, int]]:
    """The best peer that could take the VM, and its lead, if that is large enough to be worth a move."""
    best = cold_target(sit)
    if best is None:
        return None
    gap = best.score - running_score(sit)
    return (best, gap) if gap >= sit.timers.better_gap else None


def _better_peer(sit: Situation, d: Draft, best: Peer, gap: int) -> str:
    since = sit.now if d.carried.better_peer_since is None else d.carried.better_peer_since
    d.keep(better_peer_since=since)
    d.because("better-peer", host=best.host_id, hostname=best.record.hostname if best.record else "?", gap=gap)
    lost = network_lost(sit)
    if lost and is_loss_shared(sit):
        lost = False
        if gap - sit.snapshot.host.score.network_penalty < sit.timers.better_gap:
            d.keep(better_peer_since=None)
            d.because("network-lost-by-most")
            return ""
    why, wait = (NETWORK, sit.timers.network_round) if lost else (BETTER_PEER, sit.timers.better_for)
    if sit.now < since + wait:
        d.ahead("better-peer", since + wait)
        return ""
    moves = recent(sit, d.carried.budgets.moves)
    if len(moves) >= sit.timers.moves_per_hour and d.carried.migration_tries == 0:
        d.because("moves-exhausted", count=len(moves))
        if moves:
            d.ahead("move-budget", moves[0] + _HOUR)
        return ""
    return why


def network_lost(sit: Situation) -> bool:
    """Every probe failed: who uses the VM cannot reach it here, so the patience of a mere better score is out of
    place. One more round of probes confirms it, and makes sure that the peer's slot is younger than the loss."""
    reading = sit.snapshot.monitors.network
    return is_fresh(reading, sit.timers) and reading.value == 0.0


def is_loss_shared(sit: Situation) -> bool:
    """Most live peers publish that their probes fail, too: then it is the target, or what all of them need, and one
    host that still has an answer is no better place. (A host of oVirt's own does not say what cost it points.)"""
    records = [peer.record for peer in sit.view.peers.values() if peer.alive and peer.record is not None]
    lost = [record for record in records if record.extra_ok and record.get("score.network").endswith(" 0")]
    return 2 * len(lost) > len(records)


def recent(sit: Situation, moments: Tuple[float, ...]) -> Tuple[float, ...]:
    return tuple(sorted(at for at in moments if at > sit.now - _HOUR))


# --- where to -----------------------------------------------------------------------------------------------------


def cold_target(sit: Situation) -> Optional[Peer]:
    """The best host that could start the VM if we stopped it: eligible, in the lockspace, with the same lease."""
    return liveness.best_peer(sit.view, lambda peer: _could_start(sit, peer))


def is_cold_move_wanted(sit: Situation, why: str) -> bool:
    """The guest was asked to shut down for this reason: does it still hold, now that it would have to be powered
    off?"""
    if why == MAINTENANCE and not sit.in_local_maintenance:
        return False
    if why == SHUTDOWN:
        return sit.snapshot.host.leave_by is not None
    return why not in COLD or cold_target(sit) is not None


def live_target(sit: Situation, at_least: int = 0) -> Optional[Peer]:
    """The best host that could take the running VM."""
    return liveness.best_peer(sit.view, lambda peer: peer.score >= at_least and _could_receive(sit, peer))


def _could_start(sit: Situation, peer: Peer) -> bool:
    # Two of its publishes missed: it may have died since, and sanlock says so after minutes only. The VM would be
    # stopped for nobody.
    if peer.silent_for > sit.timers.facts_stale:
        return False
    if sit.flags.get(peer.host_id) is not HostLease.LIVE or peer.record is None:
        return False
    theirs = peer.record.get("lease") if peer.record.extra_ok else ""
    return theirs in ("", lease_text(sit.snapshot.host.lease))


def _could_receive(sit: Situation, peer: Peer) -> bool:
    record = peer.record
    if record is None or not record.extra_ok or not _could_start(sit, peer):
        return False
    same_cpu = record.get("cpu") == sit.snapshot.host.cpu_model != ""
    able = record.get("mig") == "1" and record.get("mig.uri") != ""
    return able and same_cpu and _memory_fits(sit, record)


def _memory_fits(sit: Situation, record: Record) -> bool:
    free = record.get("mem")
    if not free.isascii() or not free.isdigit():
        return True
    return int(free[:12]) >= sit.snapshot.host.memory_needed


# --- how ----------------------------------------------------------------------------------------------------------


def move(sit: Situation, d: Draft, why: str) -> Optional[Tuple[str, float]]:
    """One step of a move: order a migration, wait, or say why not. Returns (stop purpose, limit) when the VM has to
    be handed over cold, else None."""
    tries = d.carried.migration_tries
    limit = 1 if why in (NETWORK, SHUTDOWN) else sit.timers.migration_tries
    if _in_the_way(sit, d):
        return None
    if tries >= limit:
        d.problem("migration-error", tries=tries, detail=d.carried.migration_error)
        if why in (NETWORK, SHUTDOWN):
            return _cold(sit, d, why)
        _failed(d)
        return None
    if tries and sit.now < d.carried.next_migration_at:
        d.because("migration-failed", tries=tries, detail=d.carried.migration_error)
        d.ahead("migration-retry", d.carried.next_migration_at)
        return None
    at_least = 0 if _is_leaving(why) else running_score(sit) + sit.timers.better_gap
    target = live_target(sit, at_least)
    if target is None or target.record is None or _time_to_move(sit) <= 0:
        return _cold(sit, d, why)
    _order(sit, d, why, target.host_id, target.record.get("mig.uri"))
    return None


def _is_leaving(why: str) -> bool:
    """Somebody wants the host without the VM, however good it is."""
    return why in (MAINTENANCE, SHUTDOWN)


def _time_to_move(sit: Situation) -> float:
    """Seconds that a migration may take: less than usual where this host goes down and must end what did not move."""
    usual = sit.timers.migration_deadline(sit.snapshot.host.memory_needed)
    leave_by = sit.snapshot.host.leave_by
    if leave_by is None:
        return usual
    return min(usual, leave_by - sit.now - sit.timers.host_shutdown_stop - sit.timers.power_off_deadline)


def _in_the_way(sit: Situation, d: Draft) -> bool:
    moved = d.note(notes.MOVED)
    if moved is not None and sit.now < moved + sit.timers.destination_ack:
        d.because("migrated-away")
        return True
    if sit.facts is not None and sit.facts.outgoing:
        d.because("migration-foreign")
        return True
    return False


def _order(sit: Situation, d: Draft, why: str, target_id: int, address: str) -> None:
    deadline = _time_to_move(sit)
    action = Action(ActionKind.MIGRATE, target_id, address, deadline)
    if not d.act(action):
        return
    if d.carried.migration_tries == 0:
        count_move(sit, d, why)
    d.keep(migration=action)
    d.because("migrating", host=target_id)
    d.ahead("migration-deadline", sit.now + deadline)
    d.phase = "migrating"


def count_move(sit: Situation, d: Draft, why: str) -> None:
    """Only moves for a better score are counted: maintenance is somebody's will."""
    if not _is_leaving(why):
        d.spend(moves=(*recent(sit, d.carried.budgets.moves), sit.now))


def _cold(sit: Situation, d: Draft, why: str) -> Optional[Tuple[str, float]]:
    if why == SHUTDOWN:  # it ends with this host anyway; a guest that is asked first ends whole
        return why, _time_to_stop(sit)
    if cold_target(sit) is None or not sit.slots_fresh:
        d.problem("no-target")
        _failed(d)
        return None
    return (MAINTENANCE if why == MAINTENANCE else HAND_OVER), sit.timers.acpi_stop


def _time_to_stop(sit: Situation) -> float:
    left = (sit.snapshot.host.leave_by or sit.now) - sit.now - sit.timers.power_off_deadline
    return max(sit.timers.acpi_stop, min(sit.timers.host_shutdown_stop, left))


def _failed(d: Draft) -> None:
    if d.maintenance_state:
        d.maintenance_state = PREPARING_FAILED


# --- under way ----------------------------------------------------------------------------------------------------


def under_way(sit: Situation, d: Draft) -> bool:
    """Our migration runs: say so. One whose report is lost was never taken, or its agent is gone: forget it."""
    action = d.carried.migration
    if action is None:
        return False
    if not sit.is_running(ActionKind.MIGRATE):
        d.keep(migration=None)
        return False
    d.because("migrating", host=action.target_id)
    d.phase = "migrating"
    if sit.in_local_maintenance:
        d.maintenance_state = PREPARING
    return True


def oversee(sit: Situation, d: Draft) -> None:
    """Abort a migration past its deadline, in whatever state this host is; in global maintenance it is left alone
    (its own worker still ends it)."""
    if sit.running is None or not sit.is_running(ActionKind.MIGRATE):
        return
    limit = sit.running.started_at + sit.running.action.deadline
    d.ahead("migration-deadline", limit)
    if sit.now >= limit and not sit.hands_off:
        d.abort_migration = True
        d.because("migration-overdue")


def settle(sit: Situation, d: Draft, report: ActionReport) -> None:
    """A migration that finished: gone, or one more failed try."""
    if d.carried.migration is None:
        return
    d.keep(migration=None)
    if report.outcome is Outcome.OK:
        d.put_note(notes.MOVED, sit.now)
        d.keep(migration_tries=0, migration_error="")
        return
    tries = d.carried.migration_tries + 1
    outcome = report.outcome.value if report.outcome is not None else "?"
    d.keep(
        migration_tries=tries,
        migration_error=report.detail or outcome,
        next_migration_at=sit.now + sit.timers.migration_wait(tries),
    )


def stay(d: Draft) -> None:
    """No reason to move (any more): failed tries are forgotten."""
    if d.carried.migration_tries or d.carried.migration_error:
        d.keep(migration_tries=0, migration_error="", next_migration_at=0.0)
