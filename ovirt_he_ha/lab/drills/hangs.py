"""The VM is there and does not work: paused by somebody, hung, or without its page."""

from typing import Tuple

from ovirt_he_ha.lab import faults
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage
from ovirt_he_ha.lab.judge import Copy
from ovirt_he_ha.lab.layout import LabHost

# A copy younger than this is not called hung, whatever it looks like; product seconds.
YOUNG = 300.0


class PausedVm(Drill):
    """A paused VM has released its lease: it must be gone before anybody may start another, and must not run again."""

    name = "paused-vm"
    about = "somebody suspends the VM through libvirt"
    bound = "vm-crash"
    # Found and killed within 5 s, then as a crash.
    limit = Limit(5.0 + 10.0, "wall")

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        promise = stage.board.promise(self.bound, stage.lab.host_ids)
        fault_at = faults.pause_vm(host)
        course = follow_return(stage, fault_at, GUEST_LIMIT + stage.wall(120), promise)
        return with_end_of(stage, course, copy)


class Hung(Drill):
    """``how``: what hangs. The copy has run for its first five minutes before."""

    budgeted = True

    def __init__(self, name: str, how: str, about: str, bound: str, limit: float) -> None:
        self.name, self.about, self.bound = name, about, bound
        self.limit = Limit(limit)
        self._how = how

    def run(self, stage: Stage) -> Course:
        copy = stage.engine()
        seen = stage.witness.first_ran(copy)
        if seen is not None:
            stage.wait_until(seen + stage.wall(YOUNG))
        promise = stage.board.promise(self.bound, stage.lab.host_ids)
        fault_at = faults.hang_vm(stage.lab, self._how)
        course = follow_return(stage, fault_at, GUEST_LIMIT + stage.wall(self.limit.seconds * 2), promise)
        return with_end_of(stage, course, copy)


def with_end_of(stage: Stage, course: Course, copy: Copy) -> Course:
    """Adds when the old copy last ran and was gone."""
    gone, last = stage.witness.gone(copy), stage.witness.last_run(copy)
    course.more["gone_seconds"] = None if gone is None else round(gone - course.fault_at, 2)
    course.more["last_ran_seconds"] = None if last is None else round(last - course.fault_at, 2)
    return course


def powered(stage: Stage, host: LabHost) -> bool:
    return host.host_id in stage.powered()


DRILLS: Tuple[Drill, ...] = (
    PausedVm(),
    Hung("hung-engine", "guest", "the guest's kernel stops: no page, no CPU and disk progress", "hung-engine", 120.0),
    Hung("health-only-hang", "health", "the page says down, the guest works on", "hung-engine-alone", 300.0),
)
