"""What is worth a line of the ledger: the difference between one cycle and the one before."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.agent.meter import Patience, Said
from ovirt_he_ha.core.guards import paused_for
from ovirt_he_ha.core.ledger import GONE, HELD_UP, HERE, LOOK_SECONDS, MOST_REASONS, Entry, Look
from ovirt_he_ha.core.model import Decision, LockspaceState, Reading, Reason, Snapshot, State, Vm
from ovirt_he_ha.core.reasons import encode_reason


class Scribe:
    """One agent's life: what it wrote last of everything. Values that are unknown for the moment are no change."""

    def __init__(self) -> None:
        self._begun = False
        self._state: Optional[State] = None
        self._vm = ""
        self._vm_since = 0.0
        self._seen: Optional[float] = None
        self._look: Optional[Look] = None
        self._confirmed = True  # a look that surely came after the VM's last change is in a line
        self._said: Dict[str, Mapping[str, Any]] = {}
        self._done: Optional[Tuple[float, str]] = None
        self._patience = Patience()

    def changes(self, snapshot: Snapshot, decision: Decision) -> List[Entry]:
        """The lines of this cycle, in the order in which things happened; mostly none."""
        found: List[Tuple[str, Mapping[str, Any]]] = []
        if not self._begun:
            self._begun = True
            found.append(("begin", {"version": snapshot.host.version, "hostname": snapshot.host.hostname}))
        found += self._report(snapshot)
        entries = [self._entry(kind, values, snapshot) for kind, values in found]
        entries += self._vm_and_lease(snapshot)
        found = [*self._differs("maintenance", _maintenance(snapshot)), *self._differs("fence", _fence(snapshot))]
        found += self._differs(
            "protection", {**_protection(snapshot), **_meter(self._patience.read(snapshot.now, decision))}
        )
        found += self._decided(snapshot, decision)
        return entries + [self._entry(kind, values, snapshot) for kind, values in found]

    def _entry(self, kind: str, values: Mapping[str, Any], snapshot: Snapshot) -> Entry:
        return Entry(
            kind=kind,
            host_id=snapshot.host.host_id,
            boot_id=snapshot.host.boot_id,
            at=snapshot.now,
            wall=snapshot.now + snapshot.wall_offset,
            values=values,
            look=self._look,
            own_generation=snapshot.leases.own_generation,
            seen=self._seen,
        )

    # --- the VM and its lease ---------------------------------------------------------------------------------------

    def _vm_and_lease(self, snapshot: Snapshot) -> List[Entry]:
        before = self._look
        self._look = _look(snapshot) or before
        entries = []
        vm, at, detail = _vm(snapshot)
        if vm and vm != self._vm:
            if vm == HERE:
                self._seen = at
            values = {"vm": vm, "detail": detail, **_exit(snapshot, vm)}
            entries.append(self._entry("vm", values, snapshot))
            self._vm, self._vm_since, self._confirmed = vm, snapshot.now, False
        elif _owner(self._look) != _owner(before) or self._confirms():
            entries.append(self._entry("lease", {}, snapshot))
        if vm == HERE:
            self._seen = at
        elif vm:
            self._seen = None
        self._confirmed = self._confirmed or self._confirms()
        return entries

    def _confirms(self) -> bool:
        """The first look that surely came after the VM's last change: the audit needs one, changed or not."""
        look = self._look
        return not self._confirmed and look is not None and look.at - LOOK_SECONDS >= self._vm_since

    # --- everything else --------------------------------------------------------------------------------------------

    def _differs(self, kind: str, facts: Mapping[str, Any]) -> List[Tuple[str, Mapping[str, Any]]]:
        """What of ``facts`` is not as it was said last; the first time, what is worth saying at all."""
        said = self._said.get(kind, {})
        changed = {key: value for key, value in facts.items() if value is not None and value != said.get(key)}
        self._said[kind] = {**said, **changed}
        worth = kind in ("protection", "maintenance") or said or any(changed.values())
        return [(kind, changed)] if changed and worth else []

    def _report(self, snapshot: Snapshot) -> List[Tuple[str, Mapping[str, Any]]]:
        report = snapshot.report
        if report is None or report.outcome is None:
            return []
        key = (report.started_at, report.action.kind.value)
        if key == self._done:
            return []
        self._done = key
        ended = snapshot.now if report.finished_at is None else report.finished_at
        values = {
            "action": report.action.kind.value,
            "target": report.action.target_id,
            "outcome": report.outcome.value,
            "detail": report.detail,
            "seconds": round(max(0.0, ended - report.started_at), 1),
        }
        return [("done", values)]

    def _decided(self, snapshot: Snapshot, decision: Decision) -> List[Tuple[str, Mapping[str, Any]]]:
        found: List[Tuple[str, Mapping[str, Any]]] = []
        before, self._state = self._state or snapshot.carried.state, decision.state
        why = _why(decision.reasons)
        if before is not decision.state:
            found.append(("state", {"from": before.value, "to": decision.state.value, "why": why}))
        running = snapshot.report is not None and snapshot.report.outcome is None
        if decision.action is not None and not running and not snapshot.stopping:
            action = decision.action
            found.append(("order", {"action": action.kind.value, "target": action.target_id, "why": why}))
        if snapshot.stopping:
            found.append(("end", {}))
        return found


