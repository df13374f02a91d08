"""The doors to the outside. Production, simulator and recorder implement the same protocols.

Each docstring sorts the methods by what may go wrong: *exclusive* (two hosts must never both succeed), *bounded*
(must return by the deadline, whatever hangs), *may fail* (raises; the caller treats it as unknown).
"""

from typing import Mapping, Protocol, Sequence, Tuple

from ovirt_he_ha.core.model import Action, ActionReport, LeaseFacts, LeaseId, LockspaceState, Monitors, Reading


class Clock(Protocol):
    """Product time. ``scale`` product seconds pass in one wall second (1.0 outside the lab)."""

    scale: float

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class BlockIO(Protocol):
    """One volume, direct I/O. Bounded: each call raises ``StorageOverdue`` after ``deadline`` seconds (and the worker
    that hangs is abandoned); may fail: ``StorageError``. ``write`` returns only when the bytes are on the volume.
    Offsets and lengths are multiples of 4096."""

    def read(self, offset: int, length: int, deadline: float) -> bytes: ...

    def write(self, offset: int, data: bytes, deadline: float) -> None: ...

    def late_writes(self) -> Tuple[int, ...]:
        """Offsets at which a write that was given up may still reach the volume."""
        ...

    def close(self, deadline: float) -> None: ...


class Lockspaces(Protocol):
    """Both lockspaces of this host. Exclusive: one host id, one host. Bounded: every method returns at once with the
    last known facts; what blocks runs on the implementation's own threads."""

    def want(self, host_id: int) -> None:
        """Hold both lockspaces under this id from now on; keep trying."""
        ...

    def facts(self) -> LeaseFacts: ...

    def states(self) -> "Tuple[Reading[LockspaceState], Reading[LockspaceState]]":
        """Of the storage domain's and of ``hosted-engine``, as in ``facts``."""
        ...

    def leave(self, deadline: float) -> None:
        """Leave ``hosted-engine``; leave the storage domain's only if unused (S8)."""
        ...


class EngineVm(Protocol):
    """The engine VM on this host. Exclusive: ``start`` succeeds on one host only, through the VM's lease. Bounded:
    each call returns or raises by its deadline. May fail: all of them."""

    def start(self, xml: str, lease: LeaseId, deadline: float) -> ActionReport: ...

    def shutdown(self, deadline: float) -> ActionReport: ...

    def destroy(self, deadline: float) -> ActionReport: ...

    def migrate(self, action: Action, deadline: float) -> ActionReport: ...

    def abort_migration(self) -> None: ...


class Probes(Protocol):
    """The measurements of this host. Bounded: returns what is known now."""

    def monitors(self) -> Monitors: ...


class Notifier(Protocol):
    """May fail, and never waits: ``notify`` queues."""

    def notify(self, event: str, detail: str, options: Mapping[str, str]) -> str: ...


class BrokerCalls(Protocol):
    """The broker as the agent sees it. Bounded: each call raises ``BrokerError`` by its deadline."""

    def snapshot(self) -> object: ...

    def wait_for_change(self, serial: int, timeout: float) -> int: ...

    def put_stats(self, host_id: int, data: bytes) -> None: ...

    def push_hosts_state(self, ids: Sequence[int]) -> None: ...

    def notify(self, event: str, detail: str, options: Mapping[str, str]) -> str: ...
