"""One snapshot: what the broker, this host's files and the agent's own workers know at this moment."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Dict, Mapping, Optional, Tuple

from ovirt_he_ha.agent.definition_source import Effective
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.files import AgentConf, HaConf, load_ha_conf
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    SLOT_SIZE,
    ActionReport,
    Carried,
    GuardReport,
    HostFacts,
    LeaseId,
    Reading,
    Safeguards,
    Slot,
    Snapshot,
)
from ovirt_he_ha.core.seams import Clock

log = logging.getLogger(__name__)

GOING_DOWN = "the host goes down"


@dataclass(frozen=True)
class Identity:
    """What does not change while the agent runs."""

    host_id: int
    hostname: str
    boot_id: str
    lease: LeaseId
    agent_conf: AgentConf
    version: str


@dataclass(frozen=True)
class Workers:
    """Where the collector asks for what the agent's own threads know; each call returns at once."""

    definition: Callable[[], Effective]
    report: Callable[[], Optional[ActionReport]]
    fencing: Callable[[], str]
    cpu_model: Callable[[], str]
    guard: Callable[[], GuardReport] = GuardReport
    state_problem: Callable[[], str] = str
    ledger_problem: Callable[[], str] = str
    safeguards: Callable[[], Safeguards] = Safeguards
    host_shutdown: Callable[[], Optional[float]] = lambda: None  # product seconds until this host goes down


@dataclass
class PublishClock:
    """When our slot was last seen written; None before the first time."""

    written_at: Optional[float] = field(default=None)


class Collector:
    """Builds the snapshot of one cycle. ``ask`` returns the broker's facts; it raises BrokerError."""

    def __init__(
        self,
        ask: Callable[[], BrokerSnapshot],
        identity: Identity,
        ha_conf: Path,
        workers: Workers,
        clock: Clock,
        published: PublishClock,
    ) -> None:
        self._ask = ask
        self._identity = identity
        self._ha_conf = ha_conf
        self._workers = workers
        self._clock = clock
        self._published = published
        self._ha_problem = ""
        self._flag_off_at: Optional[float] = None  # wall: when the cluster's flag was last seen to be off
        self.raw_slots: Mapping[int, bytes] = {}  # of the last collection, for the recorder
        self._slots = SlotMemo()

    def collect(self, carried: Carried, stopping: bool = False) -> Snapshot:
        """Ask the broker and read the host's files. Raises BrokerError; nothing else."""
        self.raw_slots = {}  # 1 MB of 250 hosts, before there is another one
        facts = self._ask()
        self.raw_slots = facts.slots
        now = self._clock.monotonic()
        slots = self._slots.decode(facts.slots)
        flag = global_flag(facts)
        if flag.value is False:
            self._flag_off_at = self._clock.wall() - (facts.slots_age or 0.0)
        return Snapshot(
            now=now,
            wall_offset=self._clock.wall() - now,
            host=self._host_facts(facts.version, now, flag.value is True),
            slots=frozen_slots(slots),
            slots_age=facts.slots_age,
            global_maintenance=flag,
            monitors=facts.monitors,
            leases=facts.leases,
            carried=carried,
            report=self._workers.report(),
            stopping=stopping,
            publish_failed_for=self._unpublished(now),
            fencing=self._workers.fencing(),
            storage_problem=storage_problem(facts),
            overwritten=facts.publish.overwritten,
            guard=self._workers.guard(),
            state_problem=self._workers.state_problem(),
            ledger_problem=self._workers.ledger_problem(),
        )

    def _unpublished(self, now: float) -> Optional[float]:
        if self._published.written_at is None:
            return None
        silent = now - self._published.written_at
        return silent if silent > 30.0 else None

    def _host_facts(self, broker: str, now: float, flag_on: bool) -> HostFacts:
        identity = self._identity
        effective = self._workers.definition()
        maintenance, conf = self._local_maintenance()
        left = self._workers.host_shutdown()
        if left is not None and maintenance.value is not True:
            maintenance, conf = Reading.of(True), replace(conf, reason=GOING_DOWN)
        # Words from before the flag was last off belong to an earlier maintenance, which somebody ended elsewhere.
        asked_here = flag_on and conf.global_since > (self._flag_off_at or 0.0)
        address = identity.agent_conf.migration_uri or identity.agent_conf.migration_address
        return HostFacts(
            host_id=identity.host_id,
            hostname=identity.hostname,
            boot_id=identity.boot_id,
            local_maintenance=maintenance,
            maintenance_reason=conf.reason,
            end_reason=conf.end_reason,
            global_reason=conf.global_reason if asked_here else "",
            global_since=conf.global_since if asked_here else 0,
            leave_by=None if left is None else now + left,
            memory_needed=effective.memory_mib,
            conf_timestamp=effective.refreshed_at,
            lease=identity.lease,
            definition_problem=effective.problem,
            can_migrate=bool(address) and not effective.problem,
            migration_address=address,
            cpu_model=self._workers.cpu_model(),
            allow_unfenced=identity.agent_conf.allow_unfenced,
            score=identity.agent_conf.score,
            version=identity.version,
            safeguards=replace(self._workers.safeguards(), broker=broker),
        )

    def ha_conf(self) -> HaConf:
        """This host's ``ha.conf`` as it is now. Raises ConfigError."""
        return load_ha_conf(self._ha_conf)

    def _local_maintenance(self) -> Tuple[Reading[bool], HaConf]:
        try:
            conf = self.ha_conf()
        except ConfigError as e:
            if str(e) != self._ha_problem:
                log.error("%s. Until then this host neither starts nor moves the VM", e)
                self._ha_problem = str(e)
            return Reading.missing("ha-conf"), HaConf()
        self._ha_problem = ""
        return Reading.of(conf.maintenance), conf


