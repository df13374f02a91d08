"""A machine of the simulated cluster that runs oVirt's own daemons, until it is upgraded to ours.

It is the same machine: power, clock, storage path, sanlock, libvirt and the VM in it are those of every host; only who
sits on it differs. An upgrade changes the daemons while the VM may run.
"""

from random import Random
from typing import TYPE_CHECKING, Callable, Mapping, Optional

from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core.model import SLOT_SIZE, Outcome
from ovirt_he_ha.sim.host import LEASE, Host, HostSpec
from ovirt_he_ha.sim.hypervisor import Copy
from ovirt_he_ha.sim.sanlock import SanlockCode
from ovirt_he_ha.sim.upstream import UpstreamHost
from ovirt_he_ha.sim.upstream_agent import Files
from ovirt_he_ha.sim.upstream_door import CallHangs, Hypervisor, Measures, SanlockFault, StorageFault
from ovirt_he_ha.sim.upstream_score import Weights
from ovirt_he_ha.sim.upstream_states import FORCE_STOP
from ovirt_he_ha.sim.volume import Door
from ovirt_he_ha.storage.errors import StorageError

if TYPE_CHECKING:
    from ovirt_he_ha.sim.world import World

NEVER = 1e9  # seconds: upstream gives no deadline
CREATE = 3600.0
REFUSED = 111
_PATHS = {LEASE.lockspace: "ids"}
_OUTCOMES = {Outcome.OK: "ok", Outcome.LOST_RACE: "busy"}


class MachineFiles(Files):
    """ha.conf is the machine's, whoever reads it."""

    def __init__(self, machine: "UpstreamMachine") -> None:
        self._machine = machine

    @property
    def local_maintenance(self) -> bool:
        return self._machine.ha_conf.maintenance

    def set_local_maintenance(self, on: bool) -> None:
        self._machine.ha_conf = HaConf(local_maintenance=on, manual=on)


class MachineHypervisor(Hypervisor):
    def __init__(self, machine: "UpstreamMachine") -> None:
        self._machine = machine

    @property
    def reachable(self) -> bool:
        """A libvirt that hangs is not seen: vdsm answers from its memory."""
        return self._machine.libvirt.up

    def create(self, done: Callable[[str, str], None]) -> None:
        self._machine.libvirt.create(CREATE, lambda outcome, detail: done(_OUTCOMES.get(outcome, "failed"), detail))

    def shutdown(self) -> None:
        self._machine.libvirt.shutdown(120.0, lambda outcome, detail: None)

    def destroy(self, done: Callable[[bool], None]) -> None:
        self._machine.libvirt.destroy(60.0, lambda outcome, detail: done(outcome is Outcome.OK))


