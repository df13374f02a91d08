"""The engine VM's screen: its state for a serial console, and the password of its VNC display."""

import time
from typing import Any, Optional, Tuple

from ovirt_he_ha.hypervisor.action_run import Here, find_domain
from ovirt_he_ha.hypervisor.connection import Connection, Native
from ovirt_he_ha.hypervisor.definition import parse_xml


class NoConsole(Exception):
    """``code``: ``not-here``, ``no-vnc``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class EngineConsole:
    """Every method returns within ``seconds`` (product, each call), or raises HypervisorError; NoConsole when the VM is
    not on this host."""

    def __init__(self, connection: Connection, vmid: str, seconds: float) -> None:
        self.vmid = vmid.lower()
        self._connection = connection
        self._seconds = seconds

    def state(self) -> str:
        """``running`` or ``paused``."""

        def look(native: Native) -> str:
            return "paused" if self._here(native).paused else "running"

        return self._connection.call("look at the engine VM", look, self._seconds)

    def serial_socket(self) -> str:
        """The path at which qemu listens for the first serial console; empty if it is a pseudo-terminal, or none."""

        def look(native: Native) -> str:
            root = parse_xml(self._here(native).domain.XMLDesc(0))
            found = next(iter([*root.findall("devices/console"), *root.findall("devices/serial")]), None)
            if found is None or found.get("type") != "unix":
                return ""
            source = found.find("source")
            return str(source.get("path") or "") if source is not None else ""

        return self._connection.call("look at the serial console", look, self._seconds)

    def set_password(self, password: str, lifetime: float) -> None:
        """For ``lifetime`` wall seconds from now. Connections that are open stay. Raises NoConsole ``no-vnc``."""

        def change(native: Native) -> None:
            domain = self._here(native).domain
            graphics = self._vnc(domain)
            until = time.gmtime(time.time() + lifetime)
            graphics.set("passwd", password)
            graphics.set("passwdValidTo", time.strftime("%Y-%m-%dT%H:%M:%S", until))
            graphics.set("connected", "keep")
            domain.updateDeviceFlags(_text(graphics), self._connection.libvirt.VIR_DOMAIN_AFFECT_LIVE)

        self._connection.call("set the console's password", change, self._seconds)

    def address(self) -> Optional[Tuple[str, int]]:
        """Where VNC listens; None while it has no port yet. Raises NoConsole ``no-vnc``."""

        def look(native: Native) -> Optional[Tuple[str, int]]:
            graphics = self._vnc(self._here(native).domain)
            port = graphics.get("port") or ""
            if not port.isdigit() or int(port) <= 0:
                return None
            listen = graphics.find("listen")
            address = (listen.get("address") if listen is not None else None) or graphics.get("listen")
            return address or "", int(port)

        return self._connection.call("look at the console's port", look, self._seconds)

    def _here(self, native: Native) -> Here:
        here = find_domain(self._connection.libvirt, native, self.vmid)
        if here is None or not here.active:
            raise NoConsole(
                "not-here", "Virtual machine does not exist on this host: see --vm-status for where it runs"
            )
        return here

    def _vnc(self, domain: Any) -> Any:
        found = parse_xml(domain.XMLDesc(0)).findall("devices/graphics")
        for graphics in found:
            if graphics.get("type") == "vnc":
                return graphics
        raise NoConsole("no-vnc", "The engine VM has no VNC display: its definition has no graphics of type vnc")


def _text(element: Any) -> str:
    from lxml import etree

    return str(etree.tostring(element, encoding="unicode", with_tail=False))
