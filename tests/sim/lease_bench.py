"""Hosts with a sanlock and a libvirt of the simulator, and nothing else: no daemon of ours."""

from random import Random
from typing import Dict, List, Optional, Tuple

from ovirt_he_ha.core.model import HostLease, Outcome
from ovirt_he_ha.sim.clock import Scope, Timeline, ns
from ovirt_he_ha.sim.hypervisor import Copy, Libvirt
from ovirt_he_ha.sim.sanlock import LeaseDisk, Sanlock, SanlockCode, Space
from ovirt_he_ha.sim.volume import Path

SPACE = "sd"


class Machine:
    """Machine of sanlock and site of the hypervisor."""

    lease_space = SPACE

    def __init__(self, bench: "Bench", number: int) -> None:
        self.bench = bench
        self.number = number
        self.random = Random(f"{bench.seed}:{number}")
        self.scope = Scope()
        self.path = Path(self.random)
        self.daemon: Optional[Sanlock] = None
        self.libvirt = Libvirt(bench.timeline, self, bench.next_copy)
        self.armed_for: Optional[int] = None
        self.said: List[str] = []

    def start(self) -> Sanlock:
        self.daemon = Sanlock(
            self.bench.timeline,
            Scope(self.scope),
            self.bench.disk,
            self.path,
            f"host{self.number}",
            self.random,
            True,
            self,
        )
        return self.daemon

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        daemon, self.daemon = self.daemon, None
        daemon.killed()

    def sanlock(self) -> Optional[Sanlock]:
        return self.daemon

    def arm_watchdog(self, space: Space) -> None:
        if self.armed_for is None:
            self.armed_for = space.renewed

    def disarm_watchdog(self) -> None:
        self.armed_for = None

    def lockspace_joined(self, space: Space) -> None: ...

    def vm_event(self, event: str, detail: str, copy: Copy) -> None:
        self.said.append(f"{event} {detail}".strip())

    def cpus_changed(self, copy: Copy, before: str) -> None: ...

    def process_appeared(self) -> None: ...

    def io_hangs(self) -> bool:
        return self.path.lease_hang_until > self.bench.timeline.now

    def boot_seconds(self) -> Optional[float]:
        return 10.0

    def trace(self, what: str) -> None: ...


class Bench:
    def __init__(self, hosts: int = 2, io_timeout: int = 10, seed: int = 0, join: bool = True) -> None:
        self.seed = seed
        self.timeline = Timeline()
        self.disk = LeaseDisk(io_timeout)
        self._copies = 0
        self.machines: Dict[int, Machine] = {number: Machine(self, number) for number in range(1, hosts + 1)}
        self.joined: Dict[int, float] = {}
        self.refused: Dict[int, SanlockCode] = {}
        for number, machine in self.machines.items():
            machine.start()
            if join:
                self.join(number)

    def next_copy(self) -> int:
        self._copies += 1
        return self._copies

    @property
    def now(self) -> float:
        return self.timeline.now / 1e9

    def go(self, seconds: float) -> None:
        self.timeline.run(self.timeline.now + ns(seconds))

    def until(self, condition: "object", limit: float = 400.0) -> float:
        """Seconds until the condition (a callable) holds, looked at ten times a second."""
        began = self.now
        while not condition():  # type: ignore[operator]
            assert self.now - began < limit, "it never came"
            self.go(0.1)
        return self.now - began

    def flag(self, observer: int, host_id: int) -> HostLease:
        daemon = self.machines[observer].daemon
        assert daemon is not None
        return daemon.flag(daemon.spaces[SPACE], host_id)

    def until_flag(self, observer: int, host_id: int, flag: HostLease) -> float:
        return self.until(lambda: self.flag(observer, host_id) is flag)

    def join(self, number: int, host_id: int = 0) -> None:
        def done(refusal: Optional[SanlockCode]) -> None:
            if refusal is None:
                self.joined[number] = self.now
            else:
                self.refused[number] = refusal

        self.joined.pop(number, None)
        daemon = self.machines[number].daemon
        assert daemon is not None
        daemon.join(SPACE, host_id or number, "ids", done)

    def settle(self) -> "Bench":
        """Long enough that every host has seen every other one renew."""
        self.go(100.0)
        return self

    def create(self, number: int, deadline: float = 600.0) -> List[Tuple[float, Outcome, str]]:
        """Start the VM there; the answer, once it is there."""
        answers: List[Tuple[float, Outcome, str]] = []
        began = self.now
        self.machines[number].libvirt.create(
            deadline, lambda outcome, detail: answers.append((self.now - began, outcome, detail))
        )
        return answers

    def running(self, number: int) -> Copy:
        """The VM runs there."""
        answers = self.create(number)
        self.go(5.0)
        assert answers and answers[0][1] is Outcome.OK, answers
        copy = self.machines[number].libvirt.domain
        assert copy is not None
        return copy
