"""Faults, injected one at a time. Each returns the moment (monotonic wall seconds) just before it struck. Those of a
guest end with that copy of the VM, those of a host's network with its power; `he-lab down` ends everything."""

import signal
import time
from typing import Any, Dict, List, Sequence

from ovirt_he_ha.lab import cluster, control, guest, network, process, state, view
from ovirt_he_ha.lab.layout import ENGINE_NAME, Lab, LabError, LabHost

SERVICES = ("agent", "broker", "libvirtd", "sanlock", "wdmd")
KINDS = ("vm", *SERVICES, "host")
# The guest obeys all but the first, which holds its process.
HANGS = {"qemu": "SIGSTOP to its qemu process", **guest.WORDS}
VIRSH_LIMIT = 30.0
LOOK_LIMIT = 5.0


class NoEngineHere(LabError):
    def __init__(self, host: LabHost) -> None:
        super().__init__(f"{host.name} does not run the engine VM: `he-lab status` shows where it runs.")


class NoEngine(LabError):
    def __init__(self) -> None:
        super().__init__("No host runs the engine VM: `he-lab status` shows the hosts.")


class SeveralEngines(LabError):
    def __init__(self, hosts: Sequence[LabHost]) -> None:
        names = " and ".join(host.name for host in hosts)
        super().__init__(
            f"The engine VM has processes on {names}: pause and resume take --host, a hang needs one to be left."
        )


class CommandRefused(LabError):
    def __init__(self, what: str, host: LabHost, detail: str) -> None:
        super().__init__(f"{what} on {host.name} failed: {' '.join(detail.split()) or 'no answer in time'}")


def kill(host: LabHost, what: str) -> float:
    """``what``: one of :data:`KINDS`. Raises LabError."""
    if what == "vm":
        return kill_vm(host)
    if what == "host":
        return power_off([host])
    if cluster.host_init(host) is None:
        raise cluster.HostOff(host)
    return float(control.call(host.control, "kill", service=what)["at"])


def kill_vm(host: LabHost) -> float:
    """kill -9 of the engine's QEMU, from outside the host."""
    engines = _engines(host)
    at = time.monotonic()
    for engine in engines:
        process.kill(engine)
    return at


def _engines(host: LabHost) -> List[process.ProcessId]:
    """The engine's processes on that host, at least one. Raises HostOff, NoEngineHere."""
    if cluster.host_init(host) is None:
        raise cluster.HostOff(host)
    engines = process.engines(host.lab.identity.vm, cluster.namespace(host))
    if not engines:
        raise NoEngineHere(host)
    return engines


def power_off(hosts: "list[LabHost]") -> float:
    lab = hosts[0].lab
    return float(control.call(lab.control, "power-off", hosts=[host.host_id for host in hosts])["at"])


def power_on(hosts: "list[LabHost]") -> float:
    lab = hosts[0].lab
    return float(control.call(lab.control, "power-on", hosts=[host.host_id for host in hosts])["at"])


def engine_host(lab: Lab) -> LabHost:
    """The one host where the VM has a process. Raises NoEngine, SeveralEngines."""
    hosts = [lab.host(host_id) for host_id in lab.host_ids]
    found = [host for host in hosts if process.engines(lab.identity.vm, cluster.namespace(host))]
    if not found:
        raise NoEngine()
    if len(found) > 1:
        raise SeveralEngines(found)
    return found[0]


def hang_vm(lab: Lab, how: str) -> float:
    """``how``: one of :data:`HANGS`; hangs add up. A new copy of the VM is well again; ``ok`` undoes all but
    ``guest`` and ``panic``. Raises LabError, GuestUnreachable when the guest cannot be told."""
    host = engine_host(lab)
    copies = _engines(host)
    if how == "qemu":
        return _signal(copies, signal.SIGSTOP)
    if how == "ok":
        _signal(copies, signal.SIGCONT)
    book = guest.Book(lab)
    hung = book.hangs(copies)
    at = guest.tell(lab, how)
    book.write(copies[0], [] if how == "ok" else sorted({*hung, how}))
    return at


def _signal(copies: Sequence[process.ProcessId], signum: int) -> float:
    at = time.monotonic()
    for copy in copies:
        process.kill(copy, signum)
    return at


def pause_vm(host: LabHost) -> float:
    """`virsh suspend` by an administrator's hand. Raises LabError."""
    return _virsh(host, "suspend")


