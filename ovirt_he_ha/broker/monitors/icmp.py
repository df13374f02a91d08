"""ICMP echo without a process: IPv4 and IPv6, raw sockets (CAP_NET_RAW) or the kernel's unprivileged ping sockets."""

import random
import selectors
import socket
import struct
from typing import Any, Optional, Tuple

from ovirt_he_ha.broker.monitors.frame import Unmeasured

IPV4, IPV6 = int(socket.AF_INET), int(socket.AF_INET6)
ECHO_REQUEST = {IPV4: 8, IPV6: 128}
ECHO_REPLY = {IPV4: 0, IPV6: 129}
_PROTOCOL = {IPV4: socket.IPPROTO_ICMP, IPV6: socket.IPPROTO_ICMPV6}
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_PAYLOAD = b"ovirt-he-ha network monitor"
_LARGEST = 2048  # bytes of a datagram worth looking at; ours are 56


def checksum(data: bytes) -> int:
    """The Internet checksum: ones' complement of the ones' complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(family: int, ident: int, sequence: int) -> bytes:
    """The message as sent. For IPv6 the kernel fills in the checksum, which covers the addresses."""
    head = _HEADER.pack(ECHO_REQUEST[family], 0, 0, ident, sequence)
    total = checksum(head + _PAYLOAD) if family == IPV4 else 0
    return _HEADER.pack(ECHO_REQUEST[family], 0, total, ident, sequence) + _PAYLOAD


def parse_reply(family: int, datagram: bytes, with_ip_header: bool) -> Optional[Tuple[int, int]]:
    """Identifier and sequence of an echo reply; None for anything else, whatever the bytes are."""
    if with_ip_header:
        length = (datagram[0] & 0x0F) * 4 if datagram else 0
        if length < 20:
            return None
        datagram = datagram[length:]
    if len(datagram) < _HEADER.size:
        return None
    kind, code, _, ident, sequence = _HEADER.unpack_from(datagram)
    return (ident, sequence) if kind == ECHO_REPLY[family] and code == 0 else None


def _open(family: int) -> socket.socket:
    """A raw socket, else a ping socket. Raises Unmeasured ``no-permission`` when this process may have neither."""
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        try:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK, _PROTOCOL[family])
        except PermissionError:
            continue
    raise Unmeasured(
        "no-permission",
        "cannot send ICMP: the broker needs CAP_NET_RAW (its unit grants it) or a group in net.ipv4.ping_group_range",
    )


class Echo:
    """One echo request and the wait for its reply. Counts only if identifier, sequence and source are ours."""

    def __init__(self, family: int, address: Tuple[Any, ...], sequence: int) -> None:
        """``address``: a socket address. Raises OSError when it cannot be sent, Unmeasured ``no-permission``."""
        self._family = family
        self._address = address
        self._sequence = sequence & 0xFFFF
        self._ident = random.randrange(1, 0x10000)
        self._socket = _open(family)
        try:
            self._raw = self._socket.type == socket.SOCK_RAW
            self._socket.connect(address)  # the kernel then drops what comes from elsewhere
            self._socket.send(echo_request(family, self._ident, self._sequence))
            if not self._raw:
                self._ident = self._socket.getsockname()[1]  # the kernel puts its own identifier into the request
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def events(self) -> int:
        return selectors.EVENT_READ

    def advance(self) -> Optional[bool]:
        try:
            datagram, source = self._socket.recvfrom(_LARGEST)
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error for our request (unreachable) comes as the socket's error
            return False
        return True if self.matches(datagram, source) else None

    def matches(self, datagram: bytes, source: Tuple[Any, ...]) -> bool:
        with_header = self._raw and self._family == IPV4
        reply = parse_reply(self._family, datagram, with_header)
        return reply == (self._ident, self._sequence) and _host(source) == _host(self._address)

    def close(self) -> None:
        self._socket.close()


def _host(address: Tuple[Any, ...]) -> str:
    """The address without its scope: the kernel names an interface in one direction and not in the other."""
    return str(address[0]).partition("%")[0]
