"""S1: what a definition may name of its host, so that the VM starts on any, and writes to nothing but its disks."""

import re

import pytest

from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml
from ovirt_he_ha.hypervisor.placeholders import Layout
from ovirt_he_ha.hypervisor.vm_conf import VmConf
from tests.hypervisor.test_definition import IMG, LEASE, SD, SOURCE, VMID, VOL, VOLUME
from tests.hypervisor.test_placeholders import LAYOUTS
from tests.own_time import OwnTime

NVRAM = f"/var/lib/libvirt/qemu/nvram/{VMID}.fd"
# What an engine writes into the definition of its own VM, beside what SOURCE has: all of it in one.
OUTSIDE = f"""<memory unit='KiB'>16777216</memory><currentMemory unit='KiB'>16777216</currentMemory>
<maxMemory slots='16' unit='KiB'>67108864</maxMemory><iothreads>1</iothreads><vcpu current='4'>64</vcpu>
<memoryBacking><hugepages><page size='2048'/></hugepages><source type='memfd'/></memoryBacking>
<resource><partition>/machine</partition></resource>
<clock adjustment='0' offset='variable'><timer name='rtc' tickpolicy='catchup'/></clock>
<features><acpi/><vmcoreinfo/></features>
<cpu match='exact'><model>Cascadelake-Server</model><numa><cell cpus='0-63' id='0' memory='16777216' unit='KiB'/></numa>
</cpu><launchSecurity type='sev'><policy>0x0003</policy><dhCert>/9j/4AAQ</dhCert></launchSecurity>
<os><type arch='x86_64' machine='pc-q35-rhel8.4.0'>hvm</type><smbios mode='sysinfo'/>
<loader readonly='yes' secure='no' type='pflash'>/usr/share/OVMF/OVMF_CODE.secboot.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>{NVRAM}</nvram><bios useserial='yes'/></os>
<q:capabilities xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:add capability='blockdev'/>
</q:capabilities>"""
DEVICES = """<input bus='usb' type='tablet'/><channel type='unix'><target name='org.qemu.guest_agent.0' type='virtio'/>
<source mode='bind' path='/var/lib/libvirt/qemu/channels/x.org.qemu.guest_agent.0'/></channel>
<channel type='spicevmc'><target name='com.redhat.spice.0' type='virtio'/></channel>
<console type='unix'><source mode='bind' path='/var/run/ovirt-vmconsole-console/x.sock'/>
<target port='0' type='serial'/></console>
<serial type='unix'><source mode='bind' path='/var/run/ovirt-vmconsole-console/x.sock'/><target port='0'/></serial>
<parallel type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/></parallel>
<controller index='0' model='virtio-scsi' type='scsi'><driver iothread='1'/></controller>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>
<rng model='virtio'><backend model='builtin'/></rng>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm><panic model='isa'/>
<graphics type='spice' port='-1' passwd='/****'><listen network='vdsm-ovirtmgmt' type='network'/></graphics>
<interface type='bridge'><source bridge='ovirtmgmt'/><filterref filter='vdsm-no-mac-spoofing'/></interface>
<interface type='direct'><source dev='eth0.10' mode='bridge'/></interface>
<sound model='ich6'/><audio id='1' type='none'/><video><model type='qxl' vram='8192'/></video>
<redirdev bus='usb' type='spicevmc'/><smartcard mode='passthrough' type='spicevmc'/><watchdog model='i6300esb'/>
<memory model='dimm'><target><size unit='MiB'>1024</size><node>0</node></target></memory>
<emulator>/usr/libexec/qemu-kvm</emulator><memballoon model='virtio'/>"""


def definition(outside="", devices="", lease=LEASE, layout=None):
    source = SOURCE.replace("<devices>", outside + "<devices>").replace("</devices>", devices + "</devices>")
    return engine_xml(VmConf(4096, VMID, source), lease, layout)


def refused(xml, *allowed):
    with pytest.raises(DefinitionRefused) as error:
        check(xml, LEASE, VMID, allowed=frozenset(allowed))
    return error.value.code, error.value.element


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_an_engine_writes_is_accepted(name):
    lease, layout, *_ = LAYOUTS[name]
    xml = definition(OUTSIDE, DEVICES, lease, layout)
    check(xml, lease, VMID, layout)


