import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.definition import MARK, DefinitionRefused, check, engine_xml, lease_of, parse_xml
from ovirt_he_ha.hypervisor.vm_conf import VmConf

VMID = "11111111-2222-3333-4444-555555555555"
SD = "aaaaaaaa-0000-4000-8000-000000000001"
IMG = "bbbbbbbb-0000-4000-8000-000000000001"
VOL = "cccccccc-0000-4000-8000-000000000001"
VOLUME = f"/data/{SD}/images/{IMG}/{VOL}"
LEASE = LeaseId(SD, VOL, f"{VOLUME}.lease", 0)
RHEV = f"/rhev/data-center/00000000-0000-0000-0000-000000000000/{SD}/images/{IMG}/{VOL}"
SOURCE = f"""<domain type='kvm' xmlns:ovirt-vm='http://ovirt.org/vm/1.0'>
<name>HostedEngine</name><uuid>{VMID}</uuid>
<metadata><ovirt-vm:vm><ovirt-vm:launchPaused>false</ovirt-vm:launchPaused></ovirt-vm:vm></metadata>
<sysinfo type='smbios'><system><entry name='manufacturer'>oVirt</entry><entry name='product'>OS-NAME:</entry>
<entry name='version'>OS-VERSION:</entry><entry name='serial'>HOST-SERIAL:</entry></system></sysinfo>
<devices>
<lease><key>{VOL}</key><lockspace>{SD}</lockspace>
<target offset='LEASE-OFFSET:{VOL}:{SD}' path='LEASE-PATH:{VOL}:{SD}'/></lease>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file=''/><target dev='hdc'/><readonly/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' error_policy='stop'/>
<source file='{RHEV}'/><target dev='vda'/></disk>
<graphics type='vnc' passwd='*****' passwdValidTo='1970-01-01T00:00:01'>
<listen type='network' network='vdsm-ovirtmgmt'/>
</graphics></devices></domain>"""


def made(source=SOURCE, lease=LEASE):
    return engine_xml(VmConf(4096, VMID, source), lease)


def refused(xml, lease=LEASE, vmid=VMID):
    with pytest.raises(DefinitionRefused) as error:
        check(xml, lease, vmid)
    assert error.value.code in str(error.value)
    return error.value


def test_places_of_this_host_are_filled_in():
    xml = made()
    check(xml, LEASE, VMID)
    root = parse_xml(xml)
    assert lease_of(root) == [LEASE]
    disk = root.find("devices/disk[@device='disk']/source")
    assert disk.get("file") == VOLUME
    assert [(label.get("model"), label.get("relabel")) for label in disk.findall("seclabel")] == [("dac", "no")]
    assert [entry.get("name") for entry in root.findall("sysinfo/system/entry")] == ["manufacturer"]
    listen = root.find("devices/graphics/listen")
    assert dict(listen.attrib) == {"type": "address", "address": "127.0.0.1"}
    assert [root.findtext(name) for name in ("on_crash", "on_poweroff", "on_lockfailure")] == [
        "destroy",
        "destroy",
        "poweroff",
    ]
    assert root.find(f"metadata/{{{MARK}}}engine") is not None


def test_making_twice_changes_nothing_more():
    once = made()
    assert etree.canonicalize(made(once)) == etree.canonicalize(once)


def test_what_the_definition_says_is_kept():
    root = parse_xml(
        made(SOURCE.replace("<devices>", "<on_reboot>destroy</on_reboot><on_crash>preserve</on_crash><devices>"))
    )
    assert root.findtext("on_reboot") == "destroy"
    assert root.findtext("on_crash") == "preserve"


def test_file_without_xml_or_with_a_paused_start_is_refused():
    for conf, code in ((VmConf(1, VMID), "no-xml"), (VmConf(1, VMID, SOURCE, True), "start-paused")):
        with pytest.raises(DefinitionRefused) as error:
            engine_xml(conf, LEASE)
        assert error.value.code == code


def replaced(old, new, count=1):
    xml = made()
    assert old in xml, old
    return xml.replace(old, new, count)


LEASE_XML = made()[made().index("<lease>") : made().index("</lease>") + len("</lease>")]
DISK_XML = made()[made().index('<disk type="file" device="disk">') : made().rindex("</disk>") + len("</disk>")]