class UpstreamMachine(Host):
    """``upstream`` False: it was upgraded, and is a host like any other. Implements the door of its daemons."""

    weights = Weights()

    def __init__(self, world: "World", number: int, spec: HostSpec, random: Random) -> None:
        super().__init__(world, number, spec, random)
        self.upstream = True
        self.hypervisor = MachineHypervisor(self)
        self.mem_needed = world.memory_mib
        self.model = self._model()

    def _model(self) -> UpstreamHost:
        return UpstreamHost(self, self.weights, 0.05 + 0.25 * self.random.random(), MachineFiles(self))

    # --- upgrade ----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        """Our daemons in the place of theirs. The VM, sanlock and libvirt go on; the lockspaces stay joined."""
        if not self.upstream:
            return
        self.trace("upgraded to our daemons")
        self.model.power_off()
        self.upstream = False
        self.broker_wanted = self.agent_wanted = True
        self.timeline.after(0.5, self.start_broker, self.scope)
        self.timeline.after(1.0, self.start_agent, self.scope)

    def downgrade(self) -> None:
        """And back."""
        if self.upstream:
            return
        self.trace("downgraded to upstream's daemons")
        self.stop_agent()
        self.stop_broker()
        self.upstream = True
        self.broker_wanted = self.agent_wanted = True
        self._boot_model()

    def _boot_model(self) -> None:
        self.model = self._model()
        copy = self.libvirt.domain
        if copy is not None:
            self.model.vdsm.event("resumed" if copy.cpus == "running" else "suspended", "")
        self.model.boot()

    # --- who sits on it ---------------------------------------------------------------------------------------------

    def switch_on(self, uptime: float = 0.0, daemons_after: float = 0.0) -> None:
        if not self.power:
            self.model = self._model()
        super().switch_on(uptime, daemons_after)

    def switch_off(self, why: str = "power off") -> None:
        if self.power and self.upstream:
            self.model.power_off()
        super().switch_off(why)

    def start_broker(self) -> None:
        if not self.upstream:
            super().start_broker()
        elif self.power and self.broker_wanted:
            self.model.broker.start()

    def start_agent(self) -> None:
        if not self.upstream:
            super().start_agent()
        elif self.power and self.agent_wanted:
            self.model.start_agent()

    def kill_broker(self, again: bool = True) -> None:
        if not self.upstream:
            super().kill_broker(again)
            return
        self.trace("upstream broker killed")
        self.model.kill_broker(again)

    def kill_agent(self, again: bool = True) -> None:
        if not self.upstream:
            super().kill_agent(again)
            return
        self.trace("upstream agent killed")
        self.model.kill_agent(again)

    def stop_agent(self) -> None:
        if not self.upstream:
            super().stop_agent()
            return
        self.trace("upstream agent: stop")
        self.agent_wanted = False
        self.model.stop_agent()

    def stop_broker(self) -> None:
        if not self.upstream:
            super().stop_broker()
            return
        self.broker_wanted = False
        self.model.kill_broker(again=False)

    def vm_event(self, event: str, detail: str, copy: Copy) -> None:
        if not self.upstream:
            super().vm_event(event, detail, copy)
        elif self.libvirt.domain in (None, copy):  # not the late end of one before
            self.model.vdsm.event(event, detail)

    def preset_vm(self) -> None:
        super().preset_vm()
        if self.upstream:
            self.model.vdsm.event("resumed", "")

    # --- the door: time ---------------------------------------------------------------------------------------------

    @property
    def host_id(self) -> int:
        return self.conf_id

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def wall(self) -> float:
        return self.clock.wall()

    def spend(self, seconds: float) -> None:
        self.timeline.spend(self.clock.world(seconds))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.timeline.after(self.clock.world(seconds), action, self.scope)

    def entered(self, before: str, state: str) -> None:
        self.world.upstream_state(self, state)

    def orders(self, action: str) -> None:
        self.world.upstream_ordered(self, "power-off" if action == FORCE_STOP else action)

    # --- the door: storage ------------------------------------------------------------------------------------------

    def read_area(self) -> Mapping[int, bytes]:
        trouble = self.path.trouble
        if trouble.hang_reads_until > self.timeline.now:
            raise CallHangs
        self.timeline.spend(self.path.draw_latency())
        if trouble.read_error or trouble.open_error:
            raise StorageFault(trouble.read_error or trouble.open_error)
        return dict(self.world.volume.slots if trouble.stale is None else trouble.stale)

    def write_slot(self, slot: int, data: bytes) -> None:
        trouble = self.path.trouble
        if trouble.hang_writes_until > self.timeline.now:
            raise CallHangs
        if trouble.open_error:
            raise StorageFault(trouble.open_error)
        door = Door(self.world.volume, self.path, self.timeline, self.number, self.scope)
        try:
            door.write(slot * SLOT_SIZE, data, NEVER)
        except StorageError as error:
            raise StorageFault(str(error)) from error

    # --- the door: sanlock ------------------------------------------------------------------------------------------

    def held(self, lockspace: str) -> Optional[bool]:
        daemon = self.sanlock_daemon
        if daemon is None:
            raise SanlockFault(REFUSED)
        if daemon.hung_until > self.timeline.now:
            raise CallHangs
        space = daemon.spaces.get(lockspace)
        if space is None:
            return False
        return True if space.held and not space.leaving else None

    def join(self, lockspace: str, done: Callable[[int], None]) -> None:
        daemon = self.sanlock_daemon
        if daemon is None:
            raise SanlockFault(REFUSED)

        def answered(refusal: Optional[SanlockCode]) -> None:
            done(0 if refusal is None else int(refusal.args[0]))

        daemon.join(lockspace, self.conf_id, _PATHS.get(lockspace, "hosted-engine.lockspace"), answered)

    def leave(self, lockspace: str) -> None:
        daemon = self.sanlock_daemon
        if daemon is None:
            raise SanlockFault(REFUSED)
        try:
            daemon.leave(lockspace, unused=False)
        except SanlockCode as code:
            raise SanlockFault(int(code.args[0])) from code

    def domain_lockspace(self) -> str:
        return LEASE.lockspace

    # --- the door: measuring ----------------------------------------------------------------------------------------

    def measures(self) -> Measures:
        now = self.conditions
        return Measures(
            network=now.network,
            bridge=None if "bridge" in now.unknown else now.bridge,
            mem_free=None if "mem_free" in now.unknown else float(now.mem_free),
            load=now.cpu_load,
            storage=not self.path.trouble.read_error,
        )
