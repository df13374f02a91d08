"""The kinds of faults. Importing this module fills :data:`ovirt_he_ha.sim.faults.KINDS`."""

from dataclasses import replace
from typing import Callable

from ovirt_he_ha.client.link import BrokerError
from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, SLOT_SIZE, Outcome
from ovirt_he_ha.sim import move
from ovirt_he_ha.sim.faults import Mend, Parameter, Target, kind, latest, left
from ovirt_he_ha.sim.probes import Conditions
from ovirt_he_ha.sim.seats import DirectLink
from ovirt_he_ha.sim.upstream_machine import UpstreamMachine
from ovirt_he_ha.sim.volume import FOREVER, Trouble

# --- storage ----------------------------------------------------------------------------------------------------------


def _trouble(target: Target, **changes: object) -> Mend:
    """Change what is wrong with the slots' volume, and take exactly that back."""
    path = target.host.path
    healthy = Trouble()
    path.trouble = replace(path.trouble, **changes)  # type: ignore[arg-type]

    def mend() -> None:
        undone = {name: getattr(healthy, name) for name in changes}
        path.trouble = replace(path.trouble, **undone)

    return mend


def _lease_hang(target: Target) -> Callable[[], None]:
    path = target.host.path
    path.lease_hang_until = latest(path.lease_hang_until, target.until)

    def mend() -> None:
        path.lease_hang_until = 0

    return mend


def _lease_error(target: Target) -> Callable[[], None]:
    host = target.host
    host.path.lease_error = True

    def write() -> None:
        if host.path.lease_error:
            host.libvirt.pause("ioerror")

    # The guest writes every few seconds; qemu answers the first error by a pause.
    host.timeline.after(1.0 + 3.0 * host.random.random(), write, host.scope)

    def mend() -> None:
        host.path.lease_error = False

    return mend


@kind("storage-hang", "storage")
def storage_hang(target: Target) -> Mend:
    """Everything this host does on the storage hangs: slots, sanlock's leases, the VM's disk."""
    mend_leases = _lease_hang(target)
    mend_slots = _trouble(target, hang_reads_until=target.until, hang_writes_until=target.until)

    def mend() -> None:
        mend_leases()
        if mend_slots is not None:
            mend_slots()

    return mend


@kind("storage-error", "storage")
def storage_error(target: Target) -> Mend:
    """Every access of this host fails with an I/O error; qemu pauses its guest."""
    mend_leases = _lease_error(target)
    mend_slots = _trouble(target, read_error="io", write_error="io")

    def mend() -> None:
        mend_leases()
        if mend_slots is not None:
            mend_slots()

    return mend


@kind("storage-slow", "storage", seconds_each=Parameter(1.5, 0.01, 8.0))
def storage_slow(target: Target) -> Mend:
    """Each access of the slots takes so many seconds more."""
    return _trouble(target, latency=target.number("seconds_each"))


@kind("slots-hang", "storage")
def slots_hang(target: Target) -> Mend:
    """Only the slots' volume hangs; sanlock and the VM go on."""
    return _trouble(target, hang_reads_until=target.until, hang_writes_until=target.until)


@kind("slots-read-error", "storage")
def slots_read_error(target: Target) -> Mend:
    """The slots cannot be read."""
    return _trouble(target, read_error="io")


@kind("slots-write-error", "storage", code=Parameter("io", words=("io", "read-only", "full", "no-access")))
def slots_write_error(target: Target) -> Mend:
    """The slots can be read, not written."""
    return _trouble(target, write_error=str(target.values["code"]))


@kind("ghost-writes", "storage")
def ghost_writes(target: Target) -> Mend:
    """Writes of the slots hang, are given up, and arrive when the fault ends."""
    return _trouble(target, hang_writes_until=target.until, ghost=True)


@kind("torn-writes", "storage")
def torn_writes(target: Target) -> Mend:
    """Only the first sectors of a slot arrive, and the write is said to be good."""
    return _trouble(target, torn=True)


@kind("lost-writes", "storage")
def lost_writes(target: Target) -> Mend:
    """Writes are said to be good and never arrive."""
    return _trouble(target, lost=True)


@kind("stale-reads", "storage")
def stale_reads(target: Target) -> Mend:
    """This host reads the slots as they were when the fault began (a cache of the network file system)."""
    return _trouble(target, stale=dict(target.world.volume.slots))


@kind("volume-missing", "storage")
def volume_missing(target: Target) -> Mend:
    """The volume is not there: the storage is not mounted."""
    return _trouble(target, read_error="missing", write_error="missing", open_error="missing")


