"""The common course of a drill: whole cluster, fault, end state, judgement, whole cluster again."""

import time
from typing import Callable, Optional

from ovirt_he_ha.core.timers import announced_bounds
from ovirt_he_ha.lab.drills.report import Course, Limit, Report
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage
from ovirt_he_ha.lab.judge import judge
from ovirt_he_ha.lab.layout import LabError

# A copy that already ran is proven again every second: this much before the fault is enough to know who ran the VM.
BEFORE = 3.0
# After the end state: a second copy would show itself.
AFTER = 3.0
HOUR = 3600.0 + 120.0  # product seconds: a budget's hour, and what is announced in whole minutes


class Drill:
    """``bound``: the product's name for what it announces, empty for none. ``limit`` holds against the time to the
    end state."""

    name = ""
    about = ""
    bound = ""
    limit = Limit(10.0)
    budgeted = False  # a host may do so only so often in an hour, and announces a later recovery then

    def run(self, stage: Stage) -> Course:
        """Inject the fault and follow it to its end. Raises LabError when it cannot even begin."""
        raise NotImplementedError

    def restore(self, stage: Stage) -> None:
        """Undo what the drill did to the hosts; the cluster then becomes whole by itself."""

    def hold(self, stage: Stage, leave: bool = False, say: Callable[[str], None] = lambda _: None) -> Report:
        """The whole drill. Raises LabError when the cluster is not whole before it, or does not become so after it."""
        say("waiting for a protected cluster")
        stage.await_whole()
        # Who runs the VM must have been proven before the fault.
        stage.wait(lambda: all(stage.world.running.values()), GUEST_LIMIT)
        if self.budgeted:
            self._await_budget(stage, say)
        say(f"drill {self.name}: {self.about}")
        try:
            course = self.run(stage)
        except LabError:
            self.restore(stage)  # half a fault is one, too
            raise
        stage.wait(lambda: False, AFTER)
        since = course.fault_at if course.judged_from is None else course.judged_from
        judgement = judge(stage.witness.evidence(since - BEFORE))
        if not leave:
            say("restoring")
            self.restore(stage)
            course.more["whole_again_seconds"] = self._whole_again(stage, course)
        return Report(self.name, course, self.limit, judgement, stage.lab.scale)

    def _await_budget(self, stage: Stage, say: Callable[[str], None]) -> None:
        """Until the VM's host announces its usual bound. Raises LabError when it does not within its hour."""
        usual = announced_bounds()[self.bound]

        def promised() -> bool:
            announced = stage.board.promise(self.bound, [stage.engine_host().host_id])
            return announced is not None and announced <= usual

        if stage.wait(promised, 0.0) is None:
            say("waiting for what the VM's host may do in an hour")
            if stage.wait(promised, stage.wall(HOUR)) is None:
                raise LabError(f"{stage.engine_host().name} announces no recovery within {usual:g} s")
        stage.await_whole()

    def _whole_again(self, stage: Stage, course: Course) -> Optional[float]:
        try:
            return round(stage.await_whole(), 1)
        except LabError as e:
            course.recovered = False
            course.problem = course.problem or str(e)
            return None


def follow_return(stage: Stage, fault_at: float, limit: float, bound: Optional[float]) -> Course:
    """The VM is gone: until a new copy's health page answers. ``limit`` in wall seconds."""
    before = stage.witness.known_before(fault_at)

    def healthy_at() -> Optional[float]:
        run = stage.witness.first_run(fault_at, before)
        if run is None:
            return None
        for record in stage.witness.since(run[1]):
            if record["kind"] == "health" and record["ok"]:
                return float(record["at"])
        return None

    stage.wait(lambda: healthy_at() is not None, limit)
    healthy = healthy_at()
    run = stage.witness.first_run(fault_at, before)
    reaction = stage.board.first_reaction(fault_at, stage.lab.host_ids)
    started = run[1] if run else None
    moments = [moment for moment in (reaction.at if reaction else None, started) if moment is not None]
    return Course(
        fault_at=fault_at,
        ended_at=healthy if healthy is not None else time.monotonic(),
        recovered=healthy is not None,
        detected_at=min(moments, default=None),
        appeared_at=stage.witness.appeared(run[0]) if run else None,
        started_at=started,
        healthy_at=healthy,
        bound=bound,
        problem="" if healthy is not None else "no new copy of the VM became healthy",
        more={"host": run[0].host} if run else {},
    )
