"""From a finished draft to the decision: the slot this host writes, and when it looks again.

Rules that other implementations depend on: a VM that is not unknown or down has a health of `good` or `bad`, never
`unknown` (an upstream peer dies of it); the maintenance flag is set only once the VM has left.
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import List, Optional, Tuple

from ovirt_he_ha.core import findings, moving, notes, protection, reasons, safeguards
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.fitness import own_card
from ovirt_he_ha.core.model import (
    PREPARED,
    PREPARING,
    Decision,
    Empty,
    EngineStatus,
    Health,
    LockspaceState,
    Protection,
    Record,
    ScoreCard,
    State,
    Vm,
)
from ovirt_he_ha.core.situation import Situation, lease_text, peer_lease_conflicts
from ovirt_he_ha.core.timers import announced_bounds

UNKNOWN = EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "unknown")

# A countdown that is due now would spin the loop.
_SHORTEST_WAIT = 0.5

_HOUR, _MINUTE = 3600.0, 60.0

_DOUBTFUL_ID = (LockspaceState.MISMATCH.value, LockspaceState.ID_TAKEN.value)

_TIMEOUTS = ("power-off", "starting-limit", "hand-over-end", "hung")


def finish(sit: Situation, d: Draft) -> Decision:
    _say_global(sit, d)
    _say_host(sit, d)
    card = own_card(sit, d.carried, d.state)
    doubt = id_doubt(sit)
    if doubt:
        d.problem("no-publish", state=doubt)
    d.countdowns.sort(key=lambda c: c.at)
    record = _record(sit, d, card)
    meter = _meter(sit, record)
    return Decision(
        state=d.state,
        action=d.action,
        score=card,
        record=None if doubt else _with(record, findings.published(meter.level, meter.findings)),
        alive=sit.view.alive,
        reasons=tuple(d.reasons),
        countdowns=tuple(d.countdowns),
        carried=d.carried,
        wake_at=_wake_at(sit, d),
        fence=d.fence,
        abort_migration=d.abort_migration,
        protection=meter,
    )


def id_doubt(sit: Situation) -> str:
    """Why this host id is not proven ours (then nothing is written); empty when it is."""
    leases = sit.snapshot.leases
    whiteboard = sit.lockspace_state(leases.whiteboard)
    if whiteboard != LockspaceState.HELD.value:
        return f"hosted-engine {whiteboard}"
    storage = sit.lockspace_state(leases.lockspace)
    return f"storage {storage}" if storage in _DOUBTFUL_ID else ""


def engine_status(sit: Situation, d: Draft) -> Optional[EngineStatus]:
    """What peers read of the VM here."""
    if sit.facts is None:
        return None if sit.snapshot.monitors.engine.unknown == "not-yet" else UNKNOWN
    status = sit.facts.status
    if status.vm is Vm.UP:
        health = Health.GOOD if status.health is Health.GOOD else Health.BAD
        detail = "Migration Source" if sit.facts.outgoing else status.detail
        return EngineStatus(Vm.UP, health, detail, status.reason)
    if d.state is State.ENGINE_MAYBE_AWAY and d.note(notes.AWAY) is not None:
        return EngineStatus(Vm.UP, Health.BAD, "Migration Source", "migrated, waiting for the destination")
    held = d.carried.hold_down_until
    if held is not None and sit.now < held and not sit.hands_off:
        return EngineStatus(Vm.UP, Health.BAD, "Up", "restarting")
    return EngineStatus(status.vm, Health.BAD, status.detail, status.reason)


# --- the free text ------------------------------------------------------------------------------------------------


def _record(sit: Situation, d: Draft, card: ScoreCard) -> Record:
    host = sit.snapshot.host
    return Record(
        host_id=host.host_id,
        timestamp=max(1, int(sit.now)),
        score=card.score,
        engine=engine_status(sit, d),
        hostname=host.hostname,
        maintenance=d.state is State.LOCAL_MAINTENANCE,
        stopped=d.state is State.AGENT_STOPPED,
        conf_on_shared_storage=True,
        local_conf_timestamp=max(0, host.conf_timestamp),
        extra=tuple(_extra(sit, d, card)),
        extra_ok=True,
    )


def _extra(sit: Situation, d: Draft, card: ScoreCard) -> List[Tuple[str, str]]:
    """In the order of importance: what does not fit is cut from the end, ``why.`` first."""
    host = sit.snapshot.host
    lines = [("state", d.state.value), *_timeout(sit, d), *_since(sit, d)]
    lines += [("phase", d.phase), ("problem", ",".join(d.problems))]
    lines += _maintenance(sit, d)
    lines += _guard(sit)
    lines += _migration(sit, d)
    lines += [("cpu", host.cpu_model), ("mem", _memory(sit)), ("lease", lease_text(host.lease))]
    generation = sit.snapshot.leases.own_generation
    lines += [("gen", "" if generation is None else str(generation)), ("version", host.version)]
    lines += safeguards.lines(sit)
    lines += _bounds(sit, d)
    lines += [(f"score.{penalty.code}", f"-{penalty.points} {penalty.value}") for penalty in card.penalties]
    lines += [("score.zero", card.zero_reason)]
    lines += reasons.published(d.reasons, d.countdowns, sit.now)
    keys, texts = zip(*lines)
    return [pair for pair in zip(keys, map(_line, texts)) if pair[1]]


# What keeps a host from being in maintenance, the most telling first.
_IN_THE_WAY = (
    "fence-stuck", "fencing", "migration-error", "no-target", "global-maintenance", "global-maintenance-unknown",
    "migration-overdue", "migrating", "migration-failed", "migration-foreign", "power-off", "stopping",
    "migrated-away", "engine-unknown", "paused-tolerated", "start-running",
)  # fmt: skip
_LONGEST_WHY = 200


def _maintenance(sit: Situation, d: Draft) -> List[Tuple[str, str]]:
    """This host's maintenance, and with which words the cluster's was asked here. Every step on the way is named: a
    peer must not send the VM to a host that is leaving, whatever state that is in."""
    host = sit.snapshot.host
    lines = []
    state = _maintenance_state(sit, d)
    if state:
        why = _obstacle(d) if state != PREPARED else ""
        lines += [("maintenance_state", state), ("maintenance_why", why)]
        lines += [("maintenance_reason", host.maintenance_reason[:_LONGEST_WHY])]
    else:
        lines += [("maintenance_ended", host.end_reason[:_LONGEST_WHY])]
    if host.global_since:
        lines += [("global_since", str(host.global_since)), ("global_reason", host.global_reason[:_LONGEST_WHY])]
    return lines


def _maintenance_state(sit: Situation, d: Draft) -> str:
    if d.maintenance_state or not sit.in_local_maintenance or d.state is State.AGENT_STOPPED:
        return d.maintenance_state
    rests = d.state is State.GLOBAL_MAINTENANCE and sit.facts is not None and not sit.vm_here
    return PREPARED if rests else PREPARING


def _obstacle(d: Draft) -> str:
    by_code = {why.code: why for why in reversed(d.reasons)}
    found = next((by_code[code] for code in _IN_THE_WAY if code in by_code), None)
    return "" if found is None else reasons.describe(found)[:_LONGEST_WHY]


def _timeout(sit: Situation, d: Draft) -> List[Tuple[str, str]]:
    """The moment that ends the present state, in monotonic seconds; the encoder writes it as a date."""
    at = next((c.at for c in d.countdowns if c.event in _TIMEOUTS), None)
    return [] if at is None else [("timeout", f"{at:.0f}")]


def _since(sit: Situation, d: Draft) -> List[Tuple[str, str]]:
    """Since when this host is in its state, and the copy here runs: monotonic seconds, like the slot's timestamp."""
    uptime = sit.facts.uptime if sit.facts is not None and sit.vm_here else None
    began = "" if uptime is None else f"{max(0.0, sit.seen_at() - uptime):.0f}"
    return [("since", f"{d.carried.entered_at:.0f}"), ("up.since", began)]