@kind("bit-rot", "storage", lasting=False, slot=Parameter(-1, -1, 2000), bits=Parameter(3, 1, 64))
def bit_rot(target: Target) -> Mend:
    """Some bits of a slot flip on the medium; by default of the host's own slot."""
    chosen = int(target.number("slot"))
    volume = target.world.volume
    volume.damage(target.host.conf_id if chosen < 0 else chosen, target.host.random, int(target.number("bits")))
    return None


@kind("line-rot", "storage", lasting=False, slot=Parameter(-1, -1, 2000))
def line_rot(target: Target) -> Mend:
    """One digit of a slot's time stamp is another one on the medium; by default in the host's own slot."""
    chosen = int(target.number("slot"))
    number = target.host.conf_id if chosen < 0 else chosen
    fields = target.world.volume.get(number).split(b"|")
    if len(fields) > 2 and fields[2][-1:].isdigit():
        fields[2] = fields[2][:-1] + b"%d" % ((int(fields[2][-1:]) + 1) % 10)
        target.world.volume.slots[number] = b"|".join(fields)
    return None


@kind("zeroed", "storage", lasting=False)
def zeroed(target: Target) -> Mend:
    """Somebody wrote zeros over the whole volume of slots."""
    target.world.volume.slots.clear()
    target.world.volume.put(0, GLOBAL_SLOT, bytes(SLOT_SIZE))
    return None


@kind("foreign-write", "storage", lasting=False, slot=Parameter(-1, -1, 2000))
def foreign_write(target: Target) -> Mend:
    """Some other software writes noise into a slot; by default into the host's own."""
    chosen = int(target.number("slot"))
    noise = bytes(target.host.random.randrange(256) for _ in range(SLOT_SIZE))
    target.world.volume.put(0, target.host.conf_id if chosen < 0 else chosen, noise)
    return None


@kind("lease-hang", "storage")
def lease_hang(target: Target) -> Mend:
    """sanlock's I/O and the VM's disk hang; the slots can be read and written."""
    return _lease_hang(target)


@kind("lease-error", "storage")
def lease_error(target: Target) -> Mend:
    """sanlock's I/O and the VM's disk fail; the slots can be read and written."""
    return _lease_error(target)


# --- hosts ------------------------------------------------------------------------------------------------------------


@kind("host-off", "host")
def host_off(target: Target) -> Mend:
    """Power loss; at the end of the fault it is switched on again."""
    target.host.switch_off()
    return lambda: target.host.switch_on()


@kind("host-reset", "host", lasting=False)
def host_reset(target: Target) -> Mend:
    """The machine is reset, and boots."""
    target.host.reset("reset")
    return None


@kind("host-shutdown", "host", limit=Parameter(600.0, 1.0, 3600.0))
def host_shutdown(target: Target) -> Mend:
    """`systemctl poweroff` or `reboot`: the VM leaves first, within the limit, then daemons and power go; at the end of
    the fault the host is switched on again."""
    host = target.host
    host.go_down(target.number("limit"))

    def mend() -> None:
        host.goes_down_at = None
        host.agent_wanted = host.broker_wanted = True
        host.switch_on()
        host.start_broker()
        host.start_agent()

    return mend


@kind("host-stun", "host")
def host_stun(target: Target) -> Mend:
    """Nothing of the machine runs for so long, not even its clock interrupts; a watchdog does."""
    target.host.stun(left(target))
    return None


@kind("host-suspend", "host")
def host_suspend(target: Target) -> Mend:
    """Suspend to memory: its monotonic clock stands still, its watchdog too."""
    target.host.stun(left(target), suspend=True)
    return None


@kind("slow-host", "host", seconds_each=Parameter(5.0, 0.1, 12.0))
def slow_host(target: Target) -> Mend:
    """Every cycle of its agent begins up to so many seconds late."""
    host = target.host
    host.jitter = target.number("seconds_each")

    def mend() -> None:
        host.jitter = host.spec.jitter

    return mend


@kind("wall-clock", "host", lasting=False, seconds_each=Parameter(-86400.0, -1e8, 1e8))
def wall_clock(target: Target) -> Mend:
    """Somebody sets the wall clock."""
    target.host.clock.step_wall(target.number("seconds_each"))
    return None


@kind("cpu-load", "host", share=Parameter(0.95, 0.0, 1.0))
def cpu_load(target: Target) -> Mend:
    """Load on its CPUs that is not the engine's."""
    return _condition(target, cpu_load=target.number("share"))


