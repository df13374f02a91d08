"""A second fault while the cluster still recovers from the first."""

import time
from typing import Tuple

from ovirt_he_ha.lab import faults
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.outages import TAKEOVER
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, NotWhole, Stage


class DoubleFault(Drill):
    """Timed from the second power loss, which comes when the second host has just taken the lease: the third must wait
    for that one's death, too."""

    name = "double-fault"
    about = "power loss of the engine's host, then of the host that takes over"
    bound = "host-loss"
    limit = Limit(TAKEOVER + 5.0)

    def run(self, stage: Stage) -> Course:
        first = stage.engine_host()
        others = [host_id for host_id in stage.powered() if host_id != first.host_id]
        promise = stage.board.promise(self.bound, others)
        begun = faults.power_off([first])
        if stage.wait(lambda: stage.world.owner in others, stage.wall(TAKEOVER * 2) + GUEST_LIMIT) is None:
            raise NotWhole("no second host took the lease", time.monotonic() - begun)
        second = stage.lab.host(int(stage.world.owner or 0))
        taken = time.monotonic()
        fault_at = faults.power_off([second])
        course = follow_return(stage, fault_at, stage.wall(TAKEOVER * 2) + GUEST_LIMIT, promise)
        course.judged_from = begun
        course.more.update(first=first.host_id, second=second.host_id, taken_seconds=round(taken - begun, 2))
        return course

    def restore(self, stage: Stage) -> None:
        stage.power_on_all()


class LibvirtdKillDuringStart(Drill):
    """The restart of a crashed VM is cut in the middle: no half a VM may be left, and the next try must come."""

    name = "libvirtd-kill-during-start"
    about = "libvirtd is killed while it starts the VM"
    # A crash, the supervision of libvirtd, the first step of the back-off after a start that failed.
    limit = Limit(10.0 + 5.0 + 10.0, "wall")

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        promise = stage.board.promise("vm-crash", stage.lab.host_ids)
        begun = faults.kill_vm(host)
        if stage.wait(lambda: any(one != copy for one in stage.world.running), GUEST_LIMIT) is None:
            raise NotWhole("the VM was not started again", time.monotonic() - begun)
        fault_at = faults.kill(host, "libvirtd")
        half = next(one for one in stage.world.running if one != copy)
        course = follow_return(stage, begun, GUEST_LIMIT + stage.wall(300), promise)
        course.judged_from = begun
        gone = stage.witness.gone(half)
        course.more.update(
            killed_after=round(fault_at - begun, 2),
            half_started_gone=None if gone is None else round(gone - fault_at, 2),
        )
        return course


DRILLS: Tuple[Drill, ...] = (DoubleFault(), LibvirtdKillDuringStart())
