"""The engine VM's status: what libvirt says of the VM here, the health page, and whether the guest gets anywhere."""

import threading
from dataclasses import dataclass, replace
from typing import Callable, Optional, Protocol

from ovirt_he_ha.broker.monitors.frame import Unmeasured, wall_seconds
from ovirt_he_ha.broker.monitors.guest_progress import GuestProgress, Look
from ovirt_he_ha.broker.monitors.health_page import PageResult
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Exit, Health, Reading, Vm
from ovirt_he_ha.core.seams import Clock

# The VM is here, but its guest does not answer (yet): no question is put to it.
SILENT = frozenset({"Paused", "WaitForLaunch", "Restoring state", "Powering up"})
ARRIVING = "Migration Destination"
NOT_ASKED = PageResult(Health.BAD, "the health page has not been asked")


class EngineSource(Protocol):
    """The watch over libvirt. Bounded: ``facts`` returns at once, ``stop`` by its deadline (product seconds).
    ``on_change`` is called on a thread of the watch at every event and every change that its polling finds."""

    def start(self, on_change: Callable[[], None]) -> None: ...

    def stop(self, deadline: float) -> None: ...

    def facts(self) -> Reading[EngineFacts]:
        """``status.vm`` is UP or something else, ``status.detail`` the field's word; health and ``bad_for`` are not
        its."""
        ...


class StatusTable:
    """The words of the shared slot, from one look to the next: ``down`` (nothing was lost), ``down_unexpected`` (it ran
    here and went down, on request too: that is how the field says it), ``down_missing`` (it ran here and vanished
    without a word). The latter two last until the VM is seen up, moves to another host or fails to start."""

    def __init__(self) -> None:
        self._last = Vm.DOWN

    def absent(self, facts: EngineFacts) -> EngineStatus:
        """Nothing runs here, or only the receiving end of a migration."""
        if facts.status.detail == ARRIVING or facts.incoming:
            return self._gone(ARRIVING, facts)
        if facts.last_exit is Exit.NONE or facts.status.vm is Vm.DOWN_MISSING:
            self._last = Vm.DOWN_MISSING if self._last is Vm.UP else self._last
            return EngineStatus(self._last, Health.BAD, "unknown", facts.status.reason)
        if facts.last_exit in (Exit.MIGRATED, Exit.FAILED):
            # It runs on another host, or its lease does: a start that failed never ran the VM, so nothing was lost.
            self._last = Vm.DOWN
            return EngineStatus(Vm.DOWN, Health.BAD, "Down", facts.status.reason)
        return self._gone("Down", facts)

    def present(self, facts: EngineFacts, page: PageResult) -> EngineStatus:
        self._last = Vm.UP
        good = page.health is Health.GOOD
        return EngineStatus(
            Vm.UP,
            Health.GOOD if good else Health.BAD,
            facts.status.detail,
            "" if good else facts.status.reason or page.why,
        )

    def _gone(self, detail: str, facts: EngineFacts) -> EngineStatus:
        self._last = Vm.DOWN if self._last is Vm.DOWN else Vm.DOWN_UNEXPECTED
        return EngineStatus(self._last, Health.BAD, detail, facts.status.reason)


@dataclass(frozen=True)
class PageSample:
    """One answer of the health page. ``began``, ``at``: product seconds; ``copy``: of which copy of the VM it was
    asked."""

    copy: int
    began: float
    at: float
    result: PageResult