@kind("memory-low", "host", mib=Parameter(1024, 0, 1 << 20))
def memory_low(target: Target) -> Mend:
    """Less free memory than the VM needs."""
    return _condition(target, mem_free=int(target.number("mib")))


def _condition(target: Target, **changes: object) -> Mend:
    """Change what the host measures; the mend takes it back to what it is when all is well, as another fault may have
    begun meanwhile or before."""
    host = target.host
    well = Conditions(**host.spec.conditions)  # type: ignore[arg-type]

    def set_all(values: object) -> None:
        host.conditions = replace(host.conditions, **values)  # type: ignore[arg-type]
        if host.broker is not None:
            host.broker.probes.conditions_changed()

    set_all(changes)
    return lambda: set_all({name: getattr(well, name) for name in changes})


# --- network ----------------------------------------------------------------------------------------------------------


@kind("network-loss", "network", share=Parameter(0.0, 0.0, 1.0))
def network_loss(target: Target) -> Mend:
    """Only this share of its network probes is answered."""
    return _condition(target, network=target.number("share"))


@kind("bridge-down", "network")
def bridge_down(target: Target) -> Mend:
    """The management bridge is gone: the health page cannot be reached from here either."""
    return _condition(target, bridge=False, network=0.0, page_way=False)


@kind("probes-unknown", "network")
def probes_unknown(target: Target) -> Mend:
    """Network, bridge, memory and load cannot be measured."""
    return _condition(target, unknown=("network", "bridge", "mem_free", "cpu_load"))


@kind("migration-network-loss", "network")
def migration_network_loss(target: Target) -> Mend:
    """No host reaches another one for a migration."""
    world = target.world
    world.migration_network = False

    def mend() -> None:
        world.migration_network = True

    return mend


# --- daemons ----------------------------------------------------------------------------------------------------------


@kind("agent-kill", "daemon")
def agent_kill(target: Target) -> Mend:
    """kill -9 of the agent; systemd starts it again, or, with a duration, only after that."""
    host = target.host
    host.kill_agent(again=target.until >= FOREVER)
    return host.start_agent


@kind("agent-stop", "daemon")
def agent_stop(target: Target) -> Mend:
    """The agent is stopped cleanly."""
    host = target.host
    host.stop_agent()

    def mend() -> None:
        host.agent_wanted = True
        host.start_agent()

    return mend


@kind("agent-hang", "daemon")
def agent_hang(target: Target) -> Mend:
    """The agent stands still (SIGSTOP); its systemd watchdog, 15 s, ends and restarts it."""
    host, seat = target.host, target.host.agent
    if seat is None:
        return None
    host.timeline.hold(seat.scope)
    seat.scope.root = seat.scope
    host.timeline.after(min(15.0, left(target)), lambda: host.kill_agent() if host.agent is seat else None, host.scope)
    return None


@kind("broker-kill", "daemon")
def broker_kill(target: Target) -> Mend:
    """kill -9 of the broker; systemd starts it again, or, with a duration, only after that."""
    host = target.host
    host.kill_broker(again=target.until >= FOREVER)
    return host.start_broker


@kind("broker-stop", "daemon")
def broker_stop(target: Target) -> Mend:
    """The broker is stopped cleanly: it leaves `hosted-engine`."""
    host = target.host
    host.stop_broker()

    def mend() -> None:
        host.broker_wanted = True
        host.start_broker()

    return mend


@kind("broker-hang", "daemon")
def broker_hang(target: Target) -> Mend:
    """The broker answers nobody."""
    seat = target.host.broker
    if seat is None:
        return None
    seat.hung = True

    def mend() -> None:
        seat.hung = False

    return mend


@kind("libvirtd-kill", "daemon")
def libvirtd_kill(target: Target) -> Mend:
    """kill -9 of libvirtd; it is back after 2 s, or after the fault's duration."""
    host = target.host
    host.libvirt.daemon_down()
    if target.until < FOREVER:
        return host.libvirt.daemon_up
    host.timeline.after(2.0, host.libvirt.daemon_up, host.scope)
    return None


@kind("libvirtd-hang", "daemon")
def libvirtd_hang(target: Target) -> Mend:
    """No call to libvirt returns."""
    libvirt = target.host.libvirt
    libvirt.hung_until = target.until

    def mend() -> None:
        libvirt.hung_until = 0

    return mend


@kind("sanlock-kill", "daemon")
def sanlock_kill(target: Target) -> Mend:
    """kill -9 of sanlock; with a duration it is started again after that."""
    host = target.host
    host.kill_sanlock()
    return host.start_sanlock


