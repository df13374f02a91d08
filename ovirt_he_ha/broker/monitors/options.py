"""What the monitors are told, typed; and the refusal of what makes no sense."""

from dataclasses import dataclass
from enum import Enum
from typing import Mapping


class OptionError(ValueError):
    """A key of hosted-engine.conf (or an option of ``start_monitor``) has no usable value."""

    msg = "{key}: expected {expected}, found {found!r}. Correct it in hosted-engine.conf and restart the broker."

    def __init__(self, key: str, expected: str, found: str) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(key=self.key, expected=self.expected, found=self.found)


class UnknownMonitor(LookupError):
    """There is no monitor of that type."""

    msg = "There is no monitor {name!r}; known are {known}."

    def __init__(self, name: str, known: str) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return self.msg.format(name=self.name, known=self.known)


class NetworkTest(str, Enum):
    PING = "ping"
    DNS = "dns"
    TCP = "tcp"
    NONE = "none"


UNSET = ("", "None")  # both are written for "not set"


def _clean(value: str) -> str:
    return "" if value in UNSET else value.strip()


@dataclass(frozen=True)
class NetworkOptions:
    """The network test, checked. ``address`` and ``port`` (1 to 65535; 0 where the test has none) are its target."""

    test: NetworkTest
    address: str = ""
    port: int = 0

    @classmethod
    def of(cls, network_test: str, gateway: str, tcp_t_address: str, tcp_t_port: str) -> "NetworkOptions":
        """From the keys ``network_test`` (empty: ping), ``gateway``, ``tcp_t_address`` and ``tcp_t_port``, as text.

        Raises OptionError naming the key.
        """
        try:
            test = NetworkTest(_clean(network_test) or "ping")
        except ValueError:
            raise OptionError("network_test", "ping, dns, tcp or none", network_test) from None
        if test is NetworkTest.PING:
            return cls(test, _address("gateway", gateway, "an address to ping (network_test is ping)"))
        if test is NetworkTest.TCP:
            address = _address("tcp_t_address", tcp_t_address, "an address to connect to (network_test is tcp)")
            return cls(test, address, _port(tcp_t_port))
        return cls(test)


def _address(key: str, value: str, expected: str) -> str:
    address = _clean(value)
    if not address or any(c.isspace() or ord(c) < 32 for c in address):
        raise OptionError(key, expected, value)
    return address


def _port(value: str) -> int:
    text = _clean(value)
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= port <= 65535:
        raise OptionError("tcp_t_port", "a TCP port, 1 to 65535 (network_test is tcp)", value)
    return port


@dataclass(frozen=True)
class MonitorOptions:
    """All that the monitors of one host need to know, as it stands in the configuration.

    ``health_url``: http or https. ``ca_file``: who signs the engine's certificate (https only; empty: the system's
    authorities).
    """

    bridge: str
    gateway: str
    vmid: str
    health_url: str
    network_test: str = "ping"
    tcp_t_address: str = ""
    tcp_t_port: str = ""
    ca_file: str = ""

    def network(self) -> NetworkOptions:
        return NetworkOptions.of(self.network_test, self.gateway, self.tcp_t_address, self.tcp_t_port)


def network_of_rpc(options: Mapping[str, str]) -> NetworkOptions:
    """The options an upstream client gives to ``start_monitor("network", ...)``. Raises OptionError."""
    return NetworkOptions.of(
        options.get("network_test") or "",
        options.get("addr") or "",
        options.get("tcp_t_address") or "",
        str(options.get("tcp_t_port") or ""),
    )
