"""Somebody wants a host for himself: maintenance moves the VM, a stopped agent leaves it alone."""

import time

from ovirt_he_ha.lab import cluster, control
from ovirt_he_ha.lab.drills.drill import Drill
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage, engine_good
from ovirt_he_ha.lab.judge import answered_every
from ovirt_he_ha.lab.layout import LabHost

MAINTENANCE = ("hosted-engine", "--set-maintenance")
# "The health page answers every second", asked four times a second with a time-out of one.
LONGEST_GAP = 2.0
# Whatever would stop the copy that has arrived (its source's slot, which still says "up") does so in the next cycle.
STAYS = 3.0


class Migration(Drill):
    name = "migration"
    about = "local maintenance of the engine's host: the VM moves while it answers"
    limit = Limit(60.0, "wall")

    def __init__(self) -> None:
        self._source = 0

    def run(self, stage: Stage) -> Course:
        source, copy = stage.engine_host(), stage.engine()
        self._source = source.host_id
        fault_at = time.monotonic()
        asked = cluster.inside(source, [*MAINTENANCE, "--mode=local"], limit=60, capture_output=True, text=True)
        moved = stage.wait(lambda: self._moved(stage, source), stage.wall(600) + GUEST_LIMIT)
        run = stage.witness.first_run(fault_at, (copy,))
        # The new host must say so, too: its slot is what everybody else goes by.
        told = stage.wait(lambda: self._told(stage), stage.wall(60) + 5) if moved else None
        reaction = stage.board.first_reaction(fault_at, stage.lab.host_ids)
        if told:
            stage.wait(lambda: False, STAYS)
        stayed = run is not None and stage.untouched(run[0])
        gap = answered_every(stage.witness.records, fault_at, time.monotonic())
        problem = "" if told else (asked.stderr.strip() or "the VM did not move")
        problem = problem or ("" if stayed else "the copy that arrived did not stay")
        return Course(
            fault_at=fault_at,
            ended_at=moved or time.monotonic(),
            recovered=told is not None and stayed and gap < LONGEST_GAP,
            detected_at=reaction.at if reaction else None,
            started_at=run[1] if run else None,
            problem=problem or ("" if gap < LONGEST_GAP else "the health page paused"),
            more={"longest_gap": round(gap, 2), "host": run[0].host if run else None},
        )

    def _moved(self, stage: Stage, source: LabHost) -> bool:
        world = stage.world
        hosts = world.hosts_running()
        return len(hosts) == 1 and hosts[0] != source.host_id and world.owner == hosts[0] and bool(world.healthy)

    def _told(self, stage: Stage) -> bool:
        record = stage.board.record(stage.engine().host)
        return record is not None and engine_good(record)

    def restore(self, stage: Stage) -> None:
        cluster.inside(stage.lab.host(self._source), [*MAINTENANCE, "--mode=none"], limit=60, capture_output=True)


class CleanAgentStop(Drill):
    """Nobody starts the VM although its host's agent is gone, for longer than peers take to call a host dead."""

    name = "clean-agent-stop"
    about = "the agent of the engine's host is stopped as a service manager does it"
    limit = Limit(5.0, "wall")

    def __init__(self) -> None:
        self._host = 0

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        self._host = host.host_id
        fault_at = float(control.call(host.control, "stop", service="agent")["at"])
        gone = stage.wait(lambda: control.call(host.control, "status")["agent"]["pid"] is None, 20)
        status = control.call(host.control, "status")["agent"]["last_exit"]
        stopped = stage.wait(lambda: self._stopped(stage, host), 2)
        ended = gone or time.monotonic()
        stage.wait(lambda: False, max(5.0, stage.wall(120)))
        problem = "" if gone else "the agent does not stop"
        problem = problem or ("" if stopped else "its last record does not say stopped")
        problem = problem or ("" if stage.untouched(copy) else "the VM was touched")
        return Course(
            fault_at=fault_at,
            ended_at=ended,
            recovered=not problem and status == 0,
            detected_at=stopped,
            problem=problem,
            more={"exit": status, "left_alone_seconds": round(time.monotonic() - ended, 1)},
        )

    def _stopped(self, stage: Stage, host: LabHost) -> bool:
        record = stage.board.record(host.host_id)
        return record is not None and record.stopped

    def restore(self, stage: Stage) -> None:
        control.call(stage.lab.host(self._host).control, "start", service="agent")


DRILLS = (Migration(), CleanAgentStop())