@kind("sanlock-hang", "daemon")
def sanlock_hang(target: Target) -> Mend:
    """sanlock stands still: no renewal, no answer."""
    daemon = target.host.sanlock_daemon
    if daemon is None:
        return None
    daemon.hung_until = target.until

    def mend() -> None:
        daemon.hung_until = 0

    return mend


@kind("lockspace-removed", "daemon", lasting=False)
def lockspace_removed(target: Target) -> Mend:
    """Somebody removes the storage domain's lockspace: sanlock kills who holds a lease in it."""
    daemon = target.host.sanlock_daemon
    if daemon is not None and target.host.lease_space in daemon.spaces:
        daemon.leave(target.host.lease_space, unused=False)
    return None


@kind("watchdog-gone", "daemon")
def watchdog_gone(target: Target) -> Mend:
    """This host has no armed watchdog from the next start of its sanlock on."""
    host = target.host
    host.spec = replace(host.spec, watchdog=False)

    def mend() -> None:
        host.spec = replace(host.spec, watchdog=True)

    return mend


# --- the VM -----------------------------------------------------------------------------------------------------------


@kind("vm-crash", "vm", lasting=False)
def vm_crash(target: Target) -> Mend:
    """kill -9 of the VM's process."""
    for copy in target.host.libvirt.processes():
        target.host.libvirt.kill(copy, "crashed")
    return None


@kind("guest-panic", "vm", lasting=False)
def guest_panic(target: Target) -> Mend:
    """The guest's kernel is dead: no page, no disk, one CPU that spins."""
    copy = target.host.libvirt.domain
    if copy is not None:
        copy.guest.panicked = True
    return None


@kind("page-bad", "vm")
def page_bad(target: Target) -> Mend:
    """The engine's service is ill, its guest is not."""
    return _guest(target, "page_bad", True, False)


@kind("page-flaps", "vm", period=Parameter(20.0, 2.0, 600.0))
def page_flaps(target: Target) -> Mend:
    """The page is good and bad in turn, for so many seconds each."""
    return _guest(target, "flap", target.number("period"), 0.0)


@kind("page-slow", "vm", seconds_each=Parameter(8.0, 0.1, 60.0))
def page_slow(target: Target) -> Mend:
    """The page takes so many seconds."""
    return _guest(target, "slow", target.number("seconds_each"), 0.0)


def _guest(target: Target, name: str, value: object, healthy: object) -> Mend:
    copy = target.host.libvirt.domain
    if copy is None:
        return None
    guest = copy.guest
    setattr(guest, name, value)
    return lambda: setattr(guest, name, healthy)


@kind("guest-off", "vm", lasting=False)
def guest_off(target: Target) -> Mend:
    """The guest's administrator switches it off."""
    copy = target.host.libvirt.domain
    if copy is not None:
        target.host.libvirt.power_off(copy)
    return None


@kind("vm-pause", "vm", lasting=False, reason=Parameter("user", words=("user", "ioerror", "watchdog", "crashed")))
def vm_pause(target: Target) -> Mend:
    """The VM is paused: by hand, or by qemu."""
    target.host.libvirt.pause(str(target.values["reason"]))
    return None


@kind("vm-resume", "vm", lasting=False)
def vm_resume(target: Target) -> Mend:
    """Somebody resumes it by hand."""
    target.host.libvirt.resume()
    return None


@kind("vm-deaf", "vm")
def vm_deaf(target: Target) -> Mend:
    """qemu does not hear SIGTERM."""
    copy = target.host.libvirt.domain
    if copy is not None:
        copy.deaf = True
    return None


@kind("start-fails", "vm")
def start_fails(target: Target) -> Mend:
    """libvirt cannot create the VM here."""
    flow = target.host.libvirt.flow
    flow.create_error = "internal error: the machine type is not supported"

    def mend() -> None:
        flow.create_error = ""

    return mend


@kind("never-boots", "vm")
def never_boots(target: Target) -> Mend:
    """Guests that are started from now on do not come up."""
    world = target.world
    world.guest_boot = None

    def mend() -> None:
        world.guest_boot = world.spec.guest_boot

    return mend


@kind("ignores-shutdown", "vm")
def ignores_shutdown(target: Target) -> Mend:
    """The guest does not follow the ACPI button."""
    flow = target.host.libvirt.flow
    flow.ignore_shutdown = True

    def mend() -> None:
        flow.ignore_shutdown = False

    return mend


@kind("migration-fails", "vm", way=Parameter(move.FAILS, words=move.WAYS))
def migration_fails(target: Target) -> Mend:
    """How migrations out of this host go wrong."""
    flow = target.host.libvirt.flow
    flow.move = str(target.values["way"])

    def mend() -> None:
        flow.move = ""

    return mend