def disk(inner):
    return f"<disk type='file' device='disk'><driver type='raw' cache='none'/>{inner}<target dev='vdb'/></disk>"


BESIDE = f"<source file='/data/{SD}/images/{IMG}/beside'>{{}}</source>"
PLACES = {
    "console to a file": ("", "<serial type='file'><source path='/var/log/x'/></serial>", "devices/serial", "path"),
    "relative": ("", "<serial type='file'><source path='etc/x'/></serial>", "devices/serial", "path"),
    "device": ("", "<parallel type='dev'><source path='/dev/parport0'/></parallel>", "devices/parallel", "path"),
    "pipe": ("", "<channel type='pipe'><source path='/tmp/fifo'/></channel>", "devices/channel", "path"),
    "socket": ("", "<console type='unix'><source path='/tmp/x'/></console>", "devices/console", "path"),
    "log": ("", "<console type='pty'><log file='/var/log/x'/></console>", "devices/console", "log file"),
    "file of libvirt's": (
        "",
        "<serial type='file'><source path='/var/lib/libvirt/qemu/x'/></serial>",
        "devices/serial",
        "source path",
    ),
    "display's socket": ("", "<graphics type='vnc' socket='/tmp/x'/>", "devices/graphics", "socket"),
    "display on a bus": ("", "<graphics type='dbus' address='unix:path=/tmp/x'/>", "devices/graphics", "address"),
    "render node": ("", "<graphics type='spice'><gl rendernode='/dev/dri/r'/></graphics>", "devices/graphics", "gl"),
    "random": ("", "<rng><backend model='random'>/dev/ttyS0</backend></rng>", "devices/rng", "backend"),
    "entropy's daemon": (
        "",
        "<rng><backend model='egd' type='unix'><source path='/tmp/x'/></backend></rng>",
        "devices/rng",
        "source path",
    ),
    "tpm": (
        "",
        "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
        "devices/tpm",
        "device path",
    ),
    "nvdimm": ("", "<memory model='nvdimm'><source><path>/x</path></source></memory>", "devices/memory", "path"),
    "input": ("", "<input type='evdev'><source dev='/dev/input/event1'/></input>", "devices/input", "dev"),
    "sound to a file": ("", "<audio id='1' type='file' path='record.wav'/>", "devices/audio", "path"),
    "script": ("", "<interface type='ethernet'><script path='/x'/></interface>", "devices/interface", "script path"),
    "unheard of": ("", "<marvel><at>/srv/x</at></marvel>", "devices/marvel", "devices/marvel/at"),
    "nvram elsewhere": ("<os><nvram>/root/x.fd</nvram></os>", "", "os/nvram", "os/nvram"),
    "nvram by name": ("<os><nvram type='file'><source file='/x'/></nvram></os>", "", "os/nvram", "source file"),
    "nvram device": ("<os><nvram type='block'><source dev='/dev/x'/></nvram></os>", "", "os/nvram", "source dev"),
    "template": (f"<os><nvram template='/etc/shadow'>{NVRAM}</nvram></os>", "", "os/nvram", "template"),
    "climbing": ("<os><loader>/usr/../etc/x</loader></os>", "", "", "os/loader"),
    "kernel": ("<os><kernel>boot/vmlinuz</kernel></os>", "", "os/kernel", "os/kernel"),
    "firmware table": ("<os><acpi><table type='slic'>/x</table></acpi></os>", "", "os/acpi", "table"),
    "a file for the firmware": (
        "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>",
        "",
        "sysinfo",
        "entry file",
    ),
    "emulator": ("", "<emulator>/home/me/qemu</emulator>", "devices/emulator", "emulator"),
    "reservations": (
        "",
        disk(BESIDE.format("<reservations managed='no'><source type='unix' path='/x'/></reservations>")),
        "devices/disk",
        "reservations/source path",
    ),
}


@pytest.mark.parametrize(("outside", "devices", "allows", "where"), PLACES.values(), ids=PLACES.keys())
def test_s1_a_place_of_one_host_is_refused_by_name_until_its_administrator_allows_the_element(
    outside, devices, allows, where
):
    xml = definition(outside, devices)
    code, element = refused(xml)
    assert (code, where in element) == ("host-place" if allows else "shared-place", True)
    if allows:
        check(xml, LEASE, VMID, allowed=frozenset([allows]))
        assert refused(xml, "devices/other") == (code, element)


