"""The methods: what they check, who may call them, and what they answer. No socket and no thread here."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple

from ovirt_he_ha import __version__
from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.arguments import (
    check_count,
    check_global,
    check_host_id,
    check_options,
    check_record,
    check_text,
    shown,
)
from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.own_slot import BLANK
from ovirt_he_ha.broker.protocol import BrokerSnapshot, FaultCode, printable, trimmed
from ovirt_he_ha.broker.rpc import Caller, Fault
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    MAX_HOST_ID,
    SLOT_SIZE,
    HostLease,
    LeaseFacts,
    LockspaceState,
    Monitors,
    Reading,
)
from ovirt_he_ha.core.seams import Clock, Lockspaces, Notifier
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue

log = logging.getLogger(__name__)

ALIVE_SECONDS = 60.0  # product seconds that a pushed list of live hosts is believed
NO_VALUE = "None"
BEFORE_THE_FIRST = {"network": "1.0"}  # the field's agents turn this one into a number without looking
MAX_WAIT = 60.0  # wall seconds of one wait_for_change
LOCK_WAIT = 1.5  # wall seconds that lock_host_id waits for a join: less than any client's deadline
DOMAIN_WAIT = 245.0  # product seconds that start_domain_monitor waits, as the field's broker does
LEAVE_SECONDS = 4.0  # wall seconds to leave the lockspaces

# Others of these raise the alarm at every peer, or are read by nobody else: who may only read has no use for them.
READER_METHODS = frozenset(
    {
        protocol.STATUS_MONITOR,
        protocol.GET_STATS,
        protocol.IS_HOST_ALIVE,
        protocol.SNAPSHOT,
        protocol.WAIT_FOR_CHANGE,
        protocol.HEALTH,
    }
)
READS = READER_METHODS


class Monitoring(Protocol):
    """What the handlers need of the monitors."""

    def monitors(self) -> Monitors: ...

    def types(self) -> Tuple[str, ...]: ...

    def legacy_text(self, name: str) -> str: ...

    def check_start(self, name: str, options: Mapping[str, str]) -> str: ...


@dataclass(frozen=True)
class Policy:
    """Who may do what: root and the daemon's own user everything, ``reader`` reads and slot 0, nobody else connects."""

    own: int
    reader: int = 36

    def may_connect(self, caller: Caller) -> bool:
        return caller.uid in (0, self.own, self.reader)

    def check(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> None:
        """Raises Fault NOT_ALLOWED."""
        if caller.uid in (0, self.own) or method in READER_METHODS:
            return
        if method == protocol.PUT_STATS and args[:1] == (GLOBAL_SLOT,):
            return
        raise Fault(FaultCode.NOT_ALLOWED, f"{method}: not allowed for uid {caller.uid}")


@dataclass(frozen=True)
class Parts:
    """What the handlers act on. ``reset_lockspace`` writes the whiteboard's lockspace anew; ``wall_seconds``
    converts."""

    whiteboard: Whiteboard
    lockspaces: Lockspaces
    monitoring: Monitoring
    notifier: Notifier
    changes: Changes
    metrics: Metrics
    clock: Clock
    reset_lockspace: Callable[[], None]
    stopping: threading.Event
    problems: Callable[[], Mapping[str, str]] = dict


class Handlers:
    """``dispatch`` is what the server calls. ``host_id``: this host's, from its configuration."""

    def __init__(self, host_id: int, parts: Parts, policy: Policy) -> None:
        self.host_id = host_id
        self._parts = parts
        self._policy = policy
        self._started = parts.clock.monotonic()
        self._alive: Tuple[Tuple[int, ...], Optional[float]] = ((), None)
        self._resetting = threading.Lock()
        self._methods: Dict[str, Callable[..., Any]] = {
            protocol.START_MONITOR: self.start_monitor,
            protocol.STOP_MONITOR: self.stop_monitor,
            protocol.STATUS_MONITOR: self.status_monitor,
            protocol.GET_STATS: self.get_stats,
            protocol.PUT_STATS: self.put_stats,
            protocol.PUSH_HOSTS_STATE: self.push_hosts_state,
            protocol.IS_HOST_ALIVE: self.is_host_alive,
            protocol.NOTIFY: self.notify,
            protocol.START_DOMAIN_MONITOR: self.start_domain_monitor,
            protocol.STOP_DOMAIN_MONITOR: self.stop_domain_monitor,
            protocol.LOCK_HOST_ID: self.lock_host_id,
            protocol.RELEASE_HOST_ID: self.release_host_id,
            protocol.RESET_LOCKSPACE: self.reset_lockspace,
            protocol.SNAPSHOT: self.snapshot,
            protocol.WAIT_FOR_CHANGE: self.wait_for_change,
            protocol.HEALTH: self.health,
        }

    def dispatch(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> Any:
        """Raises Fault."""
        check_count(method, args)
        self._policy.check(caller, method, args)
        if self._parts.stopping.is_set():
            raise Fault(FaultCode.STOPPING, f"{method}: the broker is stopping")
        if method in READS:
            return self._methods[method](*args)
        return self._audited(caller, method, args)

    def _audited(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> Any:
        outcome = "ok"
        try:
            return self._methods[method](*args)
        except Fault as fault:
            outcome = fault.code.name.lower()
            raise
        finally:
            level = logging.DEBUG if method in _ROUTINE and outcome == "ok" else logging.INFO
            if log.isEnabledFor(level):
                log.log(
                    level,
                    "%s%s by uid %d, process %d: %s",
                    method,
                    shown(args),
                    caller.uid,
                    caller.pid,
                    outcome,
                    extra={"HE_UID": caller.uid, "HE_METHOD": method, "HE_OUTCOME": outcome},
                )

    # --- slots ----------------------------------------------------------------------------------------------------

    def get_stats(self) -> Dict[str, bytes]:
        """Every slot in use as it is on the volume, without the NULs that end it: three quarters of most slots. The
        field's clients want 512 bytes of a host, and slot 0 whole."""
        used = {host_id: data for host_id, data in self._parts.whiteboard.slots().items() if data[:1] != b"\0"}
        return {str(host_id): data if host_id == GLOBAL_SLOT else trimmed(data) for host_id, data in used.items()}

    def put_stats(self, host_id: Any, data: Any) -> str:
        check_host_id(host_id, low=GLOBAL_SLOT)
        if not isinstance(data, bytes):
            raise Fault(FaultCode.ARGUMENT, f"put_stats: expected binary data, found {type(data).__name__}")
        if len(data) > SLOT_SIZE:
            raise Fault(FaultCode.ARGUMENT, f"put_stats: expected at most {SLOT_SIZE} bytes, found {len(data)}")
        block = data.ljust(SLOT_SIZE, b"\0")
        if host_id == GLOBAL_SLOT:
            check_global(block)
        elif host_id == self.host_id:
            check_record(host_id, block)
            self._check_held()
        else:
            self._check_cleaning(host_id, block)
        self._write(host_id, block)
        return "ok"

    def _write(self, host_id: int, block: bytes) -> None:
        try:
            self._parts.whiteboard.write(host_id, block)
        except StorageOverdue as error:
            raise Fault(FaultCode.OVERDUE, f"slot {host_id}: {error}") from error
        except StorageError as error:
            raise Fault(FaultCode.STORAGE, f"slot {host_id}: {error.code}: {error}") from error

    def _check_held(self) -> None:
        """Our slot is ours while this host holds its id, in one lockspace as in the other."""
        domain, whiteboard = self._parts.lockspaces.states()
        state = whiteboard.value
        if state is not LockspaceState.HELD:
            found = state.value if state else whiteboard.unknown
            raise Fault(
                FaultCode.NOT_HELD,
                f"host id {self.host_id} is not held in lockspace hosted-engine ({found}); nothing was written",
            )
        if domain.value in (LockspaceState.MISMATCH, LockspaceState.ID_TAKEN):
            raise Fault(
                FaultCode.NOT_HELD,
                f"host id {self.host_id}: the storage domain's lockspace says {domain.value.value}; "
                "nothing was written",
            )

    def _check_cleaning(self, host_id: int, block: bytes) -> None:
        """Another host's slot may only be blanked, and only while sanlock proves that nobody uses that id."""
        if block != BLANK:
            raise Fault(
                FaultCode.NOT_OWNER, f"slot {host_id} belongs to another host; this one writes {self.host_id} and 0"
            )
        hosts = self._parts.lockspaces.facts().hosts.value
        if hosts is None or hosts.get(host_id, HostLease.FREE) not in (HostLease.FREE, HostLease.DEAD):
            raise Fault(
                FaultCode.NOT_OWNER,
                f"slot {host_id} is not cleaned: sanlock does not show host id {host_id} free or dead",
            )

    # --- liveness as the agent sees it ----------------------------------------------------------------------------

    def push_hosts_state(self, ids: Any) -> str:
        if not isinstance(ids, list) or len(ids) > MAX_HOST_ID + 1:
            raise Fault(FaultCode.ARGUMENT, "push_hosts_state: expected an array of host ids")
        for host_id in ids:
            check_host_id(host_id, low=1)
        self._alive = (tuple(dict.fromkeys(ids)), self._parts.clock.monotonic())
        return "ok"

    def is_host_alive(self) -> List[int]:
        ids, pushed_at = self._alive
        if pushed_at is None or self._parts.clock.monotonic() - pushed_at > ALIVE_SECONDS:
            return []
        return list(ids)

    # --- monitors -------------------------------------------------------------------------------------------------

    def start_monitor(self, kind: Any, options: Any) -> str:
        """All monitors run from the start with this host's configuration; a client that starts one gets its name."""
        name = self._known_monitor(kind)
        try:
            return self._parts.monitoring.check_start(name, check_options("start_monitor", options))
        except ValueError as error:
            raise Fault(FaultCode.ARGUMENT, f"start_monitor {name}: {error}") from error

    def stop_monitor(self, monitor: Any) -> str:
        """They go on: this host's own agent needs them."""
        self._known_monitor(monitor)
        return "ok"

    def status_monitor(self, monitor: Any) -> str:
        name = self._known_monitor(monitor)
        text = self._parts.monitoring.legacy_text(name)
        return BEFORE_THE_FIRST.get(name, text) if text == NO_VALUE else text

    def _known_monitor(self, kind: Any) -> str:
        types = self._parts.monitoring.types()
        if isinstance(kind, str) and kind in types:
            return kind
        raise Fault(FaultCode.NO_MONITOR, f"monitor {str(kind)[:40]!r}: expected one of {', '.join(sorted(types))}")

    # --- notifications --------------------------------------------------------------------------------------------

    def notify(self, event: Any, detail: Any, options: Any) -> str:
        check_text("notify: event", event)
        check_text("notify: detail", detail)
        return self._parts.notifier.notify(event, detail, check_options("notify", options))

    # --- lockspaces -----------------------------------------------------------------------------------------------

    def lock_host_id(self, host_id: Any) -> str:
        """Hold both lockspaces from now on. Answers when the whiteboard's is held; a join takes about 20 s and goes on
        after the fault that says so."""
        self._want(host_id)
        self._await(lambda facts: facts.whiteboard, LOCK_WAIT, "hosted-engine")
        return "ok"

    def start_domain_monitor(self, host_id: Any) -> str:
        self._want(host_id)
        self._await(lambda facts: facts.lockspace, DOMAIN_WAIT / self._parts.clock.scale, "of the storage domain")
        return "ok"

    def stop_domain_monitor(self) -> str:
        """The storage domain's lockspace stays: a lease of a running VM may live in it."""
        return "ok"

    def release_host_id(self) -> str:
        if self._parts.lockspaces.facts().whiteboard.value is not LockspaceState.HELD:
            raise Fault(FaultCode.NOT_HELD, f"host id {self.host_id} is not held in lockspace hosted-engine")
        self._parts.lockspaces.leave(LEAVE_SECONDS)
        self._parts.changes.bump()
        return "ok"

    def reset_lockspace(self) -> str:
        if not self._resetting.acquire(blocking=False):
            raise Fault(FaultCode.BUSY, "reset_lockspace: one is running already")
        try:
            self._parts.lockspaces.leave(LEAVE_SECONDS)
            self._parts.reset_lockspace()
        except StorageError as error:
            raise Fault(FaultCode.LOCKSPACE, f"lockspace hosted-engine was not written: {error}") from error
        finally:
            self._parts.lockspaces.want(self.host_id)
            self._resetting.release()
        return "ok"

    def _want(self, host_id: Any) -> None:
        check_host_id(host_id, low=1)
        if host_id != self.host_id:
            raise Fault(
                FaultCode.ARGUMENT, f"host id {host_id}: this host's is {self.host_id} (host_id in hosted-engine.conf)"
            )
        self._parts.lockspaces.want(host_id)

    def _await(self, of: Callable[[LeaseFacts], "Reading[LockspaceState]"], seconds: float, name: str) -> None:
        """Raises Fault LOCKSPACE at once for a state that does not become held by waiting, else after ``seconds``."""
        until = time.monotonic() + seconds
        while True:
            serial = self._parts.changes.serial
            reading = of(self._parts.lockspaces.facts())
            if reading.value is LockspaceState.HELD:
                return
            left = until - time.monotonic()
            if left <= 0 or reading.value in _HOPELESS or self._parts.stopping.is_set():
                found = reading.value.value if reading.value else reading.unknown
                raise Fault(FaultCode.LOCKSPACE, f"lockspace {name}: host id {self.host_id} is not held yet ({found})")
            self._parts.changes.wait(serial, min(left, 0.5))

    # --- ours -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> Dict[str, Any]:
        return protocol.fold(protocol.pack_snapshot(self.facts()))

    def facts(self) -> BrokerSnapshot:
        """The serial is read first: what changes meanwhile wakes the waiter again."""
        parts = self._parts
        serial = parts.changes.serial
        now = parts.clock.monotonic()
        board = parts.whiteboard
        return BrokerSnapshot(
            serial=serial,
            host_id=self.host_id,
            slots=board.slots(),
            slots_age=board.slots_age(now),
            storage=board.storage(now),
            monitors=parts.monitoring.monitors(),
            leases=parts.lockspaces.facts(),
            publish=board.publish(now),
            version=__version__,
        )

    def wait_for_change(self, serial: Any, timeout: Any) -> int:
        if not isinstance(serial, int) or isinstance(serial, bool):
            raise Fault(FaultCode.ARGUMENT, "wait_for_change: expected the serial as an integer")
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or timeout < 0:
            raise Fault(FaultCode.ARGUMENT, "wait_for_change: expected the timeout in seconds")
        return self._parts.changes.wait(serial, min(float(timeout), MAX_WAIT))

    def health(self) -> Dict[str, Any]:
        """What an operator or a test asks: the snapshot without its slots but with the seconds since each of them was
        seen to change, the texts of the monitors, the counters."""
        facts = self.facts()
        struct = protocol.pack_snapshot(facts)
        del struct["slots"]
        struct["ids"] = sorted(facts.slots)
        now = self._parts.clock.monotonic()
        struct["slot_ages"] = {str(host_id): age for host_id, age in self._parts.whiteboard.slot_ages(now).items()}
        struct["uptime"] = now - self._started
        struct["alive"] = self.is_host_alive()
        monitoring = self._parts.monitoring
        struct["texts"] = {name: printable(monitoring.legacy_text(name)) for name in monitoring.types()}
        struct["lockspaces"] = {name: printable(text) for name, text in self._parts.problems().items()}
        struct["counters"] = {name: count for name, count in self._parts.metrics.counts().items()}
        return struct


_ROUTINE = frozenset({protocol.PUT_STATS, protocol.PUSH_HOSTS_STATE, protocol.LOCK_HOST_ID, protocol.START_MONITOR})
_HOPELESS = (
    LockspaceState.ID_TAKEN,
    LockspaceState.MISMATCH,
    LockspaceState.NO_DAEMON,
    LockspaceState.ERROR,
)