CASES = {
    "uuid": (VMID, "11111111-2222-3333-4444-555555555556", "uuid", "uuid"),
    "no lease": (LEASE_XML, "", "no-lease", "lease"),
    "other lockspace": (f"<lockspace>{SD}", f"<lockspace>{IMG}", "foreign-lease", "lockspace"),
    "no lockspace": (f"<lockspace>{SD}</lockspace>", "", "foreign-lease", "lockspace"),
    "other key": (f"<key>{VOL}", f"<key>{IMG}", "foreign-lease", "key"),
    "other path": (f"{VOLUME}.lease", f"{VOLUME}.other", "foreign-lease", "path"),
    "other offset": ('offset="0"', 'offset="1048576"', "foreign-lease", "offset"),
    "no offset": ('offset="0"', 'offset="LEASE-OFFSET:a:b"', "foreign-lease", "offset"),
    "a second lease": (LEASE_XML, LEASE_XML + LEASE_XML.replace(VOL, IMG), "foreign-lease", "key"),
    "qcow2": (DISK_XML, DISK_XML.replace('type="raw"', 'type="qcow2"'), "qcow2", "vda"),
    "unnamed format": (DISK_XML, DISK_XML.replace(' type="raw"', ""), "disk-format", "vda"),
    "page cache": ('cache="none"', 'cache="writeback"', "disk-cache", "vda"),
    "relabel": ('relabel="no"', 'relabel="yes"', "relabel", "seclabel"),
    "no label": ('<seclabel model="dac" relabel="no"/>', "", "relabel", "vda"),
    "elsewhere": (f'file="{VOLUME}"', 'file="/tmp/disk"', "disk-location", "vda"),
    "climbing": (f'file="{VOLUME}"', f'file="/data/{SD}/images/../../etc/x"', "disk-location", "vda"),
    "another volume": (f'file="{VOLUME}"', f'file="/data/{SD}/images/{IMG}/other"', "disk-location", "disk"),
    "no disk": (DISK_XML, "", "disk-location", "disk"),
    "network disk": (DISK_XML, DISK_XML.replace('type="file"', 'type="network"'), "disk-location", "vda"),
    "transient": (DISK_XML, DISK_XML.replace("</disk>", "<transient/></disk>"), "disk-transient", "vda"),
    "readonly": (DISK_XML, DISK_XML.replace("</disk>", "<readonly/></disk>"), "disk-readonly", "vda"),
    "shareable": (DISK_XML, DISK_XML.replace("</disk>", "<shareable/></disk>"), "disk-shareable", "vda"),
    "raw SCSI": (DISK_XML, DISK_XML.replace('device="disk"', 'device="lun"'), "disk-passthrough", "vda"),
    "raw i/o": (DISK_XML, DISK_XML.replace('device="disk"', 'device="disk" rawio="yes"'), "disk-passthrough", "rawio"),
    "unfiltered": (
        DISK_XML,
        DISK_XML.replace('device="disk"', 'device="disk" sgio="unfiltered"'),
        "disk-passthrough",
        "sgio",
    ),
    "encrypted": (
        DISK_XML,
        DISK_XML.replace("</source>", "<encryption format='luks'/></source>"),
        "disk-format",
        "vda",
    ),
    "backing file": (
        DISK_XML,
        DISK_XML.replace("</disk>", "<backingStore type='file'><source file='/x'/></backingStore></disk>"),
        "disk-backing",
        "vda",
    ),
    "preserved crash": ("<on_crash>destroy", "<on_crash>preserve", "on-crash", "on_crash"),
    "restarted crash": ("<on_crash>destroy", "<on_crash>restart", "on-crash", "on_crash"),
    "dumped crash": ("<on_crash>destroy", "<on_crash>coredump-destroy", "on-crash", "on_crash"),
    "preserved power-off": ("<on_poweroff>destroy", "<on_poweroff>preserve", "on-poweroff", "on_poweroff"),
    "pause at lock failure": ("<on_lockfailure>poweroff", "<on_lockfailure>pause", "on-lockfailure", "on_lockfailure"),
    "no word on lock failure": ("<on_lockfailure>poweroff</on_lockfailure>", "", "on-lockfailure", "on_lockfailure"),
    "paused start": ("launchPaused>false", "launchPaused>true", "start-paused", "launchPaused"),
}


@pytest.mark.parametrize(("old", "new", "code", "element"), CASES.values(), ids=CASES.keys())
def test_unsafe_definition_is_refused_by_element(old, new, code, element):
    error = refused(replaced(old, new))
    assert error.code == code
    assert element in error.element


DISC = "<source file=''/><target dev='hdc'/><readonly/>"
FLOPPY = (
    "<disk type='file' device='floppy'><driver type='raw' cache='none'/><source file='{}'/><target dev='fda'/></disk>"
)


def with_disc(path, driver="raw", kind="file", attribute="file"):
    """The drive of SOURCE with something in it."""
    full = f"<source {attribute}='{path}'/><target dev='hdc'/><readonly/>"
    start = f"<disk type='{kind}' device='cdrom'><driver name='qemu' type='{driver}'/>"
    assert DISC in SOURCE
    return SOURCE.replace("<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>", start).replace(
        DISC, full
    )


@pytest.mark.parametrize("path", ["/var/tmp/rescue.iso", f"/data/{SD}/images/{IMG}/{IMG}"])
def test_a_disc_in_the_drive_is_only_read_and_its_file_keeps_its_owner(path):
    xml = made(with_disc(path))
    check(xml, LEASE, VMID)
    drive = parse_xml(xml).find("devices/disk[@device='cdrom']")
    assert drive.find("source").get("file") == path and drive.find("driver").get("cache") is None
    assert [dict(label.attrib) for label in drive.findall("source/seclabel")] == [{"model": "dac", "relabel": "no"}]


