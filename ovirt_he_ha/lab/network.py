"""The lab's networks. All of them live in namespaces; of the machine's own only the routes are read."""

import ipaddress
import json
import logging
import socket
import subprocess
import time
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.lab.layout import BRIDGE, Lab, LabError, LabHost

log = logging.getLogger(__name__)

NETWORKS = ("management", "second")
FABRIC_BRIDGES = ("mgmt0", "second0")
DESK = 253  # of the management network
UNPLUG_ALONE = 1.0  # seconds; then the cables of a last boot are pulled
UNPLUG_LIMIT = 30.0


class NoFreeSubnet(LabError):
    def __init__(self) -> None:
        super().__init__("Every network the lab would choose is in use here: name one with --subnet A.B.C.0/24.")


class BadSubnet(LabError):
    def __init__(self, subnet: str, why: str) -> None:
        super().__init__(
            f"--subnet {subnet}: {why}. Expected a network such as 10.77.0.0/24; the next /24 is taken too."
        )


class CommandFailed(LabError):
    def __init__(self, argv: Sequence[str], detail: str) -> None:
        super().__init__(f"`{' '.join(argv)}` failed: {detail.strip()}")


class StillPlugged(LabError):
    def __init__(self, name: str, ports: Iterable[str]) -> None:
        super().__init__(f"{name} is not powered on: its last boot's cables are there still ({', '.join(ports)}).")


def run(argv: Sequence[str], stdin: str = "") -> str:
    """Run to the end; raises CommandFailed with its last words."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(argv, done.stderr or done.stdout or f"exit code {done.returncode}")
    return done.stdout


def machine_networks() -> List[ipaddress.IPv4Network]:
    """What this machine can reach by a route of its own, the default route left out."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    return _parse(str(route.get("dst", "")) for route in routes)


def _parse(texts: Iterable[str]) -> List[ipaddress.IPv4Network]:
    found = []
    for text in texts:
        try:
            found.append(ipaddress.IPv4Network(text, strict=False))
        except ValueError:
            continue  # "default" and the like
    return found


def pair(subnet: str) -> Tuple[ipaddress.IPv4Network, ipaddress.IPv4Network]:
    """Management and second network for a given management /24. Raises BadSubnet."""
    try:
        first = ipaddress.IPv4Network(subnet)
        second = ipaddress.IPv4Network((int(first.network_address) + 256, 24))
    except ValueError as e:
        raise BadSubnet(subnet, str(e)) from e
    if first.prefixlen != 24:
        raise BadSubnet(subnet, f"a /{first.prefixlen}")
    return first, second


def choose(subnet: str, taken: Sequence[ipaddress.IPv4Network]) -> Tuple[str, str]:
    """The two networks as text: the one asked for, else the first pair that meets no route of this machine, so that
    nobody mistakes a lab address for a real one (inside the namespaces they could not clash anyway)."""
    if subnet:
        first, second = pair(subnet)
        return str(first), str(second)
    for third in range(0, 254, 2):
        first, second = pair(f"10.77.{third}.0/24")
        if not any(net.overlaps(first) or net.overlaps(second) for net in taken):
            return str(first), str(second)
    raise NoFreeSubnet()


def desk_address(lab: Lab) -> str:
    """Where people sit: from here the observer asks for the engine's page, with or without a gateway. The engine's
    control page obeys this address only."""
    return str(ipaddress.ip_network(lab.management)[DESK])


def fabric_commands(lab: Lab) -> List[str]:
    """Both switches; the management one carries the desk and the gateway that the hosts' network test pings. The desk
    first: the kernel sends from the first address, and the other one can go without it."""
    mgmt, second = FABRIC_BRIDGES
    return [
        "link set lo up",
        f"link add {mgmt} type bridge",
        f"link set {mgmt} address 02:4e:ff:00:00:01 up",
        f"addr add {desk_address(lab)}/24 dev {mgmt}",
        *gateway_commands(lab, True),
        f"link add {second} type bridge",
        f"link set {second} up",
    ]


