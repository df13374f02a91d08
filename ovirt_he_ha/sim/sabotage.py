"""What people do to a cluster with other tools than ours: to its slots, its leases, its configuration.

Only named scenarios do such things. Chance does not: who takes a running VM's lease away has broken a rule himself.
"""

from binascii import crc32
from dataclasses import replace
from typing import Callable, Dict

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import SLOT_SIZE, EngineStatus, Health, LeaseOwner, Record, Vm
from ovirt_he_ha.sim.faults import Mend, Parameter, Target, kind

_LINE = slot.LINE_SIZE
_CRC = 9  # field of the host line


def _relined(data: bytes, change: Callable[[Dict[int, bytes]], None]) -> bytes:
    """The slot with other fields in its host line, and the checksum made anew."""
    fields = dict(enumerate(data[:_LINE].rstrip(b"\0").split(b"|")))
    change(fields)
    fields[_CRC] = b"00000000"
    fields[_CRC] = b"%08x" % crc32(b"|".join(fields[at] for at in sorted(fields)))
    return b"|".join(fields[at] for at in sorted(fields)).ljust(_LINE, b"\0") + data[_LINE:]


def _too_new(data: bytes, number: int) -> bytes:
    return _relined(data, lambda fields: fields.update({0: b"9"}))


def _foreign(data: bytes, number: int) -> bytes:
    return _relined(data, lambda fields: fields.update({3: b"%d" % (number + 1)}))


def _multibyte(data: bytes, number: int) -> bytes:
    return _relined(data, lambda fields: fields.update({6: "höst".encode()}))


def _short(data: bytes, number: int) -> bytes:
    return b"1|1|5".ljust(SLOT_SIZE, b"\0")


def _up(data: bytes, number: int) -> bytes:
    found = slot.decode(number, data)
    before = found if isinstance(found, Record) else Record(number, 1, 0, None, f"host{number}")
    engine = EngineStatus(Vm.UP, Health.GOOD, "Up")
    return slot.encode(replace(before, engine=engine, timestamp=before.timestamp + 1), 0.0)


_FORMS: Dict[str, Callable[[bytes, int], bytes]] = {
    "too-new": _too_new, "foreign-id": _foreign, "multibyte": _multibyte, "short": _short, "up": _up,
}  # fmt: skip


@kind(
    "slot-forged", "sabotage", lasting=False, slot=Parameter(-1, -1, 2000),
    content=Parameter("too-new", words=tuple(sorted(_FORMS))),
)  # fmt: skip
def slot_forged(target: Target) -> Mend:
    """Some other software writes a slot that is nearly right; by default the host's own."""
    chosen = int(target.number("slot"))
    number = target.host.conf_id if chosen < 0 else chosen
    volume = target.world.volume
    volume.put(0, number, _FORMS[str(target.values["content"])](volume.get(number), number))
    return None


@kind("volume-back", "sabotage")
def volume_back(target: Target) -> Mend:
    """At the end of the fault the slots are what they were at its beginning: a snapshot of the storage was restored."""
    volume = target.world.volume
    before = dict(volume.slots)

    def mend() -> None:
        for number in sorted(set(before) | set(volume.slots)):
            volume.put(0, number, before.get(number, bytes(SLOT_SIZE)))

    return mend


@kind("lease-released", "sabotage", lasting=False)
def lease_released(target: Target) -> Mend:
    """Somebody releases the VM's lease with sanlock's own command, while the VM runs."""
    daemon = target.host.sanlock()
    for copy in target.host.libvirt.processes():
        if daemon is not None:
            daemon.release(copy.pid)
    return None


@kind("lease-cleared", "sabotage", lasting=False)
def lease_cleared(target: Target) -> Mend:
    """Somebody initialises the VM's lease anew on the storage, while the VM runs."""
    target.world.disk.set_owner(LeaseOwner(0))
    return None


@kind("lease-other", "sabotage")
def lease_other(target: Target) -> Mend:
    """The configuration of this host names another lease for the VM; its agent is restarted."""
    host, right = target.host, target.host.lease

    def set_to(offset: int) -> None:
        host.lease = replace(right, offset=offset)
        host.kill_agent()

    set_to(1 << 20)
    return lambda: set_to(right.offset)


@kind("host-id-edited", "sabotage", id=Parameter(2, 1, 250))
def host_id_edited(target: Target) -> Mend:
    """The host id in this host's configuration is another one now, and its daemons are restarted, nothing else."""
    host = target.host

    def set_to(number: int) -> None:
        host.conf_id = number
        host.kill_agent()
        host.kill_broker()

    set_to(int(target.number("id")))
    return lambda: set_to(host.spec.conf_id or host.number)


@kind("ha-conf-broken", "sabotage")
def ha_conf_broken(target: Target) -> Mend:
    """ha.conf of this host cannot be read."""
    host = target.host
    host.ha_conf_problem = "not a flag"

    def mend() -> None:
        host.ha_conf_problem = ""

    return mend


@kind("guest-agent", "sabotage")
def guest_agent(target: Target) -> Mend:
    """The guest's agent answers, and is dead at the end of the fault."""
    copy = target.host.libvirt.domain
    if copy is None:
        return None
    guest = copy.guest
    guest.agent = True

    def mend() -> None:
        guest.agent = False

    return mend
