"""Whether peers reach this host's libvirt over another network than the management network: only then can the VM be
moved away from a host that lost the latter. Asks the kernel, never a resolver, and starts no process."""

import fcntl
import socket
import struct
from pathlib import Path
from typing import Iterator, Optional, Tuple

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_IF_INET6 = Path("/proc/net/if_inet6")

Network = Tuple[int, int]  # address and mask, as numbers


def reaches(address: str, bridge: str) -> Optional[bool]:
    """``address``: where peers send the VM. None: there is none, it is a name, or the bridge's own networks are not
    known."""
    family, number = _number(address.strip("[]").partition("%")[0])
    if number is None:
        return None
    networks = list(networks_of(bridge, family))
    if not networks:
        return None
    return not any(number & mask == own & mask for own, mask in networks)


def _number(address: str) -> Tuple[int, Optional[int]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return family, int.from_bytes(socket.inet_pton(family, address), "big")
        except OSError:
            continue
    return socket.AF_INET, None


def networks_of(bridge: str, family: int) -> Iterator[Network]:
    """None if there is no such device, or it has no address of that family."""
    yield from _ipv4(bridge) if family == socket.AF_INET else _ipv6(bridge)


def _ipv4(bridge: str) -> Iterator[Network]:
    request = struct.pack("256s", bridge.encode("utf-8", "replace")[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            found = [fcntl.ioctl(handle.fileno(), code, request)[20:24] for code in (_SIOCGIFADDR, _SIOCGIFNETMASK)]
    except OSError:
        return
    yield int.from_bytes(found[0], "big"), int.from_bytes(found[1], "big")


def _ipv6(bridge: str) -> Iterator[Network]:
    try:
        lines = _IF_INET6.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for words in map(str.split, lines):
        if len(words) == 6 and words[5] == bridge:
            prefix = int(words[2], 16)
            yield int(words[0], 16), ((1 << prefix) - 1) << (128 - prefix) if prefix else 0