def gateway_commands(lab: Lab, present: bool) -> List[str]:
    """Gone, it does not even answer ARP: the hosts learn within some seconds that it is unreachable."""
    return [f"addr {'replace' if present else 'del'} {lab.gateway}/24 dev {FABRIC_BRIDGES[0]}"]


def port_command(host: LabHost, network: int, way: str) -> str:
    """``way``: ``up`` or ``down``. The host's end loses or gets its carrier, as with a cable pulled or plugged in."""
    return f"link set {port_name(host, network)} {way}"


def plug_commands(host: LabHost, pid: int) -> List[str]:
    """Cables from the switches into the network namespace of ``pid``; they vanish with that namespace."""
    commands = []
    for number, bridge in enumerate(FABRIC_BRIDGES):
        port = port_name(host, number)
        commands += [
            f"link add {port} type veth peer name eth{number} address {host.mac(number)} netns {pid}",
            f"link set {port} master {bridge} up",
        ]
    return commands


def port_name(host: LabHost, network: int) -> str:
    """The switch's end of a host's cable: 0 management, 1 second."""
    return f"{host.name}-{network}"


def await_unplugged(host: LabHost) -> None:
    """The cables of a host's last boot vanish with its network namespace, and the kernel ends those one after the
    other, also those of others on this machine: some 10 ms after the last process, or seconds. Raises StillPlugged."""
    ports = {port_name(host, number) for number in range(len(FABRIC_BRIDGES))}
    begun, pulled = time.monotonic(), False
    while True:
        left = ports & {name for _, name in socket.if_nameindex()}
        if not left:
            return
        waited = time.monotonic() - begun
        if waited > UNPLUG_LIMIT:
            raise StillPlugged(host.name, left)
        if waited > UNPLUG_ALONE and not pulled:
            pulled = True
            for port in left:
                _pull(port)
        time.sleep(0.005)


def _pull(port: str) -> None:
    """With one end of a cable the other goes."""
    try:
        run(["ip", "link", "delete", port])
    except CommandFailed as gone:  # it went in this moment
        log.info("%s", gone)


def host_commands(host: LabHost) -> List[str]:
    return [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"link set {BRIDGE} address {host.mac(0)}",
        f"link set eth0 master {BRIDGE} up",
        f"link set {BRIDGE} up",
        f"addr add {host.address}/24 dev {BRIDGE}",
        f"route add default via {host.lab.gateway}",
        f"addr add {host.second_address}/24 dev eth1",
        "link set eth1 up",
    ]


class Fabric:
    """What the switches look like now: the answer to `ip -json addr show` there."""

    def __init__(self, links: Iterable[Mapping[str, Any]]) -> None:
        self._links = {str(link["ifname"]): link for link in links}

    def has_gateway(self, lab: Lab) -> bool:
        addresses = self._links.get(FABRIC_BRIDGES[0], {}).get("addr_info", [])
        return any(address.get("local") == lab.gateway for address in addresses)

    def cut(self, host: LabHost) -> List[str]:
        """Of :data:`NETWORKS`, those whose cable to this host is cut. A host without power has no cables."""
        ports = [(name, self._links.get(port_name(host, number))) for number, name in enumerate(NETWORKS)]
        return [name for name, port in ports if port is not None and "UP" not in port["flags"]]


def fabric(pid: int) -> Fabric:
    """Of the network namespace of ``pid``. Raises CommandFailed."""
    return Fabric(json.loads(run([*_enter(pid), "ip", "-json", "addr", "show"])))


def _enter(pid: Optional[int]) -> List[str]:
    return [] if pid is None else ["nsenter", "-t", str(pid), "-n", "--"]


def batch(commands: Sequence[str], pid: Optional[int] = None) -> None:
    """Run ``ip`` commands in the caller's network namespace, or that of process ``pid``; all or an error."""
    run([*_enter(pid), "ip", "-batch", "-"], "\n".join(commands) + "\n")
