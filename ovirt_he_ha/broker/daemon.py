"""The running broker: its threads, and an end that comes in time whatever hangs."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Callable, Collection, List, Mapping, Optional, Protocol, Sequence, Tuple

from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.handlers import Handlers, Monitoring, Parts, Policy
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.rpc import RpcServer
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import Health, Vm
from ovirt_he_ha.core.seams import Lockspaces, Notifier
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)


class MonitorRoom(Monitoring, Protocol):
    def start(self) -> None: ...

    def stop(self, deadline: float) -> object: ...


class LeaseRoom(Lockspaces, Protocol):
    def set_alert(self, alert: bool) -> None: ...

    def problems(self) -> Mapping[str, str]: ...


class MailRoom(Notifier, Protocol):
    def start(self) -> None: ...

    def stop(self, deadline: float) -> None: ...


class Broker:
    """The running daemon. ``start`` serves, ``stop`` ends within its deadline whatever hangs; both are called once."""

    def __init__(
        self,
        host_id: int,
        server_path: Path,
        whiteboard: Whiteboard,
        lockspaces: LeaseRoom,
        monitors: MonitorRoom,
        notifier: MailRoom,
        reset_lockspace: Callable[[], None],
        clock: SystemClock,
        changes: Changes,
        metrics: Metrics,
        timers: Timers,
        policy: Optional[Policy] = None,
    ) -> None:
        self.host_id = host_id
        self._whiteboard = whiteboard
        self._lockspaces = lockspaces
        self._monitors = monitors
        self._notifier = notifier
        self._clock = clock
        self._changes = changes
        self._timers = timers
        self._stopping = threading.Event()
        policy = policy or Policy(os.geteuid())
        parts = Parts(
            whiteboard,
            lockspaces,
            monitors,
            notifier,
            changes,
            metrics,
            clock,
            reset_lockspace,
            self._stopping,
            lockspaces.problems,
        )
        self.handlers = Handlers(host_id, parts, policy)
        self.server = RpcServer(server_path, self.handlers.dispatch, policy.may_connect, metrics)

    def start(self) -> None:
        """Raises SocketProblem; the lock must have been taken with ``server.reserve`` before."""
        self._lockspaces.want(self.host_id)
        self._notifier.start()
        self._monitors.start()
        threading.Thread(target=self._keep_reading, name="storage", daemon=True).start()
        self.server.start()

    # --- threads --------------------------------------------------------------------------------------------------

    def _keep_reading(self) -> None:
        while not self._stopping.is_set():
            due = self._clock.monotonic() + self._timers.slot_read_alert
            try:
                due = self.read_slots()
            except Exception:
                # A defect must not end the reading for good: said, and tried again.
                log.exception("reading the shared volume failed unexpectedly")
            self._stopping.wait(self._clock.wall_seconds(due - self._clock.monotonic()))

    def read_slots(self) -> float:
        """One turn of the reading thread. Returns the product second of the next one."""
        alert = self._alert()
        due = self._whiteboard.tick(self._listed(), alert)
        # Somebody may be waiting for a dead owner: sanlock's host list is looked at as often as it allows.
        self._lockspaces.set_alert(alert or not self._whiteboard.engine_is_well(self._clock.monotonic()))
        return due

    def _listed(self) -> Optional[Collection[int]]:
        return self._lockspaces.facts().hosts.value

    def _alert(self) -> bool:
        """Our own engine is ill, and the slots do not say so yet."""
        facts = self._monitors.monitors().engine.value
        return facts is not None and facts.status.vm is Vm.UP and facts.status.health is not Health.GOOD

    # --- the end --------------------------------------------------------------------------------------------------

    def stop(self, deadline: float) -> bool:
        """Socket closed, running calls ended, ``hosted-engine`` left; what hangs is left behind after ``deadline`` wall
        seconds. True if nothing was."""
        until = time.monotonic() + deadline
        self._stopping.set()
        self._changes.close()
        served = self.server.stop(deadline * 0.3)
        left = max(0.1, until - time.monotonic())
        product = left * self._clock.scale
        endings = (
            ("lockspaces", lambda: self._lockspaces.leave(left)),
            ("monitors", lambda: self._monitors.stop(product)),
            ("mail", lambda: self._notifier.stop(left)),
            ("volume", lambda: self._whiteboard.close(product)),
        )
        hanging = _all_by(until, endings)
        if hanging:
            log.warning("stopped without waiting for: %s", ", ".join(hanging))
        return served and not hanging


def _all_by(until: float, endings: Sequence[Tuple[str, Callable[[], object]]]) -> List[str]:
    """Run all at once; the names of those that have not ended by ``until``."""

    def run(name: str, end: Callable[[], object]) -> None:
        try:
            end()
        except Exception:
            # One that fails to end must not keep the others from it, nor the process from its end.
            log.exception("%s: not ended cleanly", name)

    threads = [threading.Thread(target=run, args=ending, name=f"end-{ending[0]}", daemon=True) for ending in endings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [name for (name, _), thread in zip(endings, threads) if thread.is_alive()]
