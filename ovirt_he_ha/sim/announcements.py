"""Every order of our hosts, compared with what its host had published before: the step with its time, the event that it
waited for, or how it reacts to what could not be foreseen."""

from collections import Counter, deque
from typing import Deque, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core import forecast as fc
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.forecast import Step, forecast
from ovirt_he_ha.core.model import Action, Decision, Record, Snapshot
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.world import World

# One cycle, and a second for the wake-up, whole seconds and the way to the volume.
CYCLE = Timers.cycle + 1.0
STALE = Timers.facts_stale
KEPT = 30  # records of one host: five minutes at least

ANNOUNCED_AS: Mapping[str, Tuple[str, ...]] = {
    "start": (fc.START,),
    "stop": (fc.STOP, fc.MOVE),
    "power-off": (fc.POWER_OFF,),
    "migrate": (fc.MOVE,),
}

# What a reaction may be the reaction to: codes of the decision that orders it.
CAUSES: Mapping[str, FrozenSet[str]] = {
    "vm-crash": frozenset({"crash"}),
    "vm-ends": frozenset({"guest-shutdown", "requested-stop", "lease-lost", "migrated-away", "never-came-up"}),
    "vm-appears": frozenset({"adopted"}),
    "migration-fails": frozenset({"migration-error", "migration-failed"}),
    "power-off-fails": frozenset({"power-off-failed"}),
}


class Published(NamedTuple):
    at: float
    data: bytes


class Announcements:
    """``complaints``: orders that nobody could have expected. ``verdicts``: how each one was announced. ``errors``:
    seconds between the announced moment and the order, for those that had one."""

    def __init__(self) -> None:
        self.complaints: List[str] = []
        self.verdicts: Counter[Tuple[str, str]] = Counter()
        self.errors: List[float] = []
        self._since = 0.0
        self._slots: Dict[int, Deque[Published]] = {}
        self._ordered: Dict[int, float] = {}

    def tweak(self, world: World) -> None:
        """For ``run``."""
        written, ordered = world.volume.on_write, world.ordered

        def write(writer: int, slot_id: int, data: bytes) -> None:
            written(writer, slot_id, data)
            if slot_id and writer:
                self._slots.setdefault(slot_id, deque(maxlen=KEPT)).append(Published(world.now, bytes(data)))

        def order(host: Host, cycle: Cycle, action: Action) -> None:
            self._judge(world.now, host, cycle, action)
            ordered(host, cycle, action)

        world.volume.on_write = write
        world.ordered = order  # type: ignore[method-assign]

    def _judge(self, now: float, host: Host, cycle: Cycle, action: Action) -> None:
        assert cycle.before is not None and cycle.decided is not None
        kind, said = action.kind.value, self._said(host.conf_id)
        self._since = self._ordered.get(host.number, 0.0)
        self._ordered[host.number] = now
        verdict = self._verdict(now, kind, said, cycle.before, cycle.decided)
        self.verdicts[kind, verdict.partition(":")[0]] += 1
        if ":" in verdict:
            self.complaints.append(f"{now:.1f} host{host.number} orders {kind}: {verdict}")

    def _said(self, host_id: int) -> List[Tuple[float, Record]]:
        found = [(each.at, slot.decode(host_id, each.data)) for each in self._slots.get(host_id, ())]
        return [(at, record) for at, record in found if isinstance(record, Record)]

    def _verdict(
        self, now: float, kind: str, said: List[Tuple[float, Record]], before: Snapshot, decided: Decision
    ) -> str:
        """A word, or a word with a colon and what is wrong."""
        if not said or now - said[-1][0] > STALE:
            excused = before.publish_failed_for is not None or before.storage_problem or not said
            return "not to be read" if excused else f"silent: published nothing for {now - said[-1][0]:.0f} s"
        at, record = said[-1]
        step = _step(record, kind)
        problem = "nothing: " + _quoted(record) if step is None else _missed(now - at, step)
        if step is not None and not problem:
            return self._accepted(now, kind, said, step)
        if _reaction(record, kind, before, decided):
            return "reaction"
        return f"{problem}; decided {[reason.code for reason in decided.reasons]}"

    def _accepted(self, now: float, kind: str, said: List[Tuple[float, Record]], step: Step) -> str:
        """Also what was said since the last order must have been right, as long as nothing joined that it did not know
        of."""
        codes: FrozenSet[str] = frozenset()
        for at, record in reversed(said):
            earlier = _step(record, kind)
            if earlier is None or at < self._since:
                break
            known = frozenset(wait.why.code for wait in earlier.waits)
            if not codes <= known:
                break
            codes |= known
            if earlier.at is not None:
                self.errors.append(now - at - earlier.at)
                late = now - at - earlier.at
                if late > CYCLE:
                    return f"late: {now - at:.0f} s before the order it was to come {late:.0f} s earlier: " + _quoted(
                        record
                    )
        return "time" if step.at is not None else "event"


def _step(record: Record, kind: str) -> Optional[Step]:
    return next((each for each in forecast(record).steps if each.action in ANNOUNCED_AS[kind]), None)


def _missed(since: float, step: Step) -> str:
    """``since``: seconds from the publication to the order."""
    if since < step.earliest - CYCLE:
        return f"early: {since:.0f} s after it was said to come in {step.earliest:.0f} s or later"
    if step.at is not None and since > step.at + CYCLE:
        return f"late: {since:.0f} s after it was said to come in {step.at:.0f} s"
    if step.at is None and not step.events:
        return "nothing: neither a time nor an event"
    return ""


def _reaction(record: Record, kind: str, before: Snapshot, decided: Decision) -> bool:
    codes = {reason.code for reason in decided.reasons}
    for event, action in forecast(record).reactions:
        if action not in ANNOUNCED_AS[kind]:
            continue
        if event == "local-maintenance" and before.host.local_maintenance.value is True:
            return True
        if codes & CAUSES.get(event, frozenset()):
            return True
    return False


def _quoted(record: Record) -> str:
    lines = [f"{key}={value}" for key, value in record.extra if key == "state" or key.startswith("why.")]
    return " ".join(lines)
