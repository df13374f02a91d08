"""The OVF of the engine VM becomes vm.conf; any bytes become that or one kind of error."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml
from ovirt_he_ha.hypervisor.ovf import OvfRefused, convert
from ovirt_he_ha.hypervisor.vm_conf import VmConf, VmConfError, parse_vm_conf
from tests.hypervisor.test_definition import IMG, LEASE, SD, SOURCE, VMID, VOL
from tests.storage.engine_ovf import ovf

META = "<ovirt-vm:device devtype='disk' name='vda'><ovirt-vm:shared>exclusive</ovirt-vm:shared></ovirt-vm:device>"
XML = SOURCE.replace("</ovirt-vm:vm>", META + "</ovirt-vm:vm>")
assert XML != SOURCE


def made(xml=XML, **values):
    return convert(ovf(VMID, SD, IMG, VOL, xml, **values), VMID)


def lines(converted):
    return converted.text.splitlines()


def values(converted):
    return dict(line.split("=", 1) for line in lines(converted) if not line.startswith("devices="))


def devices(converted, kind):
    found = [line[len("devices={") : -1] for line in lines(converted) if f"type:{kind}}}" in line]
    return [dict(part.split(":", 1) for part in text.split(",")) for text in found if "address:{" not in text] + [
        dict(part.split(":", 1) for part in text.partition("address:{")[0].split(",") if part)
        for text in found
        if "address:{" in text
    ]


def refused(data):
    with pytest.raises(OvfRefused) as error:
        convert(data, VMID)
    assert error.value.code in str(error.value)
    return error.value.code


class TestKeys:
    def test_all_of_them_in_order(self):
        found = made()
        keys = [line.partition("=")[0] for line in lines(found)]
        assert keys[:9] == [
            "xmlBase64",
            "vmId",
            "vmName",
            "display",
            "cpuType",
            "emulatedMachine",
            "smp",
            "maxVCpus",
            "memSize",
        ]
        assert keys[9] == "spiceSecureChannels"
        assert set(keys[10:]) == {"devices"}
        assert {
            key: value for key, value in values(found).items() if key not in ("xmlBase64", "spiceSecureChannels")
        } == {
            "vmId": VMID,
            "vmName": "HostedEngine",
            "display": "vnc",
            "cpuType": "Cascadelake-Server",
            "emulatedMachine": "pc-q35-rhel8.4.0",
            "smp": "8",
            "maxVCpus": "16",
            "memSize": "16384",
        }
        assert len(values(found)["spiceSecureChannels"].split(",")) == 8

    def test_both_ways_to_write_the_namespace(self):
        assert made(slash="").text == made(slash="/").text

    def test_what_has_no_value_is_left_out(self):
        found = values(made(cpu="", machine=""))
        assert "cpuType" not in found
        assert "emulatedMachine" not in found

    def test_a_name_stays_one_line(self):
        found = values(made(name="x\nxmlBase64=AAAA # {'\"} é"))
        assert found["vmName"] == "xxmlBase64=AAAA"
        assert found["xmlBase64"] != "AAAA"

    def test_it_is_read_back(self):
        conf = parse_vm_conf(made().text)
        assert (conf.memory_mib, conf.vm_id, conf.launch_paused) == (16384, VMID, False)
        check(engine_xml(conf, LEASE), LEASE, VMID)

    @pytest.mark.parametrize(
        ("values", "code"),
        [
            ({"memory": ""}, "value"),
            ({"memory": "many"}, "value"),
            ({"memory": "0"}, "value"),
            ({"memory": "1" * 30}, "value"),
            ({"memory": "\u0664"}, "value"),
            ({"cores": "-1"}, "value"),
            ({"sockets": "1e9"}, "value"),
        ],
    )
    def test_numbers_that_cannot_be(self, values, code):
        assert refused(ovf(VMID, SD, IMG, VOL, XML, **values)) == code

    def test_another_vm_is_refused(self):
        assert refused(ovf("99999999-2222-3333-4444-555555555555")) == "uuid"
        assert refused(ovf("x")) == "value"
        assert refused(ovf("")) == "uuid"


class TestDevices:
    def test_the_disk(self):
        (disk,) = [each for each in devices(made(), "disk") if each.get("device") == "disk"] or [None]
        line = next(line for line in lines(made()) if "device:disk" in line)
        assert disk is None or disk["imageID"] == IMG
        for part in (
            "index:0",
            "iface:virtio",
            "format:raw",
            "bootOrder:1",
            "address:{type:pci,slot:0x06,bus:0x00,domain:0x0000,function:0x0}",
            f"volumeID:{VOL}",
            f"imageID:{IMG}",
            f"deviceId:{IMG}",
            f"domainID:{SD}",
            "poolID:00000000-0000-0000-0000-000000000000",
            "shared:exclusive",
            "propagateErrors:off",
            "readonly:false",
        ):
            assert part in line

    def test_one_cdrom_however_many_are_named(self):
        (cdrom,) = [line for line in lines(made()) if "device:cdrom" in line]
        for part in ("index:2", "iface:ide", "bus:1", "path:,", "readonly:true"):
            assert part in cdrom

    def test_a_card_without_an_address_is_dropped(self):
        (card,) = devices(made(), "interface")
        assert card["nicModel"] == "pv"
        assert card["macAddr"] == "00:16:3e:12:34:56"
        assert card["network"] == "ovirtmgmt"
        assert card["linkActive"] == "true"

    def test_the_others_and_what_is_always_there(self):
        found = lines(made())
        assert "devices={device:scsi,model:virtio-scsi,type:controller}" in found
        assert "devices={device:vga,alias:video0,type:video}" in found
        assert "devices={device:vnc,type:graphics}" in found
        assert "devices={device:virtio,specParams:{source:urandom},model:virtio,type:rng}" in found
        assert "devices={device:console,type:console}" in found

    def test_no_line_has_blanks_or_quotes(self):
        for line in lines(made()):
            assert not set(line) & set(" \t'\"")


class TestXml:
    def xml(self, converted):
        return base64.b64decode(values(converted)["xmlBase64"])

    def test_with_a_declaration_in_utf8(self):
        data = self.xml(made(XML.replace("HostedEngine", "Motör")))
        assert data.startswith(b"<?xml")
        assert b"UTF-8" in data[:60]
        assert "Motör" in data.decode("utf-8")

    @pytest.mark.parametrize(
        ("xml", "element"),
        [
            ("", "EngineXml"),
            (XML.replace("<lease>", "<lost>").replace("</lease>", "</lost>"), "devices/lease"),
            (XML.replace("exclusive", "none"), "shared"),
            (XML.replace(META, ""), "shared"),
            (XML.replace("name='vda'", "name='vdz'"), "shared"),
            ("<domain><devices><lease/></devices></domain>", "shared"),
        ],
    )
    def test_without_what_guards_it_there_is_none_and_why_is_said(self, xml, element):
        found = made(xml)
        assert "xmlBase64" not in values(found)
        assert element in found.without_xml

    def test_the_alias_of_a_console(self):
        console = "<console type='{}'><alias name='ua-12345678-1234-1234-1234-123456789012'/></console></devices>"
        for kind, length in (("pty", 24), ("unix", 39)):
            root = etree.fromstring(self.xml(made(XML.replace("</devices>", console.format(kind)))))
            assert len(root.find("devices/console/alias").get("name")) == length

    @pytest.mark.parametrize("xml", ["<domain", "<!DOCTYPE d [<!ENTITY a 'x'>]><domain>&a;</domain>"])
    def test_broken_or_hostile(self, xml):
        assert refused(ovf(VMID, SD, IMG, VOL, xml)) == "xml"


LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
HOSTILE = {
    "billion laughs": f"<!DOCTYPE x [<!ENTITY l0 'ha'>{LAUGHS}]><Envelope a='&l9;'>&l9;</Envelope>".encode(),
    "external entity": b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><Envelope>&e;</Envelope>",
    "external parameter": b"<!DOCTYPE x [<!ENTITY % e SYSTEM 'http://192.0.2.1/x'> %e;]><Envelope/>",
    "external type": b"<!DOCTYPE Envelope SYSTEM 'file:///dev/random'><Envelope/>",
    "undefined entity": b"<Envelope>&e;</Envelope>",
    "deep": b"<Envelope>" + b"<a>" * 100000 + b"</a>" * 100000 + b"</Envelope>",
    "huge text": b"<Envelope>" + b"x" * (11 << 20) + b"</Envelope>",
    "huge attribute": b"<Envelope a='" + b"x" * (11 << 20) + b"'/>",
    # The parser compares each attribute of an element with all before it: 15 s.
    "many attributes": b"<Envelope " + b" ".join(b"a%d=''" % n for n in range(100_000)) + b"/>",
    "many namespaces": b"<Envelope " + b" ".join(b"xmlns:a%d='u'" % n for n in range(60_000)) + b"/>",
    "many attributes behind a bracket": b"<Envelope a='>' " + b" ".join(b"a%d=''" % n for n in range(90_000)) + b"/>",
    "utf-16": ovf(VMID).decode().replace("UTF-8", "UTF-16").encode("utf-16"),
    "utf-16 unsaid": ovf(VMID).decode().encode("utf-16-le"),
    "utf-7": b"<?xml version='1.0' encoding='UTF-7'?>+ADwAIQ-DOCTYPE x+AD4-<Envelope/>",
    "ebcdic": ovf(VMID).decode().encode("cp037"),
    "latin-1": b"<?xml version='1.0' encoding='ISO-8859-1'?><Envelope>\xe9</Envelope>",
    "latin-1 that could be utf-8": b"<?xml version='1.0' encoding='ISO-8859-1'?><Envelope/>",
    "nul": ovf(VMID) + b"\0" * 20,
    "cut": ovf(VMID)[:900],
    "two roots": ovf(VMID) + b"<Envelope/>",
    "empty": b"",
    "no xml": b"x" * 1000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_documents(data):
    assert refused(data) == "xml"


def test_a_document_of_something_else():
    assert refused(b"<domain/>") == "ovf"
    assert refused(b"<Envelope/>") == "ovf"


def test_deep_nesting_below_the_parsers_limit_is_walked():
    deep = "<a>" * 200 + "</a>" * 200
    data = ovf(VMID, SD, IMG, VOL, XML).replace(b"<Description>Hosted", f"<Description>{deep}Hosted".encode())
    assert convert(data, VMID).text == made().text


@pytest.mark.parametrize("device", ["disk", "cdrom"])
def test_an_ovf_full_of_devices_is_read_in_a_moment(device):
    """It was compared with all devices before it, each: 10 s."""
    item = f"<Item><Type>disk</Type><Device>{device}</Device></Item>".encode()
    data = ovf(VMID, SD, IMG, VOL, XML).replace(b"</Section></Content>", item * 16_000 + b"</Section></Content>")
    begin = time.process_time()
    convert(data, VMID)
    assert time.process_time() - begin < 4


@given(st.binary(max_size=600))
def test_any_bytes(data):
    with pytest.raises(OvfRefused):
        convert(data, VMID)


WHOLE = ovf(VMID, SD, IMG, VOL, XML)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=30), st.integers(0, 200))
def test_torn_documents(at, put, length):
    try:
        found = convert(WHOLE[:at] + put + WHOLE[at + length :], VMID)
    except OvfRefused:
        return
    conf = parse_vm_conf(found.text)
    assert isinstance(conf, VmConf)
    assert conf.vm_id == VMID
    assert found.text.count("\nmemSize=") == 1


HOSTILE_PARTS = (
    "<disk type='file'><driver type='qcow2'/><source file='/etc/shadow'/><target dev='vdb'/></disk>",
    "<disk type='network'><source protocol='nbd' name='x'/><target dev='vdb'/></disk>",
    "<lease><lockspace>x</lockspace><key>y</key><target path='/tmp/x'/></lease>",
    "<on_crash>restart</on_crash>",
    "</devices><devices>",
    "<!--",
    "&#0;",
    "&lt;",
    "type='qcow2'",
    "offset='4096'",
)


@given(st.integers(0, len(XML)), st.one_of(st.sampled_from(HOSTILE_PARTS), st.text(max_size=20)), st.integers(0, 60))
def test_a_damaged_definition_is_refused_or_guarded_like_the_whole_one(at, put, length):
    """The application's XML, with anything in any place: what passes has the computed lease alone, and raw disks."""
    xml = XML[:at] + put + XML[at + length :]
    try:
        found = convert(ovf(VMID, SD, IMG, VOL, xml), VMID)
        if found.without_xml:
            return
        text = engine_xml(parse_vm_conf(found.text), LEASE)
        check(text, LEASE, VMID)
    except (OvfRefused, DefinitionRefused, VmConfError):
        return
    root = etree.fromstring(text)
    (lease,) = root.findall("devices/lease")
    target = lease.find("target")
    assert (lease.findtext("lockspace"), lease.findtext("key")) == (LEASE.lockspace, LEASE.key)
    assert (target.get("path"), target.get("offset", "0")) == (LEASE.path, str(LEASE.offset))
    disks = [disk for disk in root.findall("devices/disk") if disk.get("device", "disk") in ("disk", "lun")]
    assert disks and {disk.find("driver").get("type") for disk in disks} == {"raw"}
    assert all(len(root.findall(name)) <= 1 for name in ("on_crash", "on_lockfailure", "uuid"))
