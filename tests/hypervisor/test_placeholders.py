"""What the engine leaves to the host, in the three layouts of a storage domain."""

import pytest

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml, lease_of, parse_xml
from ovirt_he_ha.hypervisor.placeholders import Layout, block_lease
from ovirt_he_ha.hypervisor.vm_conf import VmConf
from tests.hypervisor.test_definition import IMG, LEASE, RHEV, SD, SOURCE, VMID, VOL

BLOCK_LEASE = LeaseId(SD, VOL, f"/dev/{SD}/leases", 107 << 20)
LAYOUTS = {
    "file": (LEASE, Layout.of(LEASE), "file", f"/data/{SD}/images/{IMG}/{VOL}"),
    "block": (BLOCK_LEASE, Layout.of(BLOCK_LEASE), "block", f"/dev/{SD}/{VOL}"),
    "vdsm file": (LEASE, Layout.of_vdsm(LEASE, IMG), "file", f"/run/vdsm/storage/{SD}/{IMG}/{VOL}"),
    "vdsm block": (BLOCK_LEASE, Layout.of_vdsm(BLOCK_LEASE, IMG), "block", f"/run/vdsm/storage/{SD}/{IMG}/{VOL}"),
}
PLACES = [
    RHEV,
    f"/rhev/data-center/mnt/server:_export/{SD}/images/{IMG}/{VOL}",
    f"/rhev/data-center/mnt/glusterSD/server:_vol/{SD}/images/{IMG}/{VOL}",
    f"/rhev/data-center/mnt/blockSD/{SD}/images/{IMG}/{VOL}",
    f"/run/vdsm/storage/{SD}/{IMG}/{VOL}",
    f"/var/run/vdsm/storage/{SD}/{IMG}/{VOL}",
]
MORE = """<interface type='bridge'><source bridge='ovirtmgmt'/><filterref filter='vdsm-no-mac-spoofing'/></interface>
<interface type='bridge'><source bridge='other'/><filterref filter='clean-traffic'/></interface>
<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channels/x.org.qemu.guest_agent.0'/>
<target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<console type='unix'><source mode='bind' path='/var/run/ovirt-vmconsole-console/x.sock'/></console></devices>"""


def made(lease, layout, source=SOURCE):
    return engine_xml(VmConf(4096, VMID, source), lease, layout)


def refused(xml, lease, layout=None):
    with pytest.raises(DefinitionRefused) as error:
        check(xml, lease, VMID, layout)
    return error.value


