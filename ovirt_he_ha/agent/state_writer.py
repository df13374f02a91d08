"""The budgets' way to this host's disk, beside the cycle: a disk that hangs must not keep it from its next decision."""

import logging
import threading
from typing import Optional

from ovirt_he_ha.agent.state_file import StateFile
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.model import Budgets

log = logging.getLogger(__name__)

WAIT = 1.0  # wall seconds: on a busy disk two fsyncs take 0.2
OVERDUE = "overdue"


class StateWriter:
    """One write at a time; of those that come meanwhile, the last one is next."""

    def __init__(self, file: StateFile, wait: float = WAIT) -> None:
        self._file = file
        self._wait = wait
        self._lock = threading.Lock()
        self._next: Optional[Budgets] = None
        self._taken: Optional[Budgets] = None
        self._thread: Optional[threading.Thread] = None
        self._late = False

    @property
    def problem(self) -> str:
        """Empty, ``overdue``, or the file's."""
        return OVERDUE if self._late else self._file.problem

    def save(self, budgets: Budgets) -> None:
        """Returns when ``budgets`` are on the disk, or could not be written, or after the wait. Never raises: what
        follows (a start) is not held up, this process counts in memory, and the host shows the problem."""
        with self._lock:
            if budgets == self._taken:
                return
            self._next = self._taken = budgets
            thread = self._thread
            if thread is None:
                thread = self._thread = threading.Thread(target=self._run, name="state-file", daemon=True)
                thread.start()
            elif self._late:
                return  # it hangs: no cycle waits for it again
        thread.join(self._wait)
        with self._lock:
            self._late = self._thread is thread
        if self._late:
            log.error("The state file is not written within %g s: the disk hangs", self._wait)

    def _run(self) -> None:
        while True:
            with self._lock:
                budgets, self._next = self._next, None
                if budgets is None:
                    self._thread, self._late = None, False
                    return
            self._write(budgets)

    def _write(self, budgets: Budgets) -> None:
        try:
            self._file.save(budgets)
        except OSError as e:
            with self._lock:
                self._taken = None  # tried again by the next cycle
            log.error(
                "Cannot save the budgets: %s. A restart of the agent would forget them", e, extra=throttled("budgets")
            )
