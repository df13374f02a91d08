"""Where a migration goes: libvirt's URI and qemu's URI made from what a peer publishes.

The text comes from another host's slot, so it is taken apart and put together again; nothing of it reaches libvirt
unread.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Optional
from urllib.parse import urlsplit

SCHEMES = ("qemu+tcp", "qemu+tls", "qemu+ssh", "qemu")
DEFAULT_SCHEME = "qemu+tcp"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


class BadDestination(ValueError):
    msg = (
        "The destination's migration address {text!r} is unusable: expected a host name, an IP address, or "
        "a URI such as qemu+tls://host/system"
    )

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text[:200]

    def __str__(self) -> str:
        return self.msg.format(text=self.text)


@dataclass(frozen=True)
class Destination:
    """``libvirt_uri``: the peer's libvirtd. ``migrate_uri``: where qemu sends the memory; without a port the peer's
    libvirtd chooses a free one. Both explicit, because libvirt would resolve the peer's host name otherwise, and fail
    where that has no address."""

    libvirt_uri: str
    migrate_uri: str


def destination(text: str, scheme: str = DEFAULT_SCHEME, port: Optional[int] = None) -> Destination:
    """``text``: an address, or a whole libvirt URI. Raises BadDestination."""
    found_scheme, host, libvirt_port = scheme, text, None
    if "://" in text:
        found_scheme, host, libvirt_port = _uri(text)
    if found_scheme not in SCHEMES:
        raise BadDestination(text)
    name = _host(host, text)
    where = name if libvirt_port is None else f"{name}:{libvirt_port}"
    return Destination(f"{found_scheme}://{where}/system", f"tcp://{name}" if port is None else f"tcp://{name}:{port}")


def _uri(text: str) -> "tuple[str, str, Optional[int]]":
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as e:
        raise BadDestination(text) from e
    if parts.path != "/system" or parts.query or parts.fragment or "@" in parts.netloc or not parts.hostname:
        raise BadDestination(text)
    return parts.scheme, parts.hostname, port


def _host(host: str, text: str) -> str:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if len(host) > 253 or not _HOST_NAME.fullmatch(host):
            raise BadDestination(text) from None
        return host
    return f"[{address}]" if address.version == 6 else str(address)
