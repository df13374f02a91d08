"""What changed on this host, line by line, for ``hosted-engine --history`` and ``--audit``.

Writing costs no decision anything: a cycle compares a few values and hands over what differs; the disk has a thread of
its own. A disk that is full, read-only or hangs is named once, and the lines wait in memory for it (the newest ones;
how many were lost is a line as well).
"""

import logging
import os
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Deque, List, Optional

from ovirt_he_ha.agent.scribe import Scribe
from ovirt_he_ha.agent.state_file import problem_of
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.config.ledgers import SHARE, LedgerProblem, older, read_own
from ovirt_he_ha.core.ledger import Entry, encode
from ovirt_he_ha.core.model import Decision, Snapshot

log = logging.getLogger(__name__)

RETRY = 30.0  # wall seconds between two tries after the disk refused
WAITING = 500  # lines that wait for the disk: half a megabyte at the worst
DEFECT = "defect"
_MODE = 0o600  # the daemons' user only


class LedgerFile:
    """``path`` and the one before it, at most ``share`` bytes each. Not thread-safe; may block as the disk does."""

    def __init__(self, path: Path, share: int = SHARE) -> None:
        self._path = path
        self._share = share
        self._number: Optional[int] = None

    def append(self, entries: List[Entry]) -> None:
        """The entries with the next numbers, on the disk when it returns. Raises OSError; then lines may be there
        already, and are not the whole of it: the next try numbers anew what the file does not show."""
        if self._number is None:
            self._number = self._last_number()
        number, lines = self._number, []
        for entry in entries:
            number += 1
            lines.append(encode(replace(entry, number=number)))
        self._number = None  # until it is known that they are there
        self._write(lines)
        self._number = number

    def _last_number(self) -> int:
        """A ledger that cannot be read is begun anew by nobody: LedgerProblem becomes the OSError it came from."""
        try:
            return max((entry.number for entry in read_own(self._path).entries), default=0)
        except LedgerProblem as problem:
            raise OSError(0, str(problem)) from problem

    def _write(self, lines: List[bytes]) -> None:
        handle = self._open()
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                lines = [b"\n", *lines]  # the torn line of a crash ends here
            for line in lines:
                if size and size + len(line) > self._share:
                    os.fsync(handle)
                    os.close(handle)
                    handle = -1
                    os.replace(self._path, older(self._path))
                    handle, size = self._open(), 0
                if os.write(handle, line) < len(line):
                    raise OSError(28, os.strerror(28), str(self._path))
                size += len(line)
            os.fsync(handle)
        finally:
            if handle >= 0:
                os.close(handle)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)


class Ledger:
    """One agent's life. ``note`` is for the cycle's thread; the file is touched by a thread of this object's own."""

    def __init__(self, file: LedgerFile, scribe: Optional[Scribe] = None, retry: float = RETRY) -> None:
        self._file = file
        self._scribe = scribe or Scribe()
        self._retry = retry
        self._waiting: Deque[Entry] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why lines are not written: ``full``, ``read-only``, ``no-access``, ``missing``, ``io``, ``defect``; empty:
        they are."""
        return self._problem

    def note(self, snapshot: Snapshot, decision: Decision) -> None:
        """Returns at once and never raises."""
        if self._problem == DEFECT:
            return
        try:
            entries = self._scribe.changes(snapshot, decision)
            if entries:
                self._offer(entries)
        except Exception:  # whatever is wrong with the ledger must not end the agent
            log.exception("The ledger is not kept any more, until the agent starts again", extra={"HE_REASON": DEFECT})
            self._problem = DEFECT

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so many wall seconds."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _offer(self, entries: List[Entry]) -> None:
        with self._changed:
            self._waiting.extend(entries)
            while len(self._waiting) > WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
                batch, self._waiting = list(self._waiting), deque()
                lost, self._lost = self._lost, 0
            if batch and not self._written(batch, lost):
                with self._changed:
                    self._waiting.extendleft(reversed(batch))
                    self._lost += lost
                if self._closing.wait(self._retry):
                    return
            elif self._closing.is_set() and not self._waiting:
                return

    def _written(self, batch: List[Entry], lost: int) -> bool:
        try:
            self._file.append([*_gap(batch[0], lost), *batch])
        except OSError as error:
            said, self._problem = self._problem, problem_of(error)
            if self._problem != said:
                text = "The ledger is not written: %s (%s). The agent works on; the next try comes in %.0f s"
                log.error(text, self._problem, error, self._retry, extra=throttled("ledger", HE_REASON=self._problem))
            return False
        if self._problem and self._problem != DEFECT:
            log.info("The ledger is written again")
            self._problem = ""
        return True


def _gap(first: Entry, lost: int) -> List[Entry]:
    if not lost:
        return []
    return [replace(first, kind="lost", values=MappingProxyType({"lines": lost}), look=None, seen=None)]
