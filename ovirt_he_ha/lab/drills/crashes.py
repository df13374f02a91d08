"""A process is killed: the VM's QEMU, one of our daemons, or libvirtd."""

import time

from ovirt_he_ha.lab import cluster, control, faults, services
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, Stage
from ovirt_he_ha.lab.layout import LabHost


class VmCrash(Drill):
    name = "vm-crash"
    about = "kill -9 of the engine's QEMU"
    bound = "vm-crash"
    limit = Limit(10.0, "wall")

    def run(self, stage: Stage) -> Course:
        host = stage.engine_host()
        promise = stage.board.promise(self.bound, stage.lab.host_ids)
        fault_at = faults.kill_vm(host)
        return follow_return(stage, fault_at, GUEST_LIMIT + stage.wall(120), promise)


class DaemonKill(Drill):
    """The VM must not notice, and the daemon must do its work again: not only run, but publish or answer."""

    limit = Limit(5.0, "wall")

    def __init__(self, service: str) -> None:
        self.service = service
        self.name = self.bound = f"{service}-kill"
        self.about = f"kill -9 of {service} on the engine's host"

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        promise = stage.board.promise(self.bound, stage.lab.host_ids)
        starts = self._starts(host)
        fault_at = faults.kill(host, self.service)
        started = stage.wait(lambda: self._starts(host) > starts, 30)
        works = stage.wait(lambda: self._works(stage, host, started or fault_at), 30) if started else None
        ended = works or time.monotonic()
        # A restart that harms the VM does so in its first cycles.
        stage.wait(lambda: False, max(2.0, stage.wall(30)))
        untouched = stage.untouched(copy)
        problem = "" if works else f"{self.service} did not come back"
        return Course(
            fault_at=fault_at,
            ended_at=ended,
            recovered=works is not None and untouched,
            detected_at=started,
            started_at=started,
            bound=promise,
            problem=problem or ("" if untouched else "the VM was touched"),
        )

    def _starts(self, host: LabHost) -> int:
        return int(control.call(host.control, "status")[self.service]["starts"])

    def _works(self, stage: Stage, host: LabHost, since: float) -> bool:
        if self.service == "libvirtd":
            return cluster.connects(host.run / services.LIBVIRT_SOCKET.relative_to("/run"))
        return stage.board.changed_since(host.host_id, since)


DRILLS = (VmCrash(), DaemonKill("agent"), DaemonKill("broker"), DaemonKill("libvirtd"))
