"""One DNS query over TCP: the root's name servers, asked of the configured resolvers."""

import selectors
import socket
import struct
from pathlib import Path
from typing import Any, List, Optional, Tuple

import dns.exception
import dns.message
import dns.rcode
import dns.resolver

from ovirt_he_ha.broker.monitors.frame import Unmeasured

PORT = 53
Server = Tuple[int, Tuple[Any, ...]]  # address family and socket address


def configured_servers(resolv_conf: Path, port: int = PORT) -> List[Server]:
    """The resolvers of a resolv.conf, in its order. Raises Unmeasured ``no-resolver`` when it names none."""
    try:
        names = [str(name) for name in dns.resolver.Resolver(filename=str(resolv_conf)).nameservers]
    except (dns.exception.DNSException, OSError, ValueError) as problem:
        raise Unmeasured("no-resolver", f"{resolv_conf}: {problem}") from problem
    found: List[Server] = []
    for name in names:
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except OSError:
            continue
        found.append((int(infos[0][0]), infos[0][4]))
    if not found:
        raise Unmeasured("no-resolver", f"{resolv_conf} names no usable name server")
    return found


def root_query() -> dns.message.Message:
    return dns.message.make_query(".", "NS")


def answers(query: dns.message.Message, wire: bytes) -> bool:
    """Is this a name server's answer to the query? Any code but SERVFAIL counts: a server that refuses to speak of
    the root is reached all the same, one that fails has probably lost its own uplink. What it says is not read: 64 KiB
    of it may take seconds."""
    try:
        reply = dns.message.from_wire(wire, question_only=True)
    except (dns.exception.DNSException, ValueError):
        return False
    return bool(query.is_response(reply)) and reply.rcode() != dns.rcode.SERVFAIL


class RootQuery:
    """The exchange. Raises OSError when there is no way to the server at all."""

    def __init__(self, server: Server) -> None:
        family, address = server
        self._query = root_query()
        wire = self._query.to_wire()
        self._unsent = struct.pack("!H", len(wire)) + wire
        self._received = b""
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def events(self) -> int:
        return selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ

    def advance(self) -> Optional[bool]:
        try:
            return self._send() if self._unsent else self._receive()
        except BlockingIOError:
            return None
        except OSError:
            return False

    def _send(self) -> Optional[bool]:
        self._unsent = self._unsent[self._socket.send(self._unsent) :]
        return None

    def _receive(self) -> Optional[bool]:
        chunk = self._socket.recv(65537)
        self._received += chunk
        if len(self._received) >= 2:
            length = struct.unpack_from("!H", self._received)[0]
            if len(self._received) >= 2 + length:
                return answers(self._query, self._received[2 : 2 + length])
        return None if chunk else False

    def close(self) -> None:
        self._socket.close()
