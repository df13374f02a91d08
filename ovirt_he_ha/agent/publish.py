"""Publishing: this host's slot, the list of live peers, and the mail about a change of state."""

import logging
import threading
from dataclasses import replace
from typing import Callable, Optional, Tuple

from ovirt_he_ha.agent.collect import PublishClock
from ovirt_he_ha.client.link import BrokerError
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Decision, Record, Snapshot, State
from ovirt_he_ha.core.seams import BrokerCalls, Clock
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)

# Free-text keys that change with every second and alone do not make a slot worth a write before the keep-alive.
_RESTLESS = ("why.", "score.cpu", "age.", "timeout", "fence.in", "up.since", "wall")


# wall seconds that a cycle waits for its write: a write that works takes 5-20 ms, and a hung one must not delay the
# next cycle, which may have to kill a VM that the same storage paused
WRITE_WAIT = 0.25

Launch = Callable[[Callable[[], None]], None]


def at_once(write: Callable[[], None]) -> None:
    """On the caller's thread."""
    write()


def beside(write: Callable[[], None]) -> None:
    """On a thread of its own; the caller waits for it a moment."""
    thread = threading.Thread(target=write, name="publish", daemon=True)
    thread.start()
    thread.join(WRITE_WAIT)


class Publisher:
    """Writes the slot when its content changed, and at least every ``publish_keepalive`` seconds: peers count 60 s of
    silence as death.

    The write is acknowledged by the broker only once it is on the volume, so ``written_at`` is the truth. ``launch``
    runs the writing: one at a time; of the records that come meanwhile, the last one is written next.
    """

    def __init__(
        self,
        broker: BrokerCalls,
        host_id: int,
        clock: Clock,
        published: PublishClock,
        timers: Timers,
        launch: Launch = at_once,
    ) -> None:
        self._broker = broker
        self._host_id = host_id
        self._clock = clock
        self._published = published
        self._timers = timers
        self._launch = launch
        self._changed = threading.Condition()
        self._next: Optional[Tuple[Record, bytes]] = None
        self._writing = False
        self._offered: Optional[Record] = None
        self._last: Optional[Record] = None
        self._told: Optional[State] = None

    def publish(self, snapshot: Snapshot, decision: Decision) -> None:
        """Raises BrokerUnavailable. A write that fails (storage, ownership) is logged by its code, and it and one that
        hangs show as ``publish_failed_for``."""
        if decision.record is not None and self._due(decision.record, snapshot.now):
            self._offer(decision.record, slot.encode(decision.record, snapshot.wall_offset))
        self._broker.push_hosts_state([self._host_id, *decision.alive])
        self._tell(decision.state, snapshot.host.hostname)

    def settle(self, seconds: float) -> bool:
        """Wait at most so many wall seconds for the writes under way. True if the last record that was to be written is
        on the volume."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing, seconds)
            return not self._writing and self._offered is not None and self._offered is self._last

    def _due(self, record: Record, now: float) -> bool:
        last = self._published.written_at
        if last is None or now - last >= self._timers.publish_keepalive - 0.5:
            return True
        return self._last is None or _essence(record) != _essence(self._last)

    def _offer(self, record: Record, data: bytes) -> None:
        with self._changed:
            self._next, self._offered = (record, data), record
            if self._writing:
                return
            self._writing = True
        try:
            self._launch(self._write_all)
        except RuntimeError as e:  # no thread left: the next cycle tries again
            log.error("This host's slot was not written: %s", e)
            self._done()

    def _write_all(self) -> None:
        try:
            while True:
                with self._changed:
                    item, self._next = self._next, None
                    if item is None:
                        self._writing = False
                        self._changed.notify_all()
                        return
                self._write(*item)
        except BaseException:
            self._done()
            raise

    def _done(self) -> None:
        with self._changed:
            self._writing = False
            self._changed.notify_all()

    def _write(self, record: Record, data: bytes) -> None:
        try:
            self._broker.put_stats(self._host_id, data)
        except BrokerError as e:
            code = getattr(e, "code", "")
            log.error("This host's slot was not written: %s", e, extra=throttled("write", HE_REASON=str(code)))
            return
        with self._changed:
            self._last = record
            self._published.written_at = self._clock.monotonic()

    def _tell(self, state: State, hostname: str) -> None:
        told, self._told = self._told, state
        if told is None or told == state:
            return
        log.info("%s -> %s", told.value, state.value, extra={"HE_STATE": state.value, "HE_OLD_STATE": told.value})
        try:
            self._broker.notify("state_transition", f"{told.value}-{state.value}", {"hostname": hostname})
        except BrokerError as e:
            log.warning("The change of state was not mailed: %s", e)


def _essence(record: Record) -> Record:
    extra = tuple([pair for pair in record.extra if not pair[0].startswith(_RESTLESS)])
    return replace(record, timestamp=0, local_conf_timestamp=0, crc32="", extra=extra)