def test_a_disc_of_the_domain_lies_where_this_host_has_the_domain():
    root = parse_xml(made(with_disc(RHEV.replace(VOL, IMG))))
    assert root.find("devices/disk[@device='cdrom']/source").get("file") == VOLUME.replace(VOL, IMG)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (with_disc(f"/data/{SD}/dom_md/ids"), "disk-location"),
        (with_disc(f"{VOLUME}.lease"), "disk-location"),
        (with_disc("/var/tmp/disc", driver="qcow2"), "qcow2"),
        (with_disc("http", kind="network", attribute="protocol"), "disk-location"),
        (
            with_disc("/dev/sr0", kind="block", attribute="dev").replace(
                "/><target", "><seclabel model='dac' relabel='yes'/></source><target", 1
            ),
            "relabel",
        ),
    ],
)
def test_a_disc_that_is_none_is_refused(source, code):
    error = refused(made(source))
    assert (error.code, "hdc" in error.element) == (code, True)


def test_a_floppy_can_be_written_so_it_is_a_disk():
    for path, code in (("/tmp/floppy", "disk-location"), (f"{VOLUME}.lease", "disk-location"), ("", "")):
        xml = made(SOURCE.replace("<graphics", FLOPPY.format(path) + "<graphics", 1))
        if code:
            assert (refused(xml).code, refused(xml).element) == (code, "devices/disk fda/source")
        else:
            check(xml, LEASE, VMID)


@pytest.mark.parametrize("name", [f"{VOL}.lease", f"{VOL}.meta", f"{IMG}.lease"])
def test_s1_a_lease_is_no_disk(name):
    second = DISK_XML.replace(VOLUME, f"/data/{SD}/images/{IMG}/{name}").replace("vda", "vdb")
    error = refused(replaced(DISK_XML, DISK_XML + second))
    assert (error.code, error.element) == ("disk-location", "devices/disk vdb/source")


@pytest.mark.parametrize("name", ["leases", "ids", "metadata", "inbox", "outbox", "master", "xleases"])
def test_s1_what_a_block_domain_has_for_itself_is_no_disk(name):
    lease = LeaseId(SD, VOL, f"/dev/{SD}/leases", 104 << 20)
    xml = made(lease=lease)
    check(xml, lease, VMID)
    disk = xml[xml.index('<disk type="block" device="disk">') : xml.rindex("</disk>") + len("</disk>")]
    second = disk.replace(f"/dev/{SD}/{VOL}", f"/dev/{SD}/{name}").replace("vda", "vdb")
    assert refused(xml.replace(disk, disk + second), lease).element == "devices/disk vdb/source"


def test_s1_a_volume_that_the_hosts_use_themselves_is_no_disk():
    """The whiteboard, the lockspace, the configuration: volumes like others, by their names."""
    own = "dddddddd-0000-4000-8000-000000000001"
    second = DISK_XML.replace(VOLUME, f"/data/{SD}/images/{IMG}/{own}").replace("vda", "vdb")
    xml = replaced(DISK_XML, DISK_XML + second)
    check(xml, LEASE, VMID)
    with pytest.raises(DefinitionRefused) as error:
        check(xml, LEASE, VMID, reserved=(own,))
    assert (error.value.code, error.value.element) == ("disk-location", "devices/disk vdb/source")


def test_what_was_found_is_shown_in_one_short_line():
    error = refused(replaced(f'file="{VOLUME}"', 'file="/tmp/' + "x&#10;" * 100_000 + '"'))
    assert len(str(error)) < 1000 and "\n" not in str(error)


def test_second_raw_disk_of_the_domain_is_fine():
    second = DISK_XML.replace(VOLUME, f"/data/{SD}/images/{IMG}/data").replace("vda", "vdb")
    check(replaced(DISK_XML, DISK_XML + second), LEASE, VMID)


BOMB = "<!DOCTYPE domain [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]><domain>&b;</domain>"
EXTERNAL = "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>"


@pytest.mark.parametrize(
    "xml",
    ["", "<domain", "not xml", "<other/>", BOMB, EXTERNAL, "<domain>" + "x" * (1 << 20) + "</domain>", "\0", "\ud800"],
)
def test_what_is_no_definition(xml):
    assert refused(xml).code == "xml"


def test_a_block_domains_disk_is_the_logical_volume_that_the_lease_names():
    lease = LeaseId(SD, VOL, "/dev/vg/leases", 100 << 20)
    source = SOURCE.replace("type='file' device='disk'", "type='block' device='disk'")
    check(made(source.replace(f"file='{RHEV}'", f"dev='/dev/vg/{VOL}'"), lease), lease, VMID)
    error = refused(made(source.replace(f"file='{RHEV}'", "dev='/dev/vg/disk'"), lease), lease)
    assert error.code == "disk-location"


@given(st.text(max_size=400))
def test_any_text_is_checked_or_refused(text):
    with pytest.raises(DefinitionRefused):
        check(text, LEASE, VMID)


@given(st.integers(0, len(made()) - 1), st.integers(1, 60))
def test_torn_definition_is_refused_or_still_safe(at, length):
    xml = made()
    torn = xml[:at] + xml[at + length :]
    try:
        check(torn, LEASE, VMID)
    except DefinitionRefused:
        return
    assert lease_of(parse_xml(torn)) == [LEASE]