@kind("events-lost", "vm")
def events_lost(target: Target) -> Mend:
    """libvirt's events do not arrive."""
    mail = target.host.mail
    mail.lost = True

    def mend() -> None:
        mail.lost = False

    return mend


@kind("events-late", "vm", seconds_each=Parameter(3.0, 0.1, 20.0))
def events_late(target: Target) -> Mend:
    """libvirt's events arrive late."""
    mail = target.host.mail
    mail.delay = target.number("seconds_each")

    def mend() -> None:
        mail.delay = 0.0

    return mend


@kind("definition-broken", "vm", problem=Parameter("no-lease", words=("no-lease", "foreign-lease", "disk-format")))
def definition_broken(target: Target) -> Mend:
    """The VM's definition, as this host reads it, is refused."""
    host = target.host
    host.definition_problem = str(target.values["problem"])

    def mend() -> None:
        host.definition_problem = ""

    return mend


# --- the operator -----------------------------------------------------------------------------------------------------


@kind("local-maintenance", "operator")
def local_maintenance(target: Target) -> Mend:
    """`hosted-engine --set-maintenance --mode=local` on this host; its end is `--mode=none`."""
    host = target.host
    host.ha_conf = HaConf(local_maintenance=True, manual=True)

    def mend() -> None:
        host.ha_conf = HaConf()

    return mend


@kind("global-maintenance", "operator")
def global_maintenance(target: Target) -> Mend:
    """`hosted-engine --set-maintenance --mode=global` on this host; its end is `--mode=none`."""
    set_global(target, True)
    return lambda: set_global(target, False)


def set_global(target: Target, on: bool) -> None:
    """The operator repeats a command that failed until it works, or until he wants the other thing."""
    target.world.flag_wanted = on
    _set_global(target, on)


def _set_global(target: Target, on: bool) -> None:
    host = target.host
    if target.world.flag_wanted is not on:
        return
    if isinstance(host, UpstreamMachine) and host.upstream:
        if not host.model.set_global_maintenance(on):
            target.world.timeline.after(5.0, lambda: _set_global(target, on))
        return
    try:
        DirectLink(target.host, 5.0).put_stats(GLOBAL_SLOT, slot.encode_global(on))
    except BrokerError as error:
        target.world.note(target.host.number, f"slot 0 was not written: {error}")
        target.world.timeline.after(5.0, lambda: _set_global(target, on))


@kind("clean-metadata", "operator", lasting=False, slot=Parameter(2, 1, 2000))
def clean_metadata(target: Target) -> Mend:
    """`hosted-engine --clean-metadata --host-id=N` on this host."""
    number = int(target.number("slot"))
    target.world.invariants.cleaned(number)
    try:
        DirectLink(target.host, 5.0).put_stats(number, bytes(SLOT_SIZE))
        target.world.note(target.host.number, f"slot {number} cleaned")
    except BrokerError:
        target.world.note(target.host.number, f"slot {number} not cleaned")
    return None


@kind("wrong-host-id", "operator", id=Parameter(1, 1, 250))
def wrong_host_id(target: Target) -> Mend:
    """The host is reset, and comes up with another host id in its configuration."""
    host = target.host
    host.conf_id = int(target.number("id"))
    host.reset("reset, with another host id")

    def mend() -> None:
        host.conf_id = host.spec.conf_id or host.number
        host.reset("reset, with its own host id again")

    return mend


@kind("hand-start", "operator", lasting=False)
def hand_start(target: Target) -> Mend:
    """Somebody starts the VM on this host by hand, with its lease."""

    def done(outcome: Outcome, detail: str) -> None:
        target.host.trace(f"started by hand: {outcome.value} {detail}".rstrip())

    target.host.libvirt.create(60.0, done)
    return None


@kind("hand-migrate", "operator", lasting=False, to=Parameter(2, 1, 250))
def hand_migrate(target: Target) -> Mend:
    """Somebody (the engine itself) migrates the VM."""

    def done(outcome: Outcome, detail: str) -> None:
        target.host.trace(f"migrated by hand: {outcome.value} {detail}".rstrip())

    target.host.libvirt.migrate(target.host.destination(int(target.number("to"))), 300.0, done)
    return None


@kind("hand-shutdown", "operator", lasting=False)
def hand_shutdown(target: Target) -> Mend:
    """Somebody shuts the VM down through libvirt."""
    target.host.libvirt.shutdown(30.0, lambda outcome, detail: None)
    return None
