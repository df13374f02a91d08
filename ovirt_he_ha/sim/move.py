"""A live migration, and the ways in which it goes wrong.

The memory is copied while the guest runs; then the source is paused and gives the lease back, and when none of its
requests to the disk is open the destination takes it and runs, and the source's process ends. libvirt's own keepalive
notices a cut after some seconds; what it cannot know (whether the destination has begun) is what makes the cut in the
middle dangerous.
"""

from typing import TYPE_CHECKING, Optional

from ovirt_he_ha.core.model import Outcome
from ovirt_he_ha.sim.appliance import Cpus

if TYPE_CHECKING:
    from ovirt_he_ha.sim.hypervisor import Copy, Done, Libvirt

SWITCH = 0.3
KEEPALIVE = 30.0  # seconds until libvirt gives up a peer that does not answer

FAILS = "fails"  # refused before anything was copied
STALLS = "stalls"  # the guest dirties its memory faster than it can be copied
CUT_BEFORE = "cut-before-switch"  # the connection breaks while the memory is copied
CUT_DURING = "cut-before-finish"  # after the source was paused, before the destination ran
CUT_AFTER = "cut-after-finish"  # the destination runs, and the source never hears of it
WAYS = (FAILS, STALLS, CUT_BEFORE, CUT_DURING, CUT_AFTER)


class Move:
    def __init__(
        self, source: "Libvirt", copy: "Copy", target: "Optional[Libvirt]", deadline: float, done: "Done"
    ) -> None:
        self.source = source
        self.copy = copy
        self.target = target
        self.arrival: Optional[Copy] = None
        self.way = source.flow.move
        self._done = done
        self._over = False
        source.after(deadline, self._overdue)

    def begin(self) -> None:
        target = self.target
        if target is None or not target.up or target.frozen or target.domain is not None or self.way == FAILS:
            self.source.after(1.0, lambda: self._fail("the destination refuses"))
            return
        self.copy.outgoing = True
        self.source.site.vm_event("migrating", "", self.copy)
        self.arrival = target.spawn(self.copy.guest, incoming=True)
        target.site.vm_event("started", "migrated", self.arrival)
        target.after(KEEPALIVE, self._look_at_source)
        if self.way == STALLS:
            return
        seconds = self.source.flow.move_seconds
        if self.way == CUT_BEFORE:
            self.source.after(seconds / 2 + KEEPALIVE, self.cut)
        else:
            self.source.after(seconds, self._switch)

    def _look_at_source(self) -> None:
        """The destination's libvirt: a copy that waits for a source that is no more is ended."""
        arrival, target = self.arrival, self.target
        if self._over or arrival is None or target is None or arrival.cpus != Cpus.STARTING:
            return
        if not self.source.site.scope.running:
            target.kill(arrival, "failed")
        target.after(KEEPALIVE, self._look_at_source)

    def _switch(self) -> None:
        """The source stands still from here on, and has no lease."""
        copy, arrival = self.copy, self.arrival
        if self._over or arrival is None:
            return
        if not copy.alive or copy.dying or not arrival.alive or arrival.dying:
            self._fail("one of the processes ended")
            return
        self.source.pause("migration")
        if self.way == CUT_DURING:
            self._kill_arrival()
            self.source.after(KEEPALIVE, lambda: self._resume_source("the connection broke"))
            return
        self.source.after(SWITCH, self._drained)

    def _drained(self) -> None:
        """qemu waits for its requests to the disk before it sends the rest; its lease is given back before that."""
        if self._over:
            return
        if self.copy.dying:
            self._fail("the process is being killed")
        elif self.source.site.io_hangs():
            self.source.after(0.5, self._drained)
        else:
            self._take_lease()

    def _take_lease(self) -> None:
        arrival, target = self.arrival, self.target
        if self._over or arrival is None or target is None:
            return
        sanlock = target.site.sanlock()
        if sanlock is None:
            self._refused()
        else:
            sanlock.acquire(arrival, self._leased)

    def _leased(self, outcome: str) -> None:
        arrival, target = self.arrival, self.target
        if arrival is None or target is None or not arrival.alive or arrival.dying or self._over:
            return
        if outcome:
            self._refused()
            return
        arrival.set_cpus(Cpus.RUNNING)
        target.site.trace(f"VM process {arrival.pid} runs, moved")
        target.site.vm_event("resumed", "migrated", arrival)
        if self.way == CUT_AFTER:
            self.source.after(KEEPALIVE, lambda: self._answer(Outcome.FAILED, "the connection broke"))
            return
        self.source.kill(self.copy, "migrated")
        self._answer(Outcome.OK, "")

    def _refused(self) -> None:
        """The destination has no lease: code 38, and the source goes on."""
        self._kill_arrival()
        self._resume_source("the destination did not get the lease")

    def _resume_source(self, why: str) -> None:
        """libvirt's own: the move failed, so the guest goes on where it was, if its lease can be had."""
        if not self._over:
            self.copy.outgoing = False
            self.source.resume()
            self._answer(Outcome.FAILED, why)

    def cut(self) -> None:
        """The connection is gone. Before the switch nothing is lost."""
        if self._over:
            return
        if self.copy.cpus == Cpus.PAUSED:
            self._kill_arrival()
            self._resume_source("the connection broke")
        else:
            self._fail("the connection broke")

    def source_ended(self) -> None:
        """libvirt answers whoever waits as soon as it notices that there is nothing left to move."""
        self._fail("the process ended")

    def abort(self) -> None:
        if not self._over and self.copy.cpus == Cpus.RUNNING:
            self._fail("aborted")

    def _overdue(self) -> None:
        if not self._over and self.copy.cpus == Cpus.RUNNING:
            self._kill_arrival()
            self._answer(Outcome.OVERDUE, "the job was aborted")

    def _fail(self, why: str) -> None:
        if self._over:
            return
        self._kill_arrival()
        self._answer(Outcome.FAILED, why)

    def _kill_arrival(self) -> None:
        arrival, target = self.arrival, self.target
        if arrival is not None and target is not None and arrival.alive and arrival.cpus != Cpus.RUNNING:
            target.kill(arrival, "failed")

    def _answer(self, outcome: Outcome, detail: str) -> None:
        if self._over:
            return
        self._over = True
        self.copy.outgoing = False
        self.source.site.vm_event("job-completed", "", self.copy)
        self.source.moved(self)
        self._done(outcome, detail)