HOST_ONLY = {
    "devices/hostdev": "<hostdev mode='subsystem' type='pci'><source><address bus='0x06'/></source></hostdev>",
    "devices/filesystem": "<filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>",
    "devices/smartcard": "<smartcard mode='host'/>",
    "devices/shmem": "<shmem name='x'><model type='ivshmem-plain'/></shmem>",
    "devices/interface": "<interface type='hostdev'><source><address type='pci' bus='0x06'/></source></interface>",
}


@pytest.mark.parametrize("element", HOST_ONLY)
def test_what_only_this_host_has_needs_its_administrator(element):
    xml = definition("", HOST_ONLY[element])
    assert refused(xml) == ("host-device", element)
    check(xml, LEASE, VMID, allowed=frozenset([element]))


@pytest.mark.parametrize(
    "kind", ["mode='subsystem' type='scsi'", "mode='subsystem' type='scsi_host'", "type='storage'"]
)
def test_s1_no_lun_beside_the_lease_whoever_allows_it(kind):
    xml = definition("", f"<hostdev {kind}/>")
    assert refused(xml, "devices/hostdev") == ("host-device", "devices/hostdev")


SHARED = (
    VOLUME,
    f"{VOLUME}.lease",
    f"/data/{SD}/dom_md/ids",
    f"/mnt/other/{SD}/images/x",
    f"/dev/{SD}/leases",
    "/dev/mapper/" + SD.replace("-", "--") + "-ids",
    f"/rhev/data-center/mnt/x/{IMG}/{VOL}",
    "/dev/sda",
    "dev/sda",
    "//dev/sda",
    "/dev/./sda",
    "dev/.//sda",
    "/dev/block/8:0",
    "/proc/1/root/dev/sda",
    f"/data/./{SD}/images/x",
    "/dev/dm-3",
    "/dev/disk/by-id/x",
    f"/var/../data/{SD}",
)


@pytest.mark.parametrize("place", SHARED)
def test_s1_the_shared_storage_is_closed_to_all_but_disks(place):
    for devices, element in (
        (f"<serial type='file'><source path='{place}'/></serial>", "devices/serial"),
        (f"<filesystem type='mount'><source dir='{place}'/></filesystem>", "devices/filesystem"),
        (f"<memory model='nvdimm'><source><path>{place}</path></source></memory>", "devices/memory"),
    ):
        code, where = refused(definition("", devices), element)
        assert (code, where.startswith(element)) == ("shared-place", True)


@pytest.mark.parametrize("name", ["override", "deprecation", "capabilities"])
def test_s1_nothing_of_another_namespace_reaches_qemu(name):
    inner = "<q:device alias='x'/>" if name != "capabilities" else "<q:del capability='x'/>"
    xml = definition(f"<q:{name} xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>{inner}</q:{name}>")
    code, element = refused(xml, f"qemu/1.0:{name}")
    assert (code, re.sub(".*:", "", element)) == ("foreign-element", name)


def test_s1_the_volume_of_a_block_domain_is_closed_too():
    lease, layout, *_ = next(found for found in LAYOUTS.values() if found[0].path.startswith("/dev/"))
    xml = definition("", f"<serial type='dev'><source path='/dev/{SD}/x'/></serial>", lease, layout)
    with pytest.raises(DefinitionRefused) as error:
        check(xml, lease, VMID, layout or Layout.of(lease), allowed=frozenset(["devices/serial"]))
    assert error.value.code == "shared-place"


@pytest.mark.parametrize("inner", ["<a/>", "<a b='/dev/pts/3'/>", "</d><d>"])
def test_a_deep_or_long_document_costs_a_moment(inner):
    """libvirt would not read it; whoever writes to the storage may write it, and the agent looks at it every minute."""
    deep = "<d>" * 200 + inner * (900_000 // len(inner)) + "</d>" * 200
    xml = definition("", f"<serial type='pty'>{deep}</serial>")
    took = OwnTime()
    check(xml, LEASE, VMID)
    assert took.seconds < 5


def test_a_place_far_below_is_found_too():
    deep = "<d>" * 100 + "<source path='/x'/>" + "</d>" * 100
    code, element = refused(definition("", f"<serial type='file'>{deep}</serial>"))
    assert (code, element.split("/")[:3]) == ("host-place", ["devices", "serial", "..."])
    assert element.endswith("d/source path")
