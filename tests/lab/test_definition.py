"""The engine VM's definition is one that the product accepts and that the lease guards."""

import base64
from pathlib import Path

import pytest
from lxml import etree

from ovirt_he_ha.config.files import load_agent_conf
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml
from ovirt_he_ha.hypervisor.vm_conf import parse_vm_conf
from ovirt_he_ha.lab.definition import domain_xml, vm_conf
from ovirt_he_ha.lab.domain import agent_conf
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.storage.local import LocalDomain


def a_lab(**changes: object) -> Lab:
    values = {
        "directory": "/var/lib/a&b",
        "hosts": 3,
        "scale": 10.0,
        "management": "10.77.4.0/24",
        "second": "10.77.5.0/24",
        "interpreter": "/usr/bin/python3",
        "venv": "",
    }
    return Lab(**{**values, **changes})  # type: ignore[arg-type]


def test_lease_is_the_one_beside_the_disk() -> None:
    lab = a_lab()
    xml = etree.fromstring(domain_xml(lab))
    lease = xml.find("devices/lease")
    assert lease.findtext("lockspace") == lab.identity.domain
    assert lease.findtext("key") == lab.identity.disk.volume
    assert lease.find("target").get("path") == xml.find("devices/disk/source").get("file") + ".lease"
    assert lease.find("target").get("offset") == "0"


def test_the_product_accepts_it(tmp_path: Path) -> None:
    lab = a_lab()
    own = tmp_path / "agent.conf"
    own.write_text(agent_conf(lab.host(1)))
    lease = LocalDomain(str(lab.storage), lab.identity.domain).lease(lab.identity.disk.image, lab.identity.disk.volume)
    assert lease.path == str(lab.lease_path)
    xml = engine_xml(parse_vm_conf(vm_conf(lab)), lease)
    with pytest.raises(DefinitionRefused):  # the kernel is a file of this host
        check(xml, lease, lab.identity.vm)
    check(xml, lease, lab.identity.vm, allowed=frozenset(load_agent_conf(own).allowed_elements))


def test_nothing_that_would_run_without_the_lease() -> None:
    xml = etree.fromstring(domain_xml(a_lab()))
    assert xml.get("type") == "qemu"
    assert xml.find("devices/disk/driver").attrib["type"] == "raw"
    assert xml.find("devices/disk/driver").attrib["cache"] == "none"
    assert xml.find("devices/disk/source/seclabel").get("relabel") == "no"
    assert {xml.findtext(tag) for tag in ("on_poweroff", "on_reboot", "on_crash")} == {"destroy"}
    assert xml.findtext("on_lockfailure") == "poweroff"


def test_boot_delay_and_addresses_reach_the_guest() -> None:
    arguments = etree.fromstring(domain_xml(a_lab(boot_delay=2.5))).findtext("os/cmdline").split()
    assert "eng.delay=2.5" in arguments
    assert "eng.ip=10.77.4.100/24" in arguments
    assert "eng.gw=10.77.4.254" in arguments
    assert "eng.desk=10.77.4.253" in arguments
    assert not any(word.startswith("eng.delay") for word in domain_xml(a_lab()).split())


def test_vm_conf_carries_the_definition() -> None:
    lab = a_lab()
    values = dict(line.split("=", 1) for line in vm_conf(lab).splitlines())
    assert base64.b64decode(values["xmlBase64"]).decode() == domain_xml(lab)
    assert values["vmId"] == lab.identity.vm
    assert values["memSize"] == "256"
