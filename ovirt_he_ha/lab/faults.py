"""Faults, injected one at a time. Each returns the moment (monotonic wall seconds) just before it struck."""

import time

from ovirt_he_ha.lab import cluster, control, process
from ovirt_he_ha.lab.layout import LabError, LabHost

SERVICES = ("agent", "broker", "libvirtd")
KINDS = ("vm", *SERVICES, "host")


class NoEngineHere(LabError):
    def __init__(self, host: LabHost) -> None:
        super().__init__(f"{host.name} does not run the engine VM: `he-lab status` shows where it runs.")


def kill(host: LabHost, what: str) -> float:
    """``what``: one of :data:`KINDS`. Raises LabError."""
    if what == "vm":
        return kill_vm(host)
    if what == "host":
        return power_off([host])
    return float(control.call(host.control, "kill", service=what)["at"])


def kill_vm(host: LabHost) -> float:
    """kill -9 of the engine's QEMU, from outside the host."""
    if cluster.host_init(host) is None:
        raise cluster.HostOff(host)
    engines = process.engines(host.lab.identity.vm, cluster.namespace(host))
    if not engines:
        raise NoEngineHere(host)
    at = time.monotonic()
    for engine in engines:
        process.kill(engine)
    return at


def power_off(hosts: "list[LabHost]") -> float:
    lab = hosts[0].lab
    return float(control.call(lab.control, "power-off", hosts=[host.host_id for host in hosts])["at"])


def power_on(hosts: "list[LabHost]") -> float:
    lab = hosts[0].lab
    return float(control.call(lab.control, "power-on", hosts=[host.host_id for host in hosts])["at"])
