"""One cycle's facts, read once: what the policy's rules ask of a snapshot."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Dict, Mapping, Optional, Tuple

from ovirt_he_ha.core import liveness
from ovirt_he_ha.core.liveness import Peer, Survey
from ovirt_he_ha.core.model import (
    ActionKind,
    ActionReport,
    EngineFacts,
    Exit,
    HostLease,
    LeaseId,
    LoadSample,
    LockspaceState,
    Reading,
    ScoreCard,
    Snapshot,
    Vm,
)
from ovirt_he_ha.core.score import mean_load, remember_load
from ovirt_he_ha.core.timers import Timers


@dataclass(frozen=True)
class Situation:
    """``facts`` is None while the VM's state here is unknown, and ``engine_unknown`` then says why."""

    snapshot: Snapshot
    timers: Timers
    view: Survey
    flags: Mapping[int, HostLease]
    facts: Optional[EngineFacts]
    engine_unknown: str
    loads: Tuple[LoadSample, ...]

    @property
    def now(self) -> float:
        return self.snapshot.now

    @property
    def own_id(self) -> int:
        return self.snapshot.host.host_id

    @property
    def vm_here(self) -> bool:
        """The VM is known to be here, running or paused."""
        return self.facts is not None and self.facts.status.vm is Vm.UP

    @property
    def running(self) -> Optional[ActionReport]:
        """The action that is under way."""
        report = self.snapshot.report
        return report if report is not None and report.outcome is None else None

    @property
    def finished(self) -> Optional[ActionReport]:
        """The action that finished since the last cycle."""
        report = self.snapshot.report
        return report if report is not None and report.outcome is not None else None

    def is_running(self, kind: ActionKind) -> bool:
        return self.running is not None and self.running.action.kind is kind

    @property
    def slots_fresh(self) -> bool:
        age = self.snapshot.slots_age
        return age is not None and age <= self.timers.facts_stale

    @property
    def hands_off(self) -> bool:
        """Global maintenance is set, or cannot be known: no start, no stop, no move."""
        return self.snapshot.global_maintenance.value is not False

    @property
    def in_local_maintenance(self) -> bool:
        return self.snapshot.host.local_maintenance.value is True

    def seen_at(self) -> float:
        """When the present reading of the VM was taken."""
        return self.now - (self.snapshot.monitors.engine.age or 0.0)

    @property
    def exit_at(self) -> Optional[float]:
        """When the VM last left this host, in this host's monotonic seconds; None when no end was reported."""
        if self.facts is None or self.facts.last_exit is Exit.NONE or self.facts.exit_age is None:
            return None
        return self.now - self.facts.exit_age

    def exit_since(self, moment: float) -> Exit:
        """Why the VM left at or after ``moment``; NONE when nothing was reported since then."""
        if self.facts is None or self.exit_at is None or self.exit_at < moment:
            return Exit.NONE
        return self.facts.last_exit

    @cached_property
    def cards(self) -> Dict[Tuple[bool, int, str], ScoreCard]:
        """Scores of this cycle that were worked out, by what they depend on beside it."""
        return {}

    @cached_property
    def mean_load(self) -> Optional[float]:
        """Of the samples that count now; None where no two of them follow each other."""
        return mean_load(self.loads, self.now)

    @cached_property
    def lease_conflicts(self) -> Tuple[Peer, ...]:
        ours = lease_text(self.snapshot.host.lease)
        found = [peer for peer in self.view.peers.values() if _theirs(self, peer) not in ("", ours)]
        return tuple(sorted(found, key=lambda peer: peer.host_id))

    @cached_property
    def missing_lockspaces(self) -> Tuple[Tuple[str, str], ...]:
        """The lockspaces that this host does not hold for sure, as (name, state)."""
        pairs = (("storage", self.snapshot.leases.lockspace), ("hosted-engine", self.snapshot.leases.whiteboard))
        return tuple((name, self.lockspace_state(reading)) for name, reading in pairs if not self.holds(reading))

    def holds(self, reading: Reading[LockspaceState]) -> bool:
        return self.lockspace_state(reading) == LockspaceState.HELD.value

    def lockspace_state(self, reading: Reading[LockspaceState]) -> str:
        """The state's word; ``unknown`` also for a reading that is too old to stand on."""
        state = reading.value
        return state.value if state is not None and is_fresh(reading, self.timers) else LockspaceState.UNKNOWN.value


def look(snapshot: Snapshot, timers: Timers) -> Situation:
    facts, why = _engine(snapshot.monitors.engine, timers)
    return Situation(
        snapshot=snapshot,
        timers=timers,
        view=liveness.survey(snapshot, timers),
        flags=liveness.host_flags(snapshot.leases, timers),
        facts=facts,
        engine_unknown=why,
        loads=remember_load(
            snapshot.carried.loads, snapshot.now, snapshot.monitors.cpu_load, history=timers.load_history
        ),
    )


def is_fresh(reading: Reading[Any], timers: Timers) -> bool:
    """Known, and young enough to act on."""
    return reading.value is not None and (reading.age or 0.0) <= timers.facts_stale


def lease_text(lease: Optional[LeaseId]) -> str:
    """The four fields that must be equal on every host, as published in ``lease=``; empty when there is no lease."""
    if lease is None:
        return ""
    return f"{lease.lockspace}:{lease.key}:{lease.path}:{lease.offset}"


def peer_lease_conflicts(sit: Situation) -> Tuple[Peer, ...]:
    """Peers that may run the VM and guard it with another lease than ours, by id. Their word counts only with a right
    ``crc=``."""
    return sit.lease_conflicts


def _theirs(sit: Situation, peer: Peer) -> str:
    counts = peer.alive or sit.flags.get(peer.host_id) is HostLease.LIVE
    record = peer.record
    return record.get("lease") if counts and record is not None and record.extra_ok else ""


def _engine(reading: Reading[EngineFacts], timers: Timers) -> Tuple[Optional[EngineFacts], str]:
    if reading.value is None:
        return None, reading.unknown or "not-yet"
    if not is_fresh(reading, timers):
        return None, "stale"
    if reading.value.status.vm is Vm.UNKNOWN:
        return None, "hypervisor"
    return reading.value, ""
