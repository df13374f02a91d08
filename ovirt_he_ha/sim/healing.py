"""All faults of a host end at once: the story's last chapter, after which the engine has to come back."""

from dataclasses import replace

from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core.model import GLOBAL_SLOT
from ovirt_he_ha.core.slot import decode_global
from ovirt_he_ha.sim.fault_kinds import set_global
from ovirt_he_ha.sim.faults import Mend, Target, kind
from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.hypervisor import Flow
from ovirt_he_ha.sim.probes import Conditions
from ovirt_he_ha.sim.upstream_machine import UpstreamMachine
from ovirt_he_ha.sim.volume import BLANK, Trouble
from ovirt_he_ha.sim.world import World

LOOK_EVERY = 20.0  # seconds between two looks whether the flag has stayed off
LOOKS = 9


@kind("heal", "operator", lasting=False)
def heal(target: Target) -> Mend:
    """Everything that was broken on this host is repaired: storage, network, configuration, maintenance, daemons,
    power. What the product has to repair (a VM that is gone, or whose guest is dead) is not."""
    world, host = target.world, target.host
    _storage(host)
    _configuration(world, host)
    _hypervisor(host)
    _daemons(host)
    _clean(world)
    ours = [each for each in world.hosts.values() if not (isinstance(each, UpstreamMachine) and each.upstream)]
    if ours and host is ours[0]:
        set_global(target, False)
        _look_again(target, LOOKS)
    return None


def _clean(world: World) -> None:
    """Noise in a slot ends oVirt's brokers until somebody blanks it."""
    for number, data in sorted(world.volume.slots.items()):
        if not data.isascii():
            world.note(0, f"operator: slot {number} blanked")
            world.volume.put(0, number, BLANK)


def _look_again(target: Target, looks: int) -> None:
    """Writes that hung in a kernel may put the flag back; the operator sees it in the status."""
    world = target.world
    if world.flag_wanted is False and decode_global(world.volume.get(GLOBAL_SLOT)).value is not False:
        world.note(0, "operator: still in global maintenance")
        set_global(target, False)
    if looks:
        world.timeline.after(LOOK_EVERY, lambda: _look_again(target, looks - 1))


def _storage(host: Host) -> None:
    host.path.trouble = Trouble()
    host.path.lease_error = False
    host.path.lease_hang_until = 0


def _configuration(world: World, host: Host) -> None:
    world.migration_network = True
    world.guest_boot = world.spec.guest_boot
    host.ha_conf = HaConf()
    host.goes_down_at = None
    host.definition_problem = ""
    host.jitter = host.spec.jitter
    host.conditions = Conditions(**host.spec.conditions)  # type: ignore[arg-type]
    if host.broker is not None:
        host.broker.hung = False
        host.broker.probes.conditions_changed()
    right = host.spec.conf_id or host.number
    if host.conf_id != right:
        host.conf_id = right
        host.reset("reset, with its own host id again")


def _hypervisor(host: Host) -> None:
    host.libvirt.flow = Flow()
    host.libvirt.hung_until = 0
    host.mail.delay, host.mail.lost = 0.0, False
    if not host.libvirt.up:
        host.libvirt.daemon_up()
    for copy in host.libvirt.processes():
        copy.deaf = False
        copy.guest.page_bad, copy.guest.flap, copy.guest.slow = False, 0.0, 0.0


def _daemons(host: Host) -> None:
    host.broker_wanted = host.agent_wanted = True
    if not host.power:
        host.switch_on()
        return
    daemon = host.sanlock_daemon
    if daemon is not None:
        daemon.hung_until = 0
    if not host.fenced and host.world.spec.each.get(host.number, {}).get("watchdog", True):
        host.spec = replace(host.spec, watchdog=True)
        host.reset("reset, to have its watchdog again")
        return
    host.start_sanlock()
    host.start_broker()
    host.start_agent()
    if isinstance(host, UpstreamMachine):
        host.model.vdsm.up = True
