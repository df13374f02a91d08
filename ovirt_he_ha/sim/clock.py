"""Virtual time: one queue of events, and the clocks that the hosts read.

Time is counted in whole nanoseconds, and events of the same instant run in the order in which they were made, so
that a run depends on nothing but its input. Nothing waits: a call of the product that takes time (a read of a slow
volume) is done at once, and adds what it took to :attr:`Timeline.lag`. Every clock shows that, and what the same event
schedules comes after it.
"""

import heapq
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from ovirt_he_ha.config.clock import SystemClock

SECOND = 1_000_000_000
NEVER = float("inf")
SHORTEST = 0.001  # seconds between two turns: what is due "now" by a rounded clock must not stop time
Action = Callable[[], None]
_push = heapq.heappush


class Still(type(threading.RLock())):  # type: ignore[misc]
    """A condition of the product where nothing runs beside it: nobody waits, and nobody is to be told."""

    def notify_all(self) -> None: ...


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


def stamp(moment: int) -> str:
    """Seconds with three places, by integers alone."""
    sign, milliseconds = ("-", -moment) if moment < 0 else ("", moment)
    milliseconds //= 1_000_000
    return f"{sign}{milliseconds // 1000}.{milliseconds % 1000:03d}"


class Scope:
    """Whose events these are: a process, or a whole machine (``root`` is itself then). When it ends, none of its
    events comes any more. While its machine is held (a stun, a suspend), they wait, and come when it goes on."""

    __slots__ = ("alive", "far", "held", "root", "waiting")

    def __init__(self, root: "Optional[Scope]" = None) -> None:
        self.alive = True
        self.held = False
        self.root: Scope = self if root is None else root
        self.waiting: List[Tuple[Scope, Action]] = []
        self.far: Dict[Beat, None] = {}  # of a root: whose next turns are left out

    @property
    def running(self) -> bool:
        return self.alive and self.root.alive and not self.root.held

    def end(self) -> None:
        self.alive = False
        self.waiting.clear()


# One event in the queue: [moment, number, scope, action, when it was made]. A list, because the queue compares
# thousands of them in a second; the number is unique, so nothing behind it is ever compared. Without an action it does
# not come.
Entry = List[Any]


class Timeline:
    """``now``: when the running event began; ``lag``: what its calls have taken since; ``shown``: both together, which
    is what clocks show. ``after_each`` is called after each event that has set ``touched``."""

    def __init__(self) -> None:
        self.now = 0
        self.shown = 0
        self.made = 0  # when the running event was made
        self.events = 0  # that have come, at the end of a run
        self.stopped = False
        self.touched = True
        self.after_each: Action = lambda: None
        self.queue: List[Entry] = []  # for a Beat, too
        self.count = 0  # events that were made

    @property
    def lag(self) -> int:
        return self.shown - self.now

    def at(self, moment: int, action: Action, scope: Optional[Scope] = None) -> Entry:
        self.count = count = self.count + 1
        now = self.now
        entry = [moment if moment > now else now, count, scope, action, now]
        _push(self.queue, entry)
        return entry

    def after(self, seconds: float, action: Action, scope: Optional[Scope] = None) -> Entry:
        """So many world seconds after the running event has ended."""
        return self.at(self.shown + round(seconds * SECOND), action, scope)

    def cancel(self, entry: Entry) -> None:
        """It does not come."""
        entry[3] = None

    def spend(self, seconds: float) -> None:
        """The call that is being made takes so long."""
        self.shown += round(seconds * SECOND)

    def hold(self, scope: Scope) -> None:
        for beat in list(scope.root.far):
            beat.land()
        scope.held = True

    def go_on(self, scope: Scope) -> None:
        """What came due meanwhile comes now, in its order."""
        scope.held = False
        waiting, scope.waiting = scope.waiting, []
        for owner, action in waiting:
            self.at(self.now, action, owner)

    def run(self, until: int) -> None:
        queue, pop, events = self.queue, heapq.heappop, 0
        try:
            while queue and not self.stopped:
                entry = pop(queue)
                moment, _, scope, action, made = entry
                if moment > until:
                    _push(queue, entry)
                    break
                if action is None:
                    continue
                if scope is not None:
                    root = scope.root
                    if not (scope.alive and root.alive):
                        continue
                    if root.held:
                        root.waiting.append((scope, action))
                        continue
                self.now = self.shown = moment
                self.made = made
                events += 1
                action()
                if self.touched:
                    self.touched = False
                    self.after_each()
        finally:
            self.events += events
        if not self.stopped:
            self.now = self.shown = max(self.now, until)


class Standing:
    """Time as a machine that sleeps sees it."""

    def __init__(self, shown: int) -> None:
        self.shown = shown


