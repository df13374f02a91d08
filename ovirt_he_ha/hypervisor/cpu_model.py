"""The CPU a host offers to guests, as a short digest that peers compare before a live migration (D7)."""

import hashlib
import threading
from typing import Optional

from lxml import etree

from ovirt_he_ha.hypervisor.connection import Connection

DIGEST_LENGTH = (
    16  # hexadecimal digits; it is compared for equality by a handful of hosts, and every byte of a slot counts
)


def describe(capabilities: str) -> str:
    """The digest of architecture, model, vendor and features in libvirt's capabilities XML. Order and all else there
    (topology, memory cells, microcode, counters that change with each boot) do not count. Empty when no CPU is
    described."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    cpu = etree.fromstring(capabilities.encode("utf-8"), parser).find("host/cpu")
    if cpu is None:
        return ""
    parts = [f"{name}={cpu.findtext(name) or ''}" for name in ("arch", "model", "vendor")]
    parts += sorted(f"feature={feature.get('name') or ''}" for feature in cpu.findall("feature"))
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:DIGEST_LENGTH]


class HostCpu:
    """The digest of this host, asked once: it cannot change without a reboot. Empty until libvirt has answered."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._digest: Optional[str] = None

    def digest(self, seconds: float) -> str:
        """Raises what :meth:`Connection.call` raises, until it has succeeded once."""
        with self._lock:
            if self._digest is None:
                self._digest = describe(
                    self._connection.call("capabilities", lambda native: str(native.getCapabilities()), seconds)
                )
            return self._digest