def _guard(sit: Situation) -> List[Tuple[str, str]]:
    """The guard over the copy here: its state, why, and the seconds until the kill."""
    guard, fencing = sit.snapshot.guard, sit.snapshot.fencing
    left = "" if guard.kill_at is None else f"{max(0.0, guard.kill_at - sit.now):.0f}"
    why = "" if guard.reason is None else guard.reason.code
    return [("fence.state", fencing or guard.state), ("fence.why", why), ("fence.in", left)]


def _migration(sit: Situation, d: Draft) -> List[Tuple[str, str]]:
    """Only a host that could take the VM now says so."""
    host = sit.snapshot.host
    ready = host.can_migrate and host.migration_address and not sit.missing_lockspaces
    return [("mig", "1"), ("mig.uri", host.migration_address)] if ready else []


def _memory(sit: Situation) -> str:
    free = sit.snapshot.monitors.mem_free.value
    return "" if free is None else str(max(0, free))


def _bounds(sit: Situation, d: Draft) -> Tuple[Tuple[str, str], ...]:
    """Longer by the wait where this host has used up a budget: what is announced is what is held."""
    budgets, timers = d.carried.budgets, sit.timers
    return _bound_lines(
        sit.snapshot.leases.io_timeout,
        sit.snapshot.leases.watchdog,
        _until_allowed(sit, budgets.hung_restarts, timers.hung_per_hour),
        _until_allowed(sit, budgets.moves, timers.moves_per_hour),
    )


def _until_allowed(sit: Situation, spent: Tuple[float, ...], per_hour: int) -> float:
    """Seconds until one more is allowed, in whole minutes: the slot need not change for less. Infinite: never."""
    if per_hour == 0:
        return math.inf
    recent = moving.recent(sit, spent)
    if len(recent) < per_hour:
        return 0.0
    return math.ceil((recent[-per_hour] + _HOUR - sit.now) / _MINUTE) * _MINUTE


