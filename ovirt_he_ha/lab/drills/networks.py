"""Cables are pulled: the management network of the VM's host, all of its networks, the one a migration runs on."""

import time
from typing import Optional, Tuple

from ovirt_he_ha.lab import cluster, faults
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.hangs import with_end_of
from ovirt_he_ha.lab.drills.moves import MAINTENANCE
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage
from ovirt_he_ha.lab.layout import LabHost


class NetworkLoss(Drill):
    """``second``: the VM's host loses the second network, too, which carries migrations."""

    bound = "network-loss"
    budgeted = True

    def __init__(self, name: str, second: bool, about: str, limit: float) -> None:
        self.name, self.about, self.limit = name, about, Limit(limit)
        self._second = second
        self._cut: Optional[LabHost] = None

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        self._cut = host
        promise = stage.board.promise(self.bound, [host.host_id])
        fault_at = faults.network_down(host, self._second)
        course = follow_return(stage, fault_at, GUEST_LIMIT + stage.wall(300), promise)
        if course.recovered and course.more.get("host") == host.host_id:
            course.recovered, course.problem = False, "the VM is where nobody reaches it"
        return with_end_of(stage, course, copy)

    def restore(self, stage: Stage) -> None:
        if self._cut is not None:
            faults.network_up(self._cut)


class MigrationCut(Drill):
    """The VM must run on, at its old place or the new one; then the move is tried again."""

    name = "migration-cut"
    about = "the migration network fails in the middle of a migration, and comes back"
    # From the cable's return: the longest wait between two tries, and a move.
    limit = Limit(60.0 + 60.0)

    def __init__(self) -> None:
        self._source: Optional[LabHost] = None

    def run(self, stage: Stage) -> Course:
        source, copy = stage.engine_host(), stage.engine()
        self._source = source
        begun = time.monotonic()
        cluster.inside(source, [*MAINTENANCE, "--mode=local"], limit=60, capture_output=True, text=True)
        under_way = stage.wait(lambda: len(stage.world.running) > 1, stage.wall(120) + GUEST_LIMIT)
        cut_at = faults.second_network_down(source)
        one_left = stage.wait(lambda: len(stage.world.running) == 1, stage.wall(300) + GUEST_LIMIT)
        stage.wait(lambda: self._answers(stage), GUEST_LIMIT)
        stayed = stage.untouched(copy)
        healed_at = faults.network_up(source)
        moved = stage.wait(lambda: self._moved(stage, source), stage.wall(600) + GUEST_LIMIT)
        problem = "" if under_way else "no migration began"
        problem = problem or ("" if one_left else "two processes of the VM remained")
        problem = problem or ("" if moved else "the VM did not move when the network was back")
        return Course(
            fault_at=healed_at,
            ended_at=moved or time.monotonic(),
            recovered=not problem,
            judged_from=begun,
            problem=problem,
            more={
                "cut_after": round(cut_at - begun, 2),
                "one_left_after_cut": None if one_left is None else round(one_left - cut_at, 2),
                "source_copy_survived": stayed,
                "host": stage.world.hosts_running(),
            },
        )

    def _answers(self, stage: Stage) -> bool:
        return len(stage.world.running) == 1 and bool(stage.world.healthy)

    def _moved(self, stage: Stage, source: LabHost) -> bool:
        world = stage.world
        hosts = world.hosts_running()
        return len(hosts) == 1 and hosts[0] != source.host_id and world.owner == hosts[0] and bool(world.healthy)

    def restore(self, stage: Stage) -> None:
        if self._source is not None:
            faults.network_up(self._source)
            cluster.inside(self._source, [*MAINTENANCE, "--mode=none"], limit=60, capture_output=True)


DRILLS: Tuple[Drill, ...] = (
    NetworkLoss("network-loss", False, "the VM's host loses the management network", 60.0),
    NetworkLoss("network-loss-all", True, "the VM's host loses all networks", 90.0),
    MigrationCut(),
)
