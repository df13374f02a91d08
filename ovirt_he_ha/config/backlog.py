"""Log records on their way to whoever writes them: no thread waits for a journal or a disk that hangs.

Without it the first thread that logs while journald is frozen keeps the handler's lock, and every other one that has
something to say waits for it: the one that guards the VM, and the one that stops the daemon.
"""

import logging
import threading
import time
from collections import deque
from typing import Deque, List, Optional, Sequence

MOST = 2000  # records; with 200 bytes each 400 kB, and at the pace of a bad day an hour


class Backlog(logging.Handler):
    """Passes records on to ``targets`` on a thread of its own, in their order. What does not fit any more is counted,
    and the number said when there is room again."""

    def __init__(self, targets: Sequence[logging.Handler], most: int = MOST) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self._most = most
        self._waiting: Deque[logging.LogRecord] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._busy = False
        self._ended = False
        self._thread: Optional[threading.Thread] = None

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits for a target."""
        record.msg, record.args = record.getMessage(), None  # what it names may be another thing when it is written
        with self._changed:
            if self._ended or len(self._waiting) >= self._most:
                self._dropped += 1
                return
            self._waiting.append(record)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def drain(self, seconds: float) -> bool:
        """Wait at most so many wall seconds until everything is written. False: something hangs, it is given up."""
        until = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, until - time.monotonic())

    def end(self, seconds: float) -> bool:
        """``drain``, and take nothing more."""
        drained = self.drain(seconds)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        return drained

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting) or self._ended)
                if not self._waiting:
                    return
                records = self._taken()
                self._busy = True
            for record in records:
                for target in self.targets:
                    if record.levelno >= target.level:
                        target.handle(record)

    def _taken(self) -> List[logging.LogRecord]:
        """The oldest one, and what there is to say about the dropped ones."""
        records = [self._waiting.popleft()]
        if self._dropped and not self._ended:
            text = f"{self._dropped} messages were not written: the log hung"
            records.append(logging.makeLogRecord({"name": __name__, "msg": text, "levelno": logging.WARNING}))
            records[-1].levelname = "WARNING"
            self._dropped = 0
        return records