@pytest.mark.parametrize(("lease", "layout", "kind", "path"), LAYOUTS.values(), ids=LAYOUTS.keys())
class TestEveryLayout:
    def test_lease_and_disk_get_their_places(self, lease, layout, kind, path):
        for place in PLACES:
            xml = made(lease, layout, SOURCE.replace(RHEV, place))
            check(xml, lease, VMID, layout)
            root = parse_xml(xml)
            assert lease_of(root) == [lease]
            disk = root.find("devices/disk[@device='disk']")
            assert disk.get("type") == kind
            assert disk.find("source").get("file" if kind == "file" else "dev") == path
            assert len(disk.find("source").attrib) == 1

    def test_a_block_source_is_mapped_as_well(self, lease, layout, kind, path):
        source = SOURCE.replace("<disk type='file' device='disk'>", "<disk type='block' device='disk'>")
        source = source.replace(f"<source file='{RHEV}'/>", f"<source dev='{RHEV}'/>")
        xml = made(lease, layout, source)
        check(xml, lease, VMID, layout)
        assert path in xml

    def test_nothing_of_the_engines_is_left(self, lease, layout, kind, path):
        xml = made(lease, layout)
        for placeholder in ("LEASE-PATH", "LEASE-OFFSET", "OS-NAME:", "OS-VERSION:", "HOST-SERIAL:", "/rhev/"):
            assert placeholder not in xml
        assert "passwdValidTo" in xml  # the display stays closed until a password is set

    def test_a_lease_of_another_volume_or_domain_stays_unfilled_and_is_refused(self, lease, layout, kind, path):
        for old, new in ((f":{VOL}:{SD}", f":{IMG}:{SD}"), (f":{VOL}:{SD}", f":{VOL}:{IMG}")):
            error = refused(made(lease, layout, SOURCE.replace(old, new)), lease, layout)
            assert error.code == "foreign-lease"

    def test_a_disk_of_another_domain_stays_where_it_is_and_is_refused(self, lease, layout, kind, path):
        error = refused(made(lease, layout, SOURCE.replace(f"/{SD}/images", f"/{IMG}/images")), lease, layout)
        assert (error.code, error.element) == ("disk-location", "devices/disk vda/source")

    def test_a_local_disk_is_refused(self, lease, layout, kind, path):
        error = refused(made(lease, layout, SOURCE.replace(RHEV, "/var/lib/libvirt/images/engine")), lease, layout)
        assert (error.code, error.element) == ("disk-location", "devices/disk vda/source")

    def test_a_qcow2_or_unknown_disk_is_refused(self, lease, layout, kind, path):
        raw = "<driver name='qemu' type='raw' cache='none' error_policy='stop'/>"
        for put, code in ((raw.replace("raw", "qcow2"), "qcow2"), ("", "disk-format")):
            error = refused(made(lease, layout, SOURCE.replace(raw, put)), lease, layout)
            assert (error.code, error.element) == (code, "devices/disk vda/driver type")

    def test_of_the_other_kind_is_refused(self, lease, layout, kind, path):
        xml = made(lease, layout)
        other = "block" if kind == "file" else "file"
        swapped = xml.replace(f'type="{kind}" device="disk"', f'type="{other}" device="disk"')
        assert swapped != xml
        assert refused(swapped, lease, layout).code == "disk-location"


def test_s1_a_definition_without_a_lease_is_refused_in_every_layout():
    begin, end = SOURCE.index("<lease>"), SOURCE.index("</lease>") + len("</lease>")
    source = SOURCE[:begin] + SOURCE[end:]
    for lease, layout, _, _ in LAYOUTS.values():
        error = refused(made(lease, layout, source), lease, layout)
        assert (error.code, error.element) == ("no-lease", "devices/lease")


def test_what_only_vdsm_has_is_replaced_where_there_is_no_vdsm():
    source = SOURCE.replace("</devices>", MORE)
    root = parse_xml(made(LEASE, None, source))
    assert [each.get("filter") for each in root.findall("devices/interface/filterref")] == ["clean-traffic"]
    assert dict(root.find("devices/channel/source").attrib) == {"mode": "bind"}
    assert root.find("devices/console").get("type") == "pty"
    assert root.find("devices/console/source") is None
    assert "vdsm-ovirtmgmt" not in made(LEASE, None, source)
    with_vdsm = made(LEASE, Layout.of_vdsm(LEASE, IMG), source)
    assert "vdsm-ovirtmgmt" in with_vdsm
    assert "vdsm-no-mac-spoofing" in with_vdsm
    assert "/var/lib/libvirt/qemu/channels" in with_vdsm


def test_the_lease_of_a_block_domain():
    assert block_lease(SD, VOL, "PU_x,MD_7,IU_y") == BLOCK_LEASE
    assert block_lease(SD, VOL, "MD_7", 8 << 20) == LeaseId(SD, VOL, f"/dev/{SD}/leases", 107 * (8 << 20))
    for tags in ("", "IU_y", "MD_", "MD_x", "XMD_7"):
        assert block_lease(SD, VOL, tags) is None


@pytest.mark.parametrize(
    "path", [f"/dev/{SD}", f"/dev/{SD}/", f"/dev/{SD}/a/b", f"/dev/{SD}/../sda", f"/dev//{SD}/x", "", "/dev/sda"]
)
def test_what_is_no_volume_of_the_domain(path):
    assert not Layout.of(BLOCK_LEASE).holds(path)
