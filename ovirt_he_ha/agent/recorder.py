"""What the agent saw and decided, cycle by cycle, for the morning after: ``he-sim replay`` decides it all again.

Recording never costs a decision: it comes after the action was ordered, it only encodes (the disk has a thread of its
own), and when it cannot go on it is off, said once, while the agent works on.
"""

import logging
from typing import Mapping, Optional, Protocol

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.frames import Packer
from ovirt_he_ha.core.model import Decision, Snapshot
from ovirt_he_ha.core.recording import Encoder
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)

KEY_EVERY = 600.0  # product seconds: what one damaged place in a file costs at most
RETRY = 60.0  # product seconds between two tries after the disk refused
DEFECT = "defect"


class Sink(Protocol):
    """Where chunks go. Bounded: ``offer`` returns at once, unless the sink says otherwise."""

    @property
    def problem(self) -> str: ...

    def offer(self, data: bytes, first: bool) -> bool: ...

    def close(self, seconds: float) -> None: ...


class Recorder:
    """One agent's life. ``segment``: bytes after which the sink is asked to begin the next one."""

    def __init__(self, sink: Sink, segment: int) -> None:
        self._sink = sink
        self._segment = segment
        self._encoder = Encoder()
        self._packer = Packer()
        self._number = 0
        self._size: Optional[int] = None  # of the present segment; None: the next chunk begins one
        self._key_at: Optional[float] = None  # None: the next document stands by itself
        self._tried_at = 0.0
        self._defect = False
        self._said = ""

    @property
    def problem(self) -> str:
        """Why cycles are not recorded: the sink's word (``full``, ``read-only``, ``overdue`` ...) or ``defect``; empty:
        they are."""
        return DEFECT if self._defect else self._sink.problem

    def record(self, snapshot: Snapshot, decision: Decision, timers: Timers, raw: Mapping[int, bytes]) -> None:
        """``raw``: the slots' bytes from which the snapshot's were decoded. Never raises."""
        self._number += 1
        if self._defect:
            return
        try:
            self._record(snapshot, decision, timers, raw)
        except Exception:  # whatever is wrong with the recording must not end the agent
            log.exception("Cycles are not recorded any more, until the agent starts again", extra={"HE_REASON": DEFECT})
            self._defect = True

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so many wall seconds."""
        self._sink.close(seconds)

    def _record(self, snapshot: Snapshot, decision: Decision, timers: Timers, raw: Mapping[int, bytes]) -> None:
        self._look(snapshot.now)
        if self._said:
            if 0.0 <= snapshot.now - self._tried_at < RETRY:
                return
            self._size = None
        if self._size is None or self._size >= self._segment:
            self._size, self._key_at = 0, None
        since = None if self._key_at is None else snapshot.now - self._key_at
        first, key = self._size == 0, since is None or not 0.0 <= since < KEY_EVERY
        if key:
            document = self._encoder.key(self._number, snapshot, decision, timers, raw)
            self._key_at = self._tried_at = snapshot.now
        else:
            document = self._encoder.following(self._number, snapshot, decision, raw)
        chunk = self._packer.pack(document, key)
        if self._sink.offer(chunk, first):
            self._size += len(chunk)
        else:
            self._size = None
            self._look(snapshot.now)

    def _look(self, now: float) -> None:
        said, self._said = self._said, self._sink.problem
        problem = self._said
        if problem and not said:
            self._tried_at = now
        if problem and problem != said:
            text = "Cycles are not recorded: %s. The agent works on; the next try comes in %.0f s"
            log.error(text, problem, RETRY, extra=throttled("recorder", HE_REASON=problem))
        elif said and not problem:
            log.info("Cycles are recorded again")
