"""The one action at a time, on a worker of its own.

libvirt's create can block for the whole wait for a dead owner of the lease (160 s at sanlock's default) and a guest's
shutdown for as long as the guest likes, so the agent's cycle never calls libvirt itself: it orders, and reads the
report in a later snapshot.
"""

import logging
import threading
from dataclasses import dataclass, replace
from typing import Callable, Dict, Optional, Tuple

from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, LeaseId, Outcome
from ovirt_he_ha.core.seams import Clock, EngineVm
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)

HAND_OVER = Timers().own_migration_pause


@dataclass(frozen=True)
class Definition:
    """What START needs: the checked libvirt XML and the lease computed for this host's storage."""

    xml: str
    lease: LeaseId


StillWanted = Callable[[], str]


class ActionWorker:
    """``still_wanted()`` is asked in the instant before create (maintenance, score, rank and lease may have changed
    since the decision): it returns an empty text, or why the start is off. ``definition()`` raises what forbids the
    start. ``without_lease(seconds)`` tells the guard that our own start or hand-over is under way for at most so many
    product seconds from now: the VM's process may be without its lease meanwhile. ``give_back(lease)`` clears what an
    earlier tenure of this host left on the lease; asked after a start that failed, so that the next may be another
    host's."""

    def __init__(
        self,
        vm: EngineVm,
        clock: Clock,
        definition: Callable[[], Definition],
        still_wanted: StillWanted,
        on_done: Callable[[], None],
        without_lease: Callable[[float], None] = lambda seconds: None,
        give_back: Callable[[LeaseId], object] = lambda lease: None,
    ) -> None:
        self._vm = vm
        self._clock = clock
        self._definition = definition
        self._still_wanted = still_wanted
        self._on_done = on_done
        self._without_lease = without_lease
        self._give_back = give_back
        self._lock = threading.Lock()
        self._report: Optional[ActionReport] = None
        self._aborting: Optional[threading.Thread] = None
        self._run: Dict[ActionKind, Callable[[Action], ActionReport]] = {
            ActionKind.START: self._start,
            ActionKind.STOP: lambda a: self._vm.shutdown(self._limit(a)),
            ActionKind.POWER_OFF: lambda a: self._vm.destroy(self._limit(a)),
            ActionKind.MIGRATE: self._migrate,
        }

    def report(self) -> Optional[ActionReport]:
        """The running action, or the one that finished since :meth:`taken` was called."""
        with self._lock:
            return self._report

    def taken(self, report: Optional[ActionReport]) -> None:
        """The decision has seen this finished report: forget it."""
        with self._lock:
            if report is not None and report.outcome is not None and self._report is report:
                self._report = None

    def order(self, action: Action) -> bool:
        """Start ``action`` unless one runs. Returns whether it was taken."""
        report = ActionReport(action, self._clock.monotonic())
        with self._lock:
            if self._report is not None and self._report.outcome is None:
                return False
            self._report = report
        log.info("%s", action.kind.value, extra={"HE_ACTION": action.kind.value, "HE_TARGET": str(action.target_id)})
        self.launch(report)
        return True

    def launch(self, report: ActionReport) -> None:
        """On a thread of its own: it takes as long as libvirt does."""
        threading.Thread(target=self._work, args=(report,), name="action", daemon=True).start()

    def abort_migration(self) -> None:
        """Returns at once: libvirt may need seconds for it. One at a time; a second order is part of the first."""
        with self._lock:
            if self._aborting is not None and self._aborting.is_alive():
                return
            self._aborting = threading.Thread(target=self._vm.abort_migration, name="abort", daemon=True)
            self._aborting.start()

    def withheld(self) -> Tuple[Definition, str]:
        """The definition to start, and what speaks against it now (empty: nothing). Raises what forbids the start."""
        definition = self._definition()
        return definition, self._still_wanted()

    def finish(self, report: ActionReport, done: ActionReport) -> None:
        """``report`` has ended with the outcome of ``done``: the next snapshot has it."""
        finished = replace(
            report,
            outcome=done.outcome or Outcome.FAILED,
            detail=done.detail,
            finished_at=self._clock.monotonic(),
        )
        with self._lock:
            self._report = finished
        outcome = finished.outcome.value if finished.outcome else ""
        log.info("%s: %s %s", report.action.kind.value, outcome, finished.detail, extra={"HE_OUTCOME": outcome})
        self._on_done()

    def _work(self, report: ActionReport) -> None:
        try:
            done = self._run[report.action.kind](report.action)
        except Exception as e:  # becomes the named outcome that the next decision sees
            log.exception("%s failed", report.action.kind.value)
            done = replace(report, outcome=Outcome.FAILED, detail=f"{type(e).__name__}: {e}")
        self.finish(report, done)

    def _start(self, action: Action) -> ActionReport:
        definition, objection = self.withheld()
        if objection:
            return ActionReport(action, self._clock.monotonic(), Outcome.LOST_RACE, detail=objection)
        self._without_lease(self._limit(action))
        try:
            done = self._vm.start(definition.xml, definition.lease, self._limit(action))
        finally:
            self._without_lease(0.0)
        if done.outcome is Outcome.FAILED:  # overdue: libvirt may still want it; refused: something of the VM is here
            self._give_back(definition.lease)
        return done

    def _migrate(self, action: Action) -> ActionReport:
        self._without_lease(self._limit(action) + HAND_OVER)
        try:
            return self._vm.migrate(action, self._limit(action))
        finally:
            # A copy that was handed over is paused and without lease until libvirt ends it.
            self._without_lease(HAND_OVER)

    def _limit(self, action: Action) -> float:
        return action.deadline
