"""What is wrong on this host right now, named: the broker's facts in words."""

from typing import Collection, Iterator, List, NamedTuple

from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import LockspaceState, Reading
from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.refusal import Refusal

_NOT_HELD = "lockspace-not-held"


class Problem(NamedTuple):
    code: str
    text: str


_LOCKSPACE = {
    LockspaceState.JOINING: "is being joined (sanlock takes about 21 s at its default)",
    LockspaceState.NOT_HELD: "is not held by this host",
    LockspaceState.ID_TAKEN: "cannot be joined: another host holds host id {id}. Give one of the two another host_id",
    LockspaceState.MISMATCH: "is held under another host id than {id}: sanlock and hosted-engine.conf disagree",
    LockspaceState.NO_DAEMON: "cannot be joined: sanlock does not answer. Is it running, and is vdsm in the "
    "group sanlock?",
    LockspaceState.ERROR: "cannot be joined: see the broker's journal (journalctl -u ovirt-ha-broker)",
}


def local_problems(snapshot: BrokerSnapshot, host_id: int, alive: Collection[int], paths: HostPaths) -> List[Problem]:
    """Empty when all is well. ``alive``: the ids that the agent reports as live. ``paths``: where the connection of the
    storage says that a copy of the domain must not be joined."""
    lockspaces = snapshot.leases
    return [
        *_storage(snapshot),
        *_refused(paths, _lockspace("lockspace", "The storage domain's lockspace", lockspaces.lockspace, host_id)),
        *_lockspace("whiteboard", "The lockspace hosted-engine", lockspaces.whiteboard, host_id),
        *_publishing(snapshot),
        *_engine(snapshot),
        *_agent(host_id, alive),
        *_definition(paths),
    ]


def _storage(snapshot: BrokerSnapshot) -> Iterator[Problem]:
    facts = snapshot.storage
    if facts.state == "starting":
        yield Problem("storage-starting", "The shared volume has not been read yet")
    elif facts.state != "ok":
        yield Problem("storage-" + facts.state, f"The shared volume: {facts.state}: {facts.detail}".rstrip(": "))


def _lockspace(code: str, name: str, reading: "Reading[LockspaceState]", host_id: int) -> Iterator[Problem]:
    state = reading.value
    if state is None or state is LockspaceState.UNKNOWN:
        yield Problem(f"{code}-unknown", f"{name}: its state is not known ({reading.unknown or 'unknown'})")
    elif state is not LockspaceState.HELD:
        yield Problem(f"{code}-{state.value}", f"{name} {_LOCKSPACE[state].format(id=host_id)}")


def _refused(paths: HostPaths, found: Iterator[Problem]) -> Iterator[Problem]:
    """It stays so until somebody connects the storage again: no daemon does, and the unit that does has ended well."""
    for problem in found:
        why = Refusal(paths.storage_refusal).why() if problem.code == _NOT_HELD else ""
        yield problem._replace(text=f"{problem.text}: {why}") if why else problem


def _publishing(snapshot: BrokerSnapshot) -> Iterator[Problem]:
    if snapshot.publish.overwritten:
        yield Problem(
            "slot-overwritten", "This host's slot was overwritten by somebody else: is its host id used by two hosts?"
        )
    if snapshot.publish.problem:
        yield Problem("publish", f"This host's slot cannot be written: {snapshot.publish.problem}")


def _engine(snapshot: BrokerSnapshot) -> Iterator[Problem]:
    engine = snapshot.monitors.engine
    if engine.value is None:
        yield Problem(
            "engine-unknown", f"Whether the engine VM runs here is not known ({engine.unknown}): is libvirtd running?"
        )
    elif engine.value.lease_defined is False:
        yield Problem(
            "foreign-lease",
            "The engine VM runs here without the lease of this deployment: nothing keeps a second copy from starting",
        )


def _agent(host_id: int, alive: Collection[int]) -> Iterator[Problem]:
    if host_id not in alive:
        yield Problem("agent", "ovirt-ha-agent has not reported for 60 s (systemctl status ovirt-ha-agent)")


def _definition(paths: HostPaths) -> Iterator[Problem]:
    why = NewestStore(paths.ovf_seen).problem()
    if why:
        yield Problem("definition-older", why)