class PageProbe:
    """Asks the health page, on its own monitor thread, as long as a VM is here to be asked."""

    def __init__(self, fetch: Callable[[], PageResult], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._copy: Optional[int] = None

    def want(self, copy: Optional[int]) -> bool:
        """Which copy to ask from now on; None: nobody. Returns whether that is news."""
        with self._lock:
            changed, self._copy = copy != self._copy, copy
            return changed

    def measure(self) -> PageSample:
        """Raises Unmeasured ``no-vm``, or what the fetch raises."""
        with self._lock:
            copy = self._copy
        if copy is None:
            raise Unmeasured("no-vm")
        began = self._clock.monotonic()
        result = self._fetch()
        return PageSample(copy, began, self._clock.monotonic(), result)


def page_changed(old: Reading[PageSample], new: Reading[PageSample]) -> bool:
    """Worth another look at the engine: another verdict, or one of another copy."""
    if old.value is None or new.value is None:
        return new.unknown != old.unknown
    return (old.value.copy, old.value.result.health) != (new.value.copy, new.value.result.health)


class BadTime:
    """For how long the page was *measured* to be bad. Time in which it could not be measured is not counted:
    unknown never adds up to a restart."""

    def __init__(self) -> None:
        self._bad = 0.0
        self._last: Optional[PageSample] = None

    def reset(self) -> None:
        self._bad, self._last = 0.0, None

    def observe(self, sample: Optional[PageSample]) -> None:
        """The newest sample of this copy; None: not measured now."""
        if sample is None:
            self._last = None
        elif sample.result.health is Health.GOOD:
            self._bad, self._last = 0.0, sample
        elif self._last is None or self._last.at != sample.at:
            follows = self._last is not None and self._last.result.health is Health.BAD
            since = self._last.at if follows and self._last is not None else sample.began
            self._bad += max(0.0, sample.at - since)
            self._last = sample

    def seconds(self, now: float) -> float:
        """Product seconds of bad health since the last good answer (or since this copy was first asked)."""
        going_on = self._last is not None and self._last.result.health is Health.BAD
        return self._bad + (max(0.0, now - self._last.at) if going_on and self._last is not None else 0.0)


class Engine:
    """Combines the three. One thread calls :meth:`measure`; it never blocks on the page or on libvirt."""

    def __init__(
        self,
        source: EngineSource,
        page: Callable[[], Reading[PageSample]],
        ask_page: Callable[[Optional[int]], None],
        clock: Clock,
        times: ProcessTimes,
    ) -> None:
        """``page``: the last answer; ``ask_page``: which copy to ask from now on."""
        self._source = source
        self._page = page
        self._ask_page = ask_page
        self._clock = clock
        self._times = times
        self._table = StatusTable()
        self._bad = BadTime()
        self._progress = GuestProgress()
        self._copy = 0
        self._pid: Optional[int] = None
        self._present = False
        self._lag = 0.0
        self._answered = False  # the page gave a verdict on some copy since this broker looks
        self._seen_absent = False
        self._verdict = NOT_ASKED

    def measure(self) -> EngineFacts:
        """Raises Unmeasured: the source's code while libvirt tells nothing, ``not-yet`` until the page of a VM that
        was found running has answered for the first time (a healthy engine must not look bad because a broker
        restarted)."""
        reading = self._source.facts()
        facts = reading.value
        if facts is None:
            raise Unmeasured(reading.unknown or "error")
        self._lag = reading.age or 0.0
        if facts.status.vm is Vm.UNKNOWN:
            return self._measure_ended(facts)
        if facts.status.vm is not Vm.UP or facts.status.detail == ARRIVING:
            return self._measure_absent(facts)
        return self._measure_present(facts)

    def lag(self) -> float:
        """How old the source's reading was at the last measurement, in product seconds."""
        return self._lag

    def _measure_ended(self, facts: EngineFacts) -> EngineFacts:
        """It has ended here, and libvirt has not said why yet: the next look tells which kind of ``down`` it is."""
        self._leave()
        status = EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "unknown", facts.status.reason)
        return replace(facts, status=status, bad_for=None, stalled_for=None)

    def _measure_absent(self, facts: EngineFacts) -> EngineFacts:
        self._leave()
        return replace(facts, status=self._table.absent(facts), bad_for=None, stalled_for=None)

    def _leave(self) -> None:
        self._seen_absent = True
        self._present = False
        self._bad.reset()
        self._progress.forget()
        self._ask_page(None)

    def _measure_present(self, facts: EngineFacts) -> EngineFacts:
        self._follow_copy(facts)
        stalled = self._stalled_for(facts)
        if facts.status.detail in SILENT:
            self._ask_page(None)
            self._bad.observe(None)
            status = self._table.present(facts, NOT_ASKED)
            return replace(facts, status=status, bad_for=self._bad_for(), stalled_for=stalled)
        self._ask_page(self._copy)
        self._take_page()
        if not (self._answered or self._seen_absent):
            raise Unmeasured("not-yet")
        status = self._table.present(facts, self._verdict)
        return replace(facts, status=status, bad_for=self._bad_for(), stalled_for=stalled)

    def _follow_copy(self, facts: EngineFacts) -> None:
        """A VM that came, or whose process is another one, is another copy: nothing known of the last one holds for
        it."""
        other_process = None not in (facts.pid, self._pid) and facts.pid != self._pid
        if not self._present or other_process:
            self._copy += 1
            self._bad.reset()
            self._verdict = NOT_ASKED
        self._present = True
        self._pid = facts.pid

    def _take_page(self) -> None:
        """The page's verdict on this copy. While it cannot be measured the last one stands: peers of the cluster
        accept only good or bad from a VM that is up, and :class:`BadTime` does not count it."""
        reading = self._page()
        sample = reading.value if reading.value is not None and reading.value.copy == self._copy else None
        self._bad.observe(sample)
        if sample is not None:
            self._verdict = sample.result
        if sample is not None or reading.unknown not in ("", "not-yet", "no-vm"):
            self._answered = True

    def _bad_for(self) -> float:
        return self._bad.seconds(self._clock.monotonic())

    def _stalled_for(self, facts: EngineFacts) -> Optional[float]:
        """Product seconds. What the source says where it hands over no counters and no pid."""
        if facts.counters is None and facts.pid is None:
            return facts.stalled_for
        now = wall_seconds(self._clock, self._clock.monotonic())
        self._progress.observe(self._look(now, facts))
        stalled = self._progress.stalled_for(now)
        return None if stalled is None else stalled * self._clock.scale

    def _look(self, now: float, facts: EngineFacts) -> Look:
        used = None if facts.pid is None else self._times.used(facts.pid)
        counters = facts.counters
        return Look(
            at=now,
            copy=self._copy,
            demand=None if facts.pid is None else self._times.vcpu_demand(facts.pid),
            used=None if used is None else float(used[1]),
            counted_at=None if counters is None else wall_seconds(self._clock, counters.at),
            requests=None if counters is None else counters.block_requests,
            counted_cpu=None if counters is None else counters.cpu_seconds,
        )


