"""The network test: five probes, half a second apart; the value is the share that was answered."""

import socket
import threading
from pathlib import Path
from typing import Callable, List, Sequence

from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.icmp import Echo
from ovirt_he_ha.broker.monitors.options import NetworkOptions, NetworkTest
from ovirt_he_ha.broker.monitors.probes import Connect, Exchange, Pace, Round
from ovirt_he_ha.broker.monitors.target import Target


class Network:
    """``pace`` in wall seconds. ``resolv_conf`` and ``dns_port``: whom the dns test asks."""

    def __init__(
        self,
        options: NetworkOptions,
        pace: Pace,
        now: Callable[[], float],
        resolv_conf: Path = Path("/etc/resolv.conf"),
        dns_port: int = 53,
    ) -> None:
        self._options = options
        self._pace = pace
        self._resolv_conf = resolv_conf
        self._dns_port = dns_port
        self._stopping = threading.Event()
        self._target = Target(options.address, options.port, self._socket_kind(), now)

    def stop(self) -> None:
        """The running round ends within half a second."""
        self._stopping.set()

    def measure(self) -> float:
        """Share of good probes, 0.0 to 1.0; 1.0 without a test. A name that cannot be resolved is a network that
        does not work: 0.0. Raises Unmeasured ``no-permission`` (ping), ``no-resolver`` (dns) or ``stopping``.
        """
        if self._options.test is NetworkTest.NONE:
            return 1.0
        try:
            begin = self._prepare()
        except OSError:
            return 0.0
        share = Round(begin, self._pace, self._stopping.is_set).share()
        if self._stopping.is_set():
            raise Unmeasured("stopping")  # the round was cut short: its share says nothing of the network
        return share

    def _socket_kind(self) -> int:
        return socket.SOCK_STREAM if self._options.test is NetworkTest.TCP else socket.SOCK_DGRAM

    def _prepare(self) -> Callable[[int], Sequence[Exchange]]:
        if self._options.test is NetworkTest.DNS:
            return self._prepare_dns()
        family, address = self._target.addresses()[0]
        if self._options.test is NetworkTest.TCP:
            return lambda probe: [Connect(family, address)]
        return lambda probe: [Echo(family, address, probe + 1)]

    def _prepare_dns(self) -> Callable[[int], Sequence[Exchange]]:
        # Imported here: most hosts ping, and a broker that needs no DNS library should not pay for one.
        from ovirt_he_ha.broker.monitors.dns_query import RootQuery, configured_servers

        servers = configured_servers(self._resolv_conf, self._dns_port)

        def begin(probe: int) -> Sequence[Exchange]:
            found: List[Exchange] = []
            for server in servers:
                try:
                    found.append(RootQuery(server))
                except OSError:
                    continue
            return found

        return begin
