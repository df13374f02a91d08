"""Does the guest get anywhere? The second signal of a hung engine, beside its health page.

A crashed kernel leaves the domain ``running``. It either does nothing (halted, or its qemu is stopped), or one
virtual CPU spins at 100 % for ever (a panic without reboot: measured, 100 %, no disk request). A working guest is
neither for long: it computes at some other rate, or it writes to its disk.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

IDLE = 0.05  # of one virtual CPU: a halted guest's timer, emulated, costs 3 to 4 %
PINNED = 0.95  # of one virtual CPU, waiting for a CPU of the host included
SHORTEST = 2.0  # wall seconds between two looks that can be compared
STALE = 30.0  # wall seconds after which the last comparison says nothing any more


@dataclass(frozen=True)
class Look:
    """The guest at one moment. All times in wall seconds. ``copy`` tells one copy of the VM from another.

    ``demand``: per virtual CPU, seconds it ran or waited to run. ``used``: CPU seconds of the whole process.
    ``counted_at`` and ``requests``: libvirt's block counters and when they were read; ``counted_cpu``: its CPU
    counter.
    """

    at: float
    copy: int
    demand: Optional[Tuple[float, ...]] = None
    used: Optional[float] = None
    counted_at: Optional[float] = None
    requests: Optional[int] = None
    counted_cpu: Optional[float] = None


def crash_like(rates: Tuple[float, ...]) -> bool:
    """Every virtual CPU is either idle or pinned."""
    return all(rate <= IDLE or rate >= PINNED for rate in rates)


def crash_like_sum(rate: float) -> bool:
    """The same of the sum of all virtual CPUs: about 0, or about a whole number of them."""
    return rate <= IDLE or (rate >= PINNED and abs(rate - round(rate)) <= IDLE)


def _rates(before: Look, after: Look) -> Optional[Tuple[float, ...]]:
    if before.demand is None or after.demand is None or len(before.demand) != len(after.demand):
        return None
    return tuple((b - a) / (after.at - before.at) for a, b in zip(before.demand, after.demand))


def _cpu_stands(before: Look, after: Look) -> Optional[bool]:
    rates = _rates(before, after)
    if rates is not None:
        return crash_like(rates)
    if before.counted_cpu is None or after.counted_cpu is None or before.counted_at is None or after.counted_at is None:
        return None
    return crash_like_sum((after.counted_cpu - before.counted_cpu) / (after.counted_at - before.counted_at))


def _counted(before: Look, after: Look) -> bool:
    """Were the block counters read anew, long enough after the first reading?"""
    if before.requests is None or after.requests is None or before.counted_at is None or after.counted_at is None:
        return False
    return after.counted_at - before.counted_at >= SHORTEST


def stands_still(before: Look, after: Look) -> Optional[bool]:
    """No disk request between the two looks, and every virtual CPU idle or pinned. None: cannot be told.

    Without fresh block counters (a stopped qemu does not answer libvirt) only a process that used no CPU time at all is
    known to stand still: it cannot have read or written either.
    """
    if _counted(before, after):
        return False if before.requests != after.requests else _cpu_stands(before, after)
    if before.used is not None and after.used is not None and before.used == after.used:
        return True
    return None


class GuestProgress:
    """Fed with looks in order of time, one thread."""

    def __init__(self) -> None:
        self._base: Optional[Look] = None
        self._since: Optional[float] = None
        self._known = False

    def observe(self, look: Look) -> None:
        """A look at the running VM. One of another copy starts anew."""
        if self._base is None or self._base.copy != look.copy or look.at < self._base.at:
            self._base, self._since, self._known = look, None, False
            return
        # A base without fresh counters waits for them for a while: they are read on another thread's beat.
        patient = look.at - self._base.at < 3 * SHORTEST and not _counted(self._base, look)
        if look.at - self._base.at < SHORTEST or patient:
            return
        still = stands_still(self._base, look)
        self._known = still is not None
        if not still:
            self._since = None
        elif self._since is None:
            self._since = self._base.at
        self._base = look

    def forget(self) -> None:
        """The VM does not run here."""
        self._base, self._since, self._known = None, None, False

    def stalled_for(self, now: float) -> Optional[float]:
        """Wall seconds for which every pair of looks showed a guest that stands still, up to the last look; 0.0
        when it moves.

        None when it is not known: no two looks yet, no counters, or the last comparison is older than 30 s.
        """
        if self._base is None or not self._known or now - self._base.at > STALE:
            return None
        return 0.0 if self._since is None else self._base.at - self._since
