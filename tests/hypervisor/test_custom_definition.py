"""What an administrator may add to a definition, or write by hand."""

import pytest

from ovirt_he_ha.hypervisor.custom_definition import GUARDED, Custom, CustomRefused, check_elements
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml, parse_xml
from ovirt_he_ha.hypervisor.vm_conf import VmConf
from tests.hypervisor.test_definition import LEASE, SOURCE, VMID, made

EXTRA = """<domain><memoryBacking><locked/></memoryBacking>
<devices><hostdev mode='subsystem' type='pci'/><hostdev mode='subsystem' type='usb'/></devices></domain>"""


def extended(extra, *allowed, source=SOURCE):
    return engine_xml(VmConf(4096, VMID, source), LEASE, custom=Custom(frozenset(allowed), extra, "/etc/extra.xml"))


def refused(extra, *allowed):
    with pytest.raises(CustomRefused) as error:
        extended(extra, *allowed)
    assert "/etc/extra.xml" in str(error.value)
    return error.value.element


def test_allowed_elements_are_added_and_checked_like_the_rest():
    xml = extended(EXTRA, "memoryBacking", "devices/hostdev")
    check(xml, LEASE, VMID, allowed=frozenset(["memoryBacking", "devices/hostdev"]))
    root = parse_xml(xml)
    assert root.find("memoryBacking/locked") is not None
    assert [each.get("type") for each in root.findall("devices/hostdev")] == ["pci", "usb"]


def test_an_element_takes_the_place_of_the_one_with_its_name():
    source = SOURCE.replace("<devices>", "<cpu mode='host-model'/><os><boot dev='hd'/></os><devices>")
    root = parse_xml(
        extended("<domain><cpu mode='custom'/><os><loader>x</loader></os></domain>", "cpu", "os/loader", source=source)
    )
    assert [each.get("mode") for each in root.findall("cpu")] == ["custom"]
    assert [each.tag for each in root.find("os")] == ["boot", "loader"]


def test_nothing_is_allowed_by_itself_and_the_element_is_named():
    assert refused(EXTRA) == "memoryBacking"
    assert refused(EXTRA, "memoryBacking") == "devices/hostdev"
    assert refused("<domain><devices><disk/></devices></domain>") == "devices/disk"


@pytest.mark.parametrize("path", sorted(GUARDED))
def test_s1_what_guards_the_vm_cannot_be_added_even_if_it_is_allowed(path):
    parent, _, name = path.rpartition("/")
    inner = f"<{parent}><{name}/></{parent}>" if parent else f"<{name}/>"
    assert refused(f"<domain>{inner}</domain>", path) == path


def test_s1_an_added_disk_must_be_raw_and_on_the_shared_storage():
    disk = "<disk type='file' device='disk'><driver type='raw'/><source file='/tmp/x'/><target dev='vdb'/></disk>"
    xml = extended(f"<domain><devices>{disk}</devices></domain>", "devices/disk")
    with pytest.raises(DefinitionRefused) as error:
        check(xml, LEASE, VMID)
    assert (error.value.code, error.value.element) == ("disk-location", "devices/disk vdb/source")


@pytest.mark.parametrize("extra", ["x", "<other/>", "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>"])
def test_what_is_no_addition(extra):
    assert refused(extra, "cpu") in ("the document", "the root element")


def test_a_definition_by_hand():
    check_elements(parse_xml(made()), frozenset(), "/root/vm.conf")
    for inner, path in (
        ("<memoryBacking/>", "memoryBacking"),
        ("<os><kernel>/x</kernel></os>", "os/kernel"),
        ("<devices><emulator>/x</emulator></devices>", "devices/emulator"),
    ):
        root = parse_xml(f"<domain>{inner}</domain>")
        with pytest.raises(CustomRefused) as error:
            check_elements(root, frozenset(), "/root/vm.conf")
        assert error.value.element == path
        check_elements(root, frozenset([path]), "/root/vm.conf")


QEMU = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-drive'/>"


def test_s1_words_for_qemu_itself_are_never_taken():
    """They could bring a disk that nothing here looks at."""
    inner = f"{QEMU}</qemu:commandline>"
    with pytest.raises(CustomRefused):
        check_elements(parse_xml(f"<domain>{inner}</domain>"), frozenset(), "x")
    with pytest.raises(DefinitionRefused) as error:
        check(engine_xml(VmConf(1, VMID, SOURCE.replace("<devices>", inner + "<devices>")), LEASE), LEASE, VMID)
    assert error.value.code == "qemu-commandline"
