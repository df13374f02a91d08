"""Hosts lose their power: the one that runs the VM, or all of them."""

import time
from typing import Any, Dict, Optional

from ovirt_he_ha.lab import cluster, faults
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.host_list import HostList
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage

# sanlock at its default: 10 * io_timeout + watchdog + 2, and 5 s for the start itself.
TAKEOVER = 162.0


class HostLoss(Drill):
    name = "host-loss"
    about = "power loss of the engine's host"
    bound = "host-loss"
    limit = Limit(TAKEOVER + 5.0)

    def run(self, stage: Stage) -> Course:
        host, survivor = stage.engine_host(), stage.other_host()
        peers = HostList(survivor)
        others = [host_id for host_id in stage.powered() if host_id != host.host_id]
        promise = stage.board.promise(self.bound, others)
        peers.follow(host.host_id)
        fault_at = faults.power_off([host])
        course = follow_return(stage, fault_at, stage.wall(TAKEOVER * 2) + GUEST_LIMIT, promise)
        course.more.update(self._dead(peers.stop(), fault_at, course.started_at))
        return course

    def _dead(self, dead_at: Optional[float], fault_at: float, started_at: Optional[float]) -> Dict[str, Any]:
        if dead_at is None:
            return {"dead_seconds": None}
        after = None if started_at is None else round(started_at - dead_at, 2)
        return {"dead_seconds": round(dead_at - fault_at, 2), "started_after_dead": after}

    def restore(self, stage: Stage) -> None:
        stage.power_on_all()


class ColdStart(Drill):
    name = "cold-start"
    about = "power loss of all hosts; then all are switched on"
    bound = "cold"
    # 90 s and sanlock's join of 21 s at its default.
    limit = Limit(90.0 + 22.0)

    def run(self, stage: Stage) -> Course:
        lab = stage.lab
        hosts = [lab.host(host_id) for host_id in lab.host_ids]
        promise = stage.board.promise(self.bound, lab.host_ids)
        faults.power_off(hosts)
        stage.wait(lambda: not stage.world.running and not stage.world.healthy, GUEST_LIMIT)
        fault_at = time.monotonic()
        faults.power_on(hosts)
        cluster.wait_services(lab, lab.host_ids)
        return follow_return(stage, fault_at, stage.wall(600) + GUEST_LIMIT, promise)

    def restore(self, stage: Stage) -> None:
        stage.power_on_all()


DRILLS = (HostLoss(), ColdStart())