class SlotMemo:
    """Slots as they were decoded last: one whose bytes are the same is not decoded again. Between two cycles of all
    hosts (a wake-up by one of them) nearly all are. What is kept of the bytes is without the NULs at their end."""

    def __init__(self) -> None:
        self._last: Dict[int, Tuple[Tuple[int, bytes], Slot]] = {}

    def decode(self, raw: Mapping[int, bytes]) -> Dict[int, Slot]:
        """Like ``decode_slots``."""
        before, self._last = self._last, {}
        for host_id, data in raw.items():
            if host_id == GLOBAL_SLOT:
                continue
            content, last = _content(data), before.get(host_id)
            if last is None or last[0] != content:
                last = content, slot.decode(host_id, data)
            self._last[host_id] = last
        return {host_id: found for host_id, (_, found) in self._last.items()}


def _content(data: bytes) -> Tuple[int, bytes]:
    """As much as tells two slots apart: the length, and everything up to the NULs at the end."""
    end = data.find(b"\0", slot.LINE_SIZE)
    return len(data), data[:end] if end >= 0 and _NULS.startswith(data[end:]) else data


_NULS = bytes(SLOT_SIZE)


def decode_slots(raw: Mapping[int, bytes]) -> Dict[int, Slot]:
    """Every slot but 0, each by itself: one bad slot is one bad host."""
    return {host_id: slot.decode(host_id, data) for host_id, data in raw.items() if host_id != GLOBAL_SLOT}


def frozen_slots(slots: Dict[int, Slot]) -> Mapping[int, Slot]:
    return MappingProxyType(dict(sorted(slots.items())))


def storage_problem(facts: BrokerSnapshot) -> str:
    """The named state of the volume, of the last read or the last write; empty when both work."""
    return facts.publish.problem if facts.storage.state == "ok" else facts.storage.state


def global_flag(facts: BrokerSnapshot) -> Reading[bool]:
    """Slot 0 as last read. Not read yet, or not recently (60 s), is unknown: then nobody starts, stops or moves."""
    if facts.slots_age is None:
        return Reading.missing("not-yet")
    if facts.slots_age > 60.0:
        return Reading.missing("overdue", facts.slots_age)
    data = facts.slots.get(GLOBAL_SLOT)
    if data is None:
        return Reading.missing("not-read", facts.slots_age)  # every read of the volume covers it, also when it is blank
    return slot.decode_global(data)
