"""The VM's host loses the shared storage, or it becomes slow there; the other hosts' storage works."""

import time
from typing import Any, Dict, Optional, Tuple

from ovirt_he_ha.client.link import BrokerLink
from ovirt_he_ha.lab import cluster, view
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.hangs import powered, with_end_of
from ovirt_he_ha.lab.drills.outages import TAKEOVER
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage
from ovirt_he_ha.lab.judge import Copy
from ovirt_he_ha.lab.layout import LabHost

# sanlock ends the holder of a lease that it cannot renew for 8 io_timeouts; product seconds at its default.
EXPIRY = 80.0
ANSWER = 0.1  # wall seconds for an answer of the broker, storage or not
STATUS = 3.0  # wall seconds for `hosted-engine --vm-status`
CALLS = 20


class StorageLoss(Drill):
    """``mode``: ``hang`` or ``error``. Its own copy of the VM must be dead before anybody may take the lease, and the
    host must still answer who asks."""

    bound = "storage-loss"
    limit = Limit(TAKEOVER + 5.0)

    def __init__(self, mode: str, about: str) -> None:
        self.name, self.about = f"storage-{mode}", about
        self._mode = mode
        self._host: Optional[LabHost] = None

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        self._host = host
        others = [host_id for host_id in stage.powered() if host_id != host.host_id]
        promise = stage.board.promise(self.bound, others)
        fault_at = view.set_storage(host, self._mode)
        stage.wait(lambda: False, stage.wall(10))
        asked = ask(host)
        course = follow_return(stage, fault_at, stage.wall(TAKEOVER * 2) + GUEST_LIMIT, promise)
        with_end_of(stage, course, copy)
        course.more.update(asked, powered_off=not powered(stage, host))
        problem = unanswered(asked) or self._survivor(stage, course, copy)
        if problem:
            course.recovered, course.problem = False, course.problem or problem
        return course

    def _survivor(self, stage: Stage, course: Course, copy: Copy) -> str:
        last = stage.witness.last_run(copy)
        # One sample of the observer, and a second for the signal, later.
        limit = stage.wall(EXPIRY) + 1.0
        if last is not None and last - course.fault_at > limit:
            return f"the VM ran for {last - course.fault_at:.1f} s, {limit:.1f} s were allowed"
        return ""

    def restore(self, stage: Stage) -> None:
        if self._host is not None and powered(stage, self._host):
            view.set_storage(self._host, "ok")
        stage.power_on_all()


class StorageSlow(Drill):
    """Slower than any healthy disk, faster than sanlock's patience: nothing may happen."""

    name = "storage-slow"
    about = "each access to the storage of the VM's host takes 2 s"
    limit = Limit(120.0)
    delay = 2.0  # product seconds for each access; sanlock waits 10 for one of its own
    length = 115.0  # product seconds

    def __init__(self) -> None:
        self._host: Optional[LabHost] = None

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        self._host = host
        fault_at = view.set_storage(host, "slow", milliseconds=int(1000 * stage.wall(self.delay)))
        end = fault_at + stage.wall(self.length)
        asked = ask(host)
        stage.wait_until(end)
        problem = unanswered(asked) or ("" if stage.untouched(copy) else "the VM was touched")
        return Course(fault_at=fault_at, ended_at=end, recovered=not problem, problem=problem, more=asked)

    def restore(self, stage: Stage) -> None:
        if self._host is not None:
            view.set_storage(self._host, "ok")


def ask(host: LabHost) -> Dict[str, Any]:
    """The slowest answer of the broker, and the time that the status takes, in wall seconds."""
    slowest = 0.0
    with BrokerLink(host.product_root / "run" / "ovirt-hosted-engine-ha" / "broker.socket") as link:
        link.is_host_alive()
        for call in (link.is_host_alive, link.snapshot) * (CALLS // 2):
            begun = time.monotonic()
            call()
            slowest = max(slowest, time.monotonic() - begun)
    begun = time.monotonic()
    done = cluster.inside(host, ["hosted-engine", "--vm-status", "--json"], limit=20, capture_output=True, text=True)
    return {
        "slowest_answer": round(slowest, 4),
        "status_seconds": round(time.monotonic() - begun, 2),
        "status_exit": done.returncode,
    }


def unanswered(asked: Dict[str, Any]) -> str:
    if asked["slowest_answer"] > ANSWER:
        return f"the broker took {asked['slowest_answer']} s for an answer"
    if asked["status_seconds"] > STATUS or asked["status_exit"] not in (0, 1):
        return f"--vm-status took {asked['status_seconds']} s, exit {asked['status_exit']}"
    return ""


DRILLS: Tuple[Drill, ...] = (
    StorageLoss("hang", "the storage of the VM's host no longer answers"),
    StorageLoss("error", "every access to the storage of the VM's host fails"),
    StorageSlow(),
)
