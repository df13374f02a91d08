"""What a drill stands on: the lab, its witness, the slots, and waiting for the cluster to be well."""

import time
from pathlib import Path
from typing import Callable, List, Optional

from ovirt_he_ha.core.model import Health, Record, Vm
from ovirt_he_ha.lab import cluster, control, faults
from ovirt_he_ha.lab.drills.board import Board
from ovirt_he_ha.lab.judge import Copy
from ovirt_he_ha.lab.layout import Lab, LabError, LabHost
from ovirt_he_ha.lab.testimony import Witness, World

PERIOD = 0.05
# Product seconds without a change after which a slot shows no life here; peers allow 60.
FRESH = 30.0
# Until a cluster is whole again after anything at all: a power-on, sanlock's wait for its own stale id, a start, some
# cycles.
WHOLE_LIMIT = 600.0
CRASHES = 4  # starts of one daemon, the latest of them just ended or just begun
CRASH_LOOK = 5.0
GUEST_LIMIT = 60.0  # wall seconds for what no time scale makes faster: a guest's boot, libvirt


class NotWhole(LabError):
    def __init__(self, problem: str, waited: float) -> None:
        self.problem = problem
        super().__init__(
            f"The cluster is not protected after {waited:.0f} s: {problem}. See `he-lab status` and `he-lab logs`."
        )


class Stage:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.witness = Witness(lab.observations)
        self.board = Board(lab)

    @property
    def world(self) -> World:
        return self.witness.world

    def wall(self, product_seconds: float) -> float:
        return product_seconds / self.lab.scale

    def powered(self) -> List[int]:
        return [int(host_id) for host_id in control.call(self.lab.control, "status")["on"]]

    def wait(self, condition: Callable[[], object], limit: float) -> Optional[float]:
        """Read the observer's file and the slots until ``condition`` holds. Returns that moment, or None after
        ``limit`` wall seconds."""
        end = time.monotonic() + limit
        while True:
            self.witness.read()
            self.board.read()
            if condition():
                return time.monotonic()
            if time.monotonic() >= end:
                return None
            time.sleep(PERIOD)

    def wait_until(self, moment: float) -> None:
        """Read on until this moment (monotonic wall seconds)."""
        self.wait(lambda: False, moment - time.monotonic())

    def engine(self) -> Copy:
        """The one copy that runs. Raises NotWhole."""
        running = list(self.world.running)
        if len(running) != 1:
            raise NotWhole(f"{len(running)} copies of the engine VM run", 0)
        return running[0]

    def engine_host(self) -> LabHost:
        return self.lab.host(self.engine().host)

    def other_host(self) -> LabHost:
        """A powered host that does not run the engine."""
        here = self.engine().host
        for host_id in self.powered():
            if host_id != here:
                return self.lab.host(host_id)
        raise NotWhole("there is no second host", 0)

    def untouched(self, copy: Copy) -> bool:
        """Whether this copy, and no other, runs and answers."""
        return list(self.world.running) == [copy] and bool(self.world.healthy)

    def await_whole(self, say: Callable[[str], None] = lambda _: None) -> float:
        """Until every host is powered on and protected; ``say`` is told what is missing whenever that changes. Returns
        the wall seconds it took. Raises NotWhole."""
        begun = looked = time.monotonic()
        limit = self.wall(WHOLE_LIMIT) + GUEST_LIMIT
        told = ""

        def whole() -> bool:
            nonlocal told, looked
            problem = self.problem(begun)
            if problem and time.monotonic() - looked > CRASH_LOOK:
                looked = time.monotonic()
                self._refuse_crashing()
            if problem and problem != told:
                told = problem
                say(f"not yet: {problem}")
            return not problem

        if self.wait(whole, limit) is None:
            raise NotWhole(told, limit)
        return time.monotonic() - begun

    def _refuse_crashing(self) -> None:
        """A daemon that cannot start is not worth waiting for. Raises NotWhole with its last words."""
        for host_id in self.powered():
            host = self.lab.host(host_id)
            try:
                services = control.call(host.control, "status", deadline=5)
            except control.Unreachable:
                continue  # it is just being switched on
            for name, service in services.items():
                if service["starts"] >= CRASHES and (
                    service["pid"] is None or time.monotonic() - service["started"] < 1
                ):
                    raise NotWhole(f"{name} of {host.name} ends at once: {last_line(host.log / f'{name}.log')}", 0)

    def problem(self, since: float) -> str:
        """What keeps the cluster from being protected; empty: nothing. A slot must have changed after ``since`` to
        count."""
        world = self.world
        if not world.healthy:
            return "the health page does not answer"
        if len(world.running) != 1:
            return f"{len(world.running)} copies of the engine VM run"
        here = next(iter(world.running)).host
        if world.owner != here:
            return f"the lease belongs to {world.owner or 'nobody'}, the VM runs on h{here}"
        for host_id in self.lab.host_ids:
            found = self._host_problem(host_id, since, host_id == here)
            if found:
                return f"h{host_id} {found}"
        return ""

    def _host_problem(self, host_id: int, since: float, runs: bool) -> str:
        record = self.board.record(host_id)
        alive_since = max(since, time.monotonic() - max(2.0, self.wall(FRESH)))
        if record is None or not self.board.changed_since(host_id, alive_since):
            return "publishes nothing"
        if record.stopped or record.maintenance:
            return "is stopped or in maintenance"
        if record.score <= 0:
            return f"has score {record.score}: {reasons(record)}"
        if runs and not engine_good(record):
            return "does not yet publish its engine as up and healthy"
        return ""

    def power_on_all(self) -> None:
        powered = self.powered()
        missing = [self.lab.host(host_id) for host_id in self.lab.host_ids if host_id not in powered]
        if missing:
            faults.power_on(missing)
            cluster.wait_services(self.lab, [host.host_id for host in missing])


def last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError as e:
        return str(e)
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word")


def engine_good(record: Record) -> bool:
    return record.engine is not None and record.engine.vm is Vm.UP and record.engine.health is Health.GOOD


def reasons(record: Record) -> str:
    words = [f"{key}={value}" for key, value in record.extra if key.startswith("why.")]
    return ", ".join(words) or "no reason given"