class HostClock(SystemClock):
    """One machine's monotonic clock: its own zero, its own rate (1.0 is right; sanlock's margins bear a few per
    mille). A suspended machine's stands still, as Linux's does, and ``slept`` counts."""

    def __init__(self, timeline: Timeline, uptime: float, rate: float = 1.0, wall: float = 1.7e9) -> None:
        self.scale = 1.0
        self.rate = rate
        self.slept = 0.0
        self.born = timeline.now
        self._timeline = timeline
        self._time: Union[Timeline, Standing] = timeline
        self._base = uptime
        self._since = timeline.now
        self._per_ns = rate * 1e-9
        self._wall = wall
        self._suspended_at: Optional[int] = None

    def monotonic(self) -> float:
        return self._base + (self._time.shown - self._since) * self._per_ns

    def at(self, moment: int) -> float:
        """What it will show at that moment of the world, if nothing stands still until then."""
        return self._base + (moment - self._since) * self._per_ns

    def wall(self) -> float:
        return self._wall + self._timeline.now * 1e-9

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock; the product must not notice."""
        self._wall += seconds

    def world(self, product_seconds: float) -> float:
        """World seconds in which this clock moves on by so many."""
        return product_seconds / self.rate

    def suspend(self) -> None:
        self._suspended_at = self._timeline.now
        self._time = Standing(self._suspended_at)

    def resume(self) -> None:
        if self._suspended_at is None:
            return
        gone = self._timeline.now - self._suspended_at
        self._since += gone
        self.slept += gone * 1e-9
        self._suspended_at = None
        self._time = self._timeline


class Beat:
    """Something that comes again and again: an action that says, each time, after how many world seconds it is due
    again (None: not before somebody calls :meth:`wake`)."""

    def __init__(self, timeline: Timeline, scope: Scope, action: Callable[[], Optional[float]]) -> None:
        self._timeline = timeline
        self._scope = scope
        self._action = action
        self._come = self._turn
        self._entry: Optional[Entry] = None
        self._busy_until = 0
        self._turning = False
        self._woken: Optional[float] = None  # seconds, by the action itself
        self._left_out: List[int] = []  # moments before that of the entry
        self._leap: Optional[Tuple[List[int], int]] = None
        self._leapt_at = 0
        self._due = 0.0  # what the last turn said, and in nanoseconds
        self._ahead = ns(SHORTEST)

    @property
    def asleep(self) -> bool:
        return self._entry is None and not self._turning

    def wake(self, after: float = 0.0) -> None:
        """Come in so many seconds at the latest, but not before the present turn has ended."""
        if self._turning:
            self._woken = after if self._woken is None else min(self._woken, after)
            return
        self.land()
        timeline, entry = self._timeline, self._entry
        moment = max(timeline.shown, self._busy_until) + round(after * SECOND)
        if entry is not None:
            if entry[0] <= moment:
                return
            entry[3] = None
        self._entry = timeline.at(moment, self._come, self._scope)

    def stop(self) -> None:
        if self._entry is not None:
            self._timeline.cancel(self._entry)
            self._entry = None

    def leave_out(self, moments: List[int], until: int) -> None:
        """For the action of a turn that ends: nothing happens in the turns of these moments, so the next one comes at
        ``until``. Whoever makes something happen meanwhile calls :meth:`land`."""
        self._leap = (moments, until)

    def land(self) -> None:
        """No turn is left out any more: the next one comes when it would have come."""
        moments = self._left_out
        if not moments:
            return
        self._left_out = []
        self._scope.root.far.pop(self, None)
        timeline, entry, before = self._timeline, self._entry, self._leapt_at
        for moment in moments:
            # Of two events of one instant that comes first which was made first, as this turn at the one before it.
            if moment > timeline.now or (moment == timeline.now and timeline.made <= before):
                if entry is not None:
                    entry[3] = None
                    self._entry = timeline.at(moment, self._come, self._scope)
                return
            before = moment

    def _turn(self) -> None:
        timeline = self._timeline
        self._entry = None
        if self._left_out:
            self._left_out = []
            self._scope.root.far.pop(self, None)
        self._turning = True
        try:
            due = self._action()
        finally:
            self._turning = False
            self._busy_until = free = timeline.shown
        if due is not None:
            if self._leap is None:
                if due != self._due:
                    self._due = due  # most ask for the same again and again
                    self._ahead = round((due if due > SHORTEST else SHORTEST) * SECOND)
                moment = free + self._ahead
            else:
                moment = self._leave_them()
            # As timeline.at; nearly all events are made here.
            timeline.count = count = timeline.count + 1
            self._entry = entry = [moment, count, self._scope, self._come, timeline.now]
            _push(timeline.queue, entry)
        if self._woken is not None:
            woken, self._woken = self._woken, None
            self.wake(woken)

    def _leave_them(self) -> int:
        """The turns that the action wants to be left out; the moment of the next one."""
        assert self._leap is not None
        self._left_out, moment = self._leap
        self._leap = None
        self._leapt_at = self._timeline.now
        self._scope.root.far[self] = None
        return moment


__all__ = ["NEVER", "SECOND", "SHORTEST", "Beat", "Entry", "HostClock", "Scope", "Still", "Timeline", "ns", "stamp"]