def aged(reading: Reading[EngineFacts], lag: float) -> Reading[EngineFacts]:
    """The same facts for a reader of now: the clocks that run by themselves are moved on by the reading's age, so
    that an exit's moment is the same in every reading of it. What is counted from evidence (``bad_for``,
    ``stalled_for``) stays. ``lag``: seconds that the source had not looked when it was asked; they make the reading
    older, not its clocks."""
    facts, age = reading.value, reading.age
    if facts is None or age is None:
        return reading
    if facts.exit_age is facts.uptime is facts.paused_for is None:
        return Reading(facts, age + lag, reading.unknown)  # a host that never had the VM has no clock to move
    later = replace(
        facts,
        exit_age=_later(facts.exit_age, age),
        uptime=_later(facts.uptime, age),
        paused_for=_later(facts.paused_for, age),
    )
    return Reading(later, age + lag, reading.unknown)


def _later(clock: Optional[float], age: float) -> Optional[float]:
    return None if clock is None else clock + age


def engine_changed(old: Reading[EngineFacts], new: Reading[EngineFacts]) -> bool:
    """Any change of the status, of the copy, or of how it is on its way; not the clocks, which run all the time."""
    if old.value is None or new.value is None:
        return old.known != new.known or old.unknown != new.unknown
    return _shape(old.value) != _shape(new.value)


def _shape(facts: EngineFacts) -> EngineFacts:
    return replace(
        facts,
        exit_age=None,
        uptime=None,
        paused_for=None,
        bad_for=None,
        stalled_for=None,
        counters=None,
    )