def resume_vm(host: LabHost) -> float:
    """`virsh resume` by an administrator's hand. Raises CommandRefused when libvirt does not do it: without the lease
    it must not."""
    return _virsh(host, "resume")


def _virsh(host: LabHost, verb: str) -> float:
    _engines(host)
    at = time.monotonic()
    done = cluster.inside(host, ["virsh", verb, ENGINE_NAME], limit=VIRSH_LIMIT, capture_output=True, text=True)
    if done.returncode:
        raise CommandRefused(f"`virsh {verb} {ENGINE_NAME}`", host, done.stderr)
    return at


def network_down(host: LabHost, second: bool = False) -> float:
    """The switch's port of the host's management cable goes down; with ``second`` that of its other network, too. The
    host sees the link without a carrier, and a VM there shares its fate. Raises HostOff."""
    return _ports([host], "down", network.NETWORKS if second else network.NETWORKS[:1])


def second_network_down(host: LabHost) -> float:
    """Only the network of migrations. Raises HostOff."""
    return _ports([host], "down", network.NETWORKS[1:])


def network_up(host: LabHost) -> float:
    """All of the host's networks. Raises HostOff."""
    return _ports([host], "up", network.NETWORKS)


def _ports(hosts: Sequence[LabHost], way: str, networks: Sequence[str]) -> float:
    for host in hosts:
        if cluster.host_init(host) is None:
            raise cluster.HostOff(host)
    numbers = [network.NETWORKS.index(name) for name in networks]
    return _fabric(hosts[0].lab, [network.port_command(host, number, way) for host in hosts for number in numbers])


def gateway_down(lab: Lab) -> float:
    """The gateway vanishes from the management network, for all hosts; they and the engine reach each other, and the
    engine's page is reached from the desk."""
    return _fabric(lab, network.gateway_commands(lab, False)) if _gateway_is_up(lab) else time.monotonic()


def gateway_up(lab: Lab) -> float:
    return _fabric(lab, network.gateway_commands(lab, True))


def all_networks_up(lab: Lab) -> float:
    """Undo every fault of a network."""
    at = gateway_up(lab)
    on = [host for host in map(lab.host, lab.host_ids) if cluster.host_init(host) is not None]
    if on:
        _ports(on, "up", network.NETWORKS)
    return at


def _keeper(lab: Lab) -> int:
    keeper = state.keeper_of(lab.directory)
    if keeper is None:
        raise state.NotRunning(lab.directory)
    return keeper.pid


def _fabric(lab: Lab, commands: Sequence[str]) -> float:
    pid = _keeper(lab)
    at = time.monotonic()
    network.batch(commands, pid)
    return at


def _gateway_is_up(lab: Lab) -> bool:
    return network.fabric(_keeper(lab)).has_gateway(lab)


def in_force(lab: Lab, on: Sequence[int]) -> Dict[str, Any]:
    """What is broken now in the lab whose powered hosts are ``on``, mostly as it is found, not as it was asked for:
    ``gateway`` True when it is gone; ``network`` and ``storage`` by host, those that work left out; ``guest``: words
    of :data:`HANGS`, and ``paused``."""
    switches = network.fabric(_keeper(lab))
    hosts = [lab.host(host_id) for host_id in on]
    cut = {host.host_id: switches.cut(host) for host in hosts}
    storage = {host.host_id: _storage(host) for host in hosts}
    return {
        "gateway": not switches.has_gateway(lab),
        "network": {host_id: networks for host_id, networks in cut.items() if networks},
        "storage": {host_id: mode for host_id, mode in storage.items() if mode != view.OK},
        "guest": _guest_faults(lab, hosts),
    }


def _storage(host: LabHost) -> str:
    try:
        return view.storage_mode(host)
    except LabError:
        return "unknown"  # it lost its power meanwhile


def _guest_faults(lab: Lab, hosts: Sequence[LabHost]) -> List[str]:
    copies = {host: process.engines(lab.identity.vm, cluster.namespace(host)) for host in hosts}
    every = [copy for found in copies.values() for copy in found]
    words = guest.Book(lab).hangs(every)
    words += ["qemu"] if any(map(guest.stopped, every)) else []
    words += ["paused"] if any(found and _is_paused(host) for host, found in copies.items()) else []
    return words


def _is_paused(host: LabHost) -> bool:
    """False, too, when libvirt does not answer."""
    words = ["virsh", "domstate", ENGINE_NAME]
    done = cluster.inside(host, words, limit=LOOK_LIMIT, capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == "paused"
