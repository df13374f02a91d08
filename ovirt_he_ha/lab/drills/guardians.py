"""What guards the lease fails: sanlock dies, stays away, or there is no watchdog behind it."""

import time
from typing import Tuple

from ovirt_he_ha.lab import cluster, control, faults, watchdog
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.hangs import powered, with_end_of
from ovirt_he_ha.lab.drills.outages import TAKEOVER
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, NotWhole, Stage
from ovirt_he_ha.lab.layout import LabHost

# Without its guard the VM is dead before this; product seconds at sanlock's default.
DEAD_BEFORE = 80.0
RESET_BY = 150.0  # 8 io_timeouts, the watchdog's 60 s, and room
SERVICE = "sanlock"


class SanlockKill(Drill):
    """``back``: a service manager starts it again. The VM dies at once in any case: a sanlock that comes back frees the
    lease while the old copy still runs."""

    bound = "sanlock-kill"
    limit = Limit(TAKEOVER + 5.0)

    def __init__(self, name: str, back: bool, about: str) -> None:
        self.name, self.about = name, about
        self._back = back
        self._host = 0

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        self._host = host.host_id
        others = [host_id for host_id in stage.powered() if host_id != host.host_id]
        promise = stage.board.promise(self.bound, others)
        fault_at = faults.kill(host, SERVICE) if self._back else self._kill_for_good(host)
        course = follow_return(stage, fault_at, stage.wall(TAKEOVER * 2) + GUEST_LIMIT, promise)
        with_end_of(stage, course, copy)
        self._see_it_reset(stage, course, host)
        last = stage.witness.last_run(copy)
        if last is not None and last - fault_at > stage.wall(DEAD_BEFORE):
            course.recovered, course.problem = False, "the VM ran on without its guard"
        return course

    def _see_it_reset(self, stage: Stage, course: Course, host: LabHost) -> None:
        """wdmd does not forget a sanlock that died: the host is reset, whoever renews its lease by then. A VM that had
        been started there again would be lost a second time."""
        healthy = stage.engine() if course.recovered else None
        stage.wait(lambda: not powered(stage, host), course.fault_at + stage.wall(RESET_BY) - time.monotonic())
        course.more["powered_off"] = not powered(stage, host)
        if healthy is not None and not stage.wait(lambda: stage.untouched(healthy), 2.0):
            course.recovered, course.problem = False, "the VM was lost again when the watchdog reset its host"

    def _kill_for_good(self, host: LabHost) -> float:
        return float(control.call(host.control, "kill", service=SERVICE, away=True)["at"])

    def restore(self, stage: Stage) -> None:
        host = stage.lab.host(self._host)
        if powered(stage, host):
            control.call(host.control, "start", service=SERVICE)
        stage.power_on_all()


class WatchdogMissing(Drill):
    """The only host that is there has no watchdog: it refuses to start the VM and says why. Timed is the start by a
    fenced host, from its power-on."""

    name = "watchdog-missing"
    about = "a host without a watchdog is alone; then a fenced one is switched on"
    bound = "cold"
    limit = Limit(90.0 + 22.0)
    alone = 400.0  # product seconds: longer than any rule lets a host wait that may start

    def __init__(self) -> None:
        self._bare = 0

    def run(self, stage: Stage) -> Course:
        lab = stage.lab
        bare, fenced = lab.host(lab.host_ids[0]), lab.host(lab.host_ids[1])
        self._bare = bare.host_id
        promise = stage.board.promise(self.bound, lab.host_ids)
        begun = faults.power_off([lab.host(host_id) for host_id in lab.host_ids])
        watchdog.set_present(bare, False)
        faults.power_on([bare])
        cluster.wait_services(lab, [bare.host_id])
        refused = stage.wait(lambda: self._refuses(stage), stage.wall(600) + GUEST_LIMIT)
        started = stage.wait(lambda: stage.world.running, stage.wall(self.alone))
        by_hand = cluster.inside(bare, ["hosted-engine", "--vm-start"], limit=60, capture_output=True, text=True)
        if refused is None or started is not None or by_hand.returncode == 0:
            raise NotWhole("a host without watchdog did not refuse the VM", time.monotonic() - begun)
        fault_at = faults.power_on([fenced])
        course = follow_return(stage, fault_at, stage.wall(600) + GUEST_LIMIT, promise)
        course.judged_from = begun
        course.more["said"] = " ".join((by_hand.stdout + by_hand.stderr).split())[-300:]
        if course.recovered and course.more.get("host") != fenced.host_id:
            course.recovered, course.problem = False, "the host without a watchdog started it"
        return course

    def _refuses(self, stage: Stage) -> bool:
        record = stage.board.record(self._bare)
        return record is not None and record.score == 0 and record.get("score.zero") == "unfenced"

    def restore(self, stage: Stage) -> None:
        bare = stage.lab.host(self._bare)
        watchdog.set_present(bare, True)
        if powered(stage, bare):
            faults.power_off([bare])
        stage.power_on_all()


DRILLS: Tuple[Drill, ...] = (
    SanlockKill("sanlock-kill", False, "kill -9 of sanlock on the VM's host; nobody starts it again"),
    SanlockKill("sanlock-restart", True, "kill -9 of sanlock on the VM's host; it is started again at once"),
    WatchdogMissing(),
)
