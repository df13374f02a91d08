"""Publishing: this host's slot, the list of live peers, and the mail about a change of state."""

import logging
from dataclasses import replace
from typing import Optional

from ovirt_he_ha.agent.collect import PublishClock
from ovirt_he_ha.client.link import BrokerError, BrokerFault
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Decision, Record, Snapshot, State
from ovirt_he_ha.core.seams import BrokerCalls, Clock
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)

# Free-text keys that change with every second and alone do not make a slot worth a write before the keep-alive.
_RESTLESS = ("why.", "score.cpu", "age.", "timeout", "fence.in")


class Publisher:
    """Writes the slot when its content changed, and at least every ``publish_keepalive`` seconds: peers count 60 s of
    silence as death.

    The write is acknowledged by the broker only once it is on the volume, so ``written_at`` is the truth.
    """

    def __init__(
        self, broker: BrokerCalls, host_id: int, clock: Clock, published: PublishClock, timers: Timers
    ) -> None:
        self._broker = broker
        self._host_id = host_id
        self._clock = clock
        self._published = published
        self._timers = timers
        self._last: Optional[Record] = None
        self._told: Optional[State] = None

    def publish(self, snapshot: Snapshot, decision: Decision) -> None:
        """Raises BrokerUnavailable. A fault (storage, ownership) is logged by its code and shows as
        ``publish_failed_for``."""
        if decision.record is not None and self._due(decision.record, snapshot.now):
            self._write(decision.record, snapshot.wall_offset)
        self._broker.push_hosts_state([self._host_id, *decision.alive])
        self._tell(decision.state, snapshot.host.hostname)

    def _due(self, record: Record, now: float) -> bool:
        last = self._published.written_at
        if last is None or now - last >= self._timers.publish_keepalive - 0.5:
            return True
        return self._last is None or _essence(record) != _essence(self._last)

    def _write(self, record: Record, wall_offset: float) -> None:
        try:
            self._broker.put_stats(self._host_id, slot.encode(record, wall_offset))
        except BrokerFault as e:
            log.error("This host's slot was not written: %s", e, extra={"HE_REASON": str(e.code)})
            return
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
    extra = tuple((k, v) for k, v in record.extra if not k.startswith(_RESTLESS))
    return replace(record, timestamp=0, local_conf_timestamp=0, crc32="", extra=extra)
