"""The console's password against a real libvirtd and qemu."""

import os
from typing import Iterator

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.hypervisor.connection import Connection, LibvirtFault
from ovirt_he_ha.hypervisor.console import EngineConsole, NoConsole
from tests.contract.libvirt_host import VMID, Host, Site, missing_component

pytestmark = [
    pytest.mark.skipif(bool(missing_component()), reason=f"missing on this machine: {missing_component()}"),
    pytest.mark.timeout(120),
]

# A display whose password has run out, as the management application defines it.
VNC = (
    "<graphics type='vnc' port='-1' autoport='yes' listen='{listen}' passwd='*****'"
    " passwdValidTo='1970-01-01T00:00:01'/>"
)
XML = """
<domain type='qemu'>
  <name>HostedEngine</name><uuid>{vmid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{more}<memballoon model='none'/></devices>
</domain>"""


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with Site() as site:
        host: Host = site.add("a", 1)
        connection = Connection(host.uri, SystemClock(1.0))
        yield connection
        connection.close(5.0)


def started(connection: Connection, more: str) -> EngineConsole:
    xml = XML.format(vmid=VMID, more=more)
    connection.call("create", lambda native: native.createXML(xml, 0), 30.0)
    return EngineConsole(connection, VMID, 10.0)


def end(connection: Connection) -> None:
    connection.call("destroy", lambda native: native.lookupByUUIDString(VMID).destroy(), 30.0)


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1"])
def test_a_password_is_taken_and_the_address_told(connection: Connection, listen: str) -> None:
    console = started(connection, VNC.format(listen=listen))
    try:
        assert console.state() == "running"
        console.set_password("secret", 120.0)
        console.set_password("another", 120.0)
        address = console.address()
        assert address is not None and address[0] == listen and address[1] >= 5900
        with pytest.raises(LibvirtFault):
            console.set_password("nine chars", 120.0)
    finally:
        end(connection)


@pytest.mark.parametrize("kind", ["pty", "unix"])
def test_the_serial_console_is_found(connection: Connection, kind: str) -> None:
    path = f"/tmp/he-console-{os.getpid()}.sock" if kind == "unix" else ""
    source = f"<source mode='bind' path='{path}'/>" if path else ""
    console = started(connection, f"<console type='{kind}'>{source}<target type='serial' port='0'/></console>")
    try:
        assert console.serial_socket() == path
    finally:
        end(connection)


def test_a_vm_without_a_display_and_no_vm(connection: Connection) -> None:
    console = started(connection, "")
    try:
        with pytest.raises(NoConsole) as caught:
            console.set_password("secret", 120.0)
        assert caught.value.code == "no-vnc" and console.serial_socket() == ""
    finally:
        end(connection)
    for call in (console.state, console.address, lambda: console.set_password("secret", 120.0)):
        with pytest.raises(NoConsole) as caught:
            call()
        assert caught.value.code == "not-here"