@lru_cache(maxsize=4)  # the timeouts are the cluster's
def _bound_lines(io_timeout: int, watchdog: int, hung: float, moved: float) -> Tuple[Tuple[str, str], ...]:
    waits = {"hung-engine": hung, "hung-engine-alone": hung, "network-loss": moved}
    bounds = ((fault, s + waits.get(fault, 0.0)) for fault, s in sorted(announced_bounds(io_timeout, watchdog).items()))
    return tuple((f"bound.{fault}", f"{seconds:.0f}") for fault, seconds in bounds if seconds < math.inf)


# --- the protection meter -------------------------------------------------------------------------------------------


def _meter(sit: Situation, own: Record) -> Protection:
    """From what this host is about to publish of itself, and what its peers did."""
    snapshot = sit.snapshot
    peers = [
        protection.host(
            peer.host_id, peer.slot, peer.alive, peer.silent_for > sit.timers.facts_stale, sit.flags.get(peer.host_id)
        )
        for peer in sit.view.peers.values()
        if not isinstance(peer.slot, Empty)
    ]
    mine = protection.host(sit.own_id, own, True, lease=sit.flags.get(sit.own_id))
    return protection.assess(
        protection.Cluster(
            own_id=sit.own_id,
            hosts=tuple(sorted([mine, *peers], key=lambda one: one.host_id)),
            global_maintenance=snapshot.global_maintenance,
            flags_known=bool(sit.flags),
            slots_age=snapshot.slots_age,
        )
    )


def _with(record: Record, lines: Tuple[Tuple[str, str], ...]) -> Record:
    """Before the reasons, which go first where the text is too long."""
    extra = record.extra
    told = len(extra)
    while told and extra[told - 1][0].startswith(reasons.WHY):
        told -= 1
    return replace(record, extra=(*extra[:told], *[pair for pair in lines if pair[1]], *extra[told:]))


def _line(text: str) -> str:
    """One line of printable ASCII: one other byte in a slot ends an upstream broker."""
    if text.isascii() and text.isprintable():
        return text.strip()
    return "".join(c if " " <= c <= "~" else "?" for c in text).strip()


# --- what else the operator should know ---------------------------------------------------------------------------


def _say_global(sit: Situation, d: Draft) -> None:
    flag = sit.snapshot.global_maintenance
    if not flag.known:
        d.problem("global-maintenance-unknown", why=flag.unknown)


def _say_host(sit: Situation, d: Draft) -> None:
    host = sit.snapshot.host
    if not host.local_maintenance.known:
        d.problem("local-maintenance-unknown", why=host.local_maintenance.unknown)
    if host.leave_by is not None:
        d.because("host-shutdown")
        d.ahead("host-shutdown", host.leave_by)
    if sit.view.too_new:
        d.problem("too-new", hosts=",".join(str(host_id) for host_id in sit.view.too_new[:20]))
    for name, state in sit.missing_lockspaces:
        d.problem("lockspace", name=name, state=state)
    if sit.snapshot.leases.joining_for is not None:
        d.ahead("join", _joined_at(sit, sit.snapshot.leases.joining_for))
    for peer in peer_lease_conflicts(sit):
        theirs = peer.record.get("lease") if peer.record is not None else ""
        d.problem("lease-mismatch", host=peer.host_id, theirs=theirs, ours=lease_text(host.lease))
    if host.definition_problem:
        d.problem("definition", problem=host.definition_problem)
    _say_storage(sit, d)


def _joined_at(sit: Situation, joining_for: float) -> float:
    """A join takes 2 io_timeouts and a second; 14 where the id was another host's, who is watched for so long."""
    began, io_timeout = sit.now - joining_for, sit.snapshot.leases.io_timeout
    usual = began + 2.0 * io_timeout + 1.0
    return usual if usual > sit.now else began + 14.0 * io_timeout


def _say_storage(sit: Situation, d: Draft) -> None:
    if sit.snapshot.leases.reset_within is not None:
        d.problem("reset-pending")
        d.ahead("reset-pending", sit.now + sit.snapshot.leases.reset_within)
    if sit.snapshot.storage_problem:
        d.problem("storage", problem=sit.snapshot.storage_problem)
    if sit.snapshot.overwritten:
        d.problem("overwritten")
    _say_files(sit, d)
    if sit.snapshot.publish_failed_for is not None:
        d.problem("publish-failed", seconds=f"{sit.snapshot.publish_failed_for:.0f}")


def _say_files(sit: Situation, d: Draft) -> None:
    """What cannot be written to this host's own disk."""
    if sit.snapshot.state_problem:
        d.problem("state-file", problem=sit.snapshot.state_problem)
    if sit.snapshot.ledger_problem:
        d.problem("ledger", problem=sit.snapshot.ledger_problem)


def _wake_at(sit: Situation, d: Draft) -> float:
    moments = [c.at for c in d.countdowns]
    held = d.carried.hold_down_until
    if held is not None and held > sit.now:
        moments.append(held)  # or `up` would stay published for a cycle more than it may
    first = min(moments, default=sit.now + sit.timers.cycle)
    return max(sit.now + _SHORTEST_WAIT, min(sit.now + sit.timers.cycle, first))