def _look(snapshot: Snapshot) -> Optional[Look]:
    reading = snapshot.leases.owner
    owner = reading.value
    if owner is None:
        return None
    at = snapshot.now - (reading.age or 0.0)
    return Look(owner.host_id, owner.generation, owner.timestamp, owner.version, at)


def _owner(look: Optional[Look]) -> Optional[Tuple[int, int, int, int]]:
    return None if look is None else (look.owner, look.generation, look.timestamp, look.version)


def _vm(snapshot: Snapshot) -> Tuple[str, float, str]:
    """Where it stands (empty: unknown), when that was seen, libvirt's word for it."""
    reading = snapshot.monitors.engine
    facts = reading.value
    at = snapshot.now - (reading.age or 0.0)
    if facts is None or facts.status.vm is Vm.UNKNOWN:
        return "", at, ""
    detail = facts.status.detail
    if facts.status.vm is not Vm.UP:
        return GONE, at, detail
    return (HELD_UP if facts.incoming or paused_for(facts) is not None else HERE), at, detail


def _exit(snapshot: Snapshot, vm: str) -> Mapping[str, Any]:
    facts = snapshot.monitors.engine.value
    if vm != GONE or facts is None or facts.last_exit.value == "none":
        return {}
    return {"exit": facts.last_exit.value}


def _maintenance(snapshot: Snapshot) -> Mapping[str, Any]:
    host = snapshot.host
    local = host.local_maintenance.value
    return {
        "global": snapshot.global_maintenance.value,
        "local": local,
        "reason": None if local is None else host.maintenance_reason if local else host.end_reason,
        "global_reason": host.global_reason if host.global_since else None,
    }


def _fence(snapshot: Snapshot) -> Mapping[str, Any]:
    reason = snapshot.guard.reason
    return {"killing": snapshot.fencing, "guard": "" if reason is None else encode_reason(reason)}


def _protection(snapshot: Snapshot) -> Mapping[str, Any]:
    facts, leases = snapshot.monitors.engine.value, snapshot.leases
    return {
        "watchdog": leases.watchdog_armed,
        "lockspace": _state(leases.lockspace),
        "whiteboard": _state(leases.whiteboard),
        "lease-defined": None if facts is None else facts.lease_defined,
        "definition": snapshot.host.definition_problem,
        "allow-unfenced": snapshot.host.allow_unfenced,
        "guard": snapshot.guard.state,
        "storage": snapshot.storage_problem,
        "state-file": snapshot.state_problem,
        "lock-manager": snapshot.host.safeguards.lock_manager or None,
    }


def _meter(said: Said) -> Mapping[str, Any]:
    """The meter as this host reads it: its level, and what is missing in the whole cluster."""
    return {} if said.level is None else {"level": said.level.value, "missing": said.codes}


def _state(reading: Reading[LockspaceState]) -> Optional[str]:
    value = reading.value
    return None if value is None or value is LockspaceState.UNKNOWN else value.value


def _why(reasons: Tuple[Reason, ...]) -> List[str]:
    return [encode_reason(each) for each in reasons[:MOST_REASONS]]
