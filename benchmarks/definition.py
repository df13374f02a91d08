"""A configuration archive with a definition that the agent accepts; nothing here is ever started."""

import base64
import json
from typing import Dict
from xml.sax.saxutils import escape

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage.tar import BLOCK, header, padded

_DOMAIN = """\
<domain type='qemu'>
  <name>HostedEngine</name>
  <uuid>{vm}</uuid>
  <memory unit='MiB'>4096</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <on_lockfailure>poweroff</on_lockfailure>
  <devices>
    <lease>
      <lockspace>{lease.lockspace}</lockspace>
      <key>{lease.key}</key>
      <target path='{lease.path}' offset='{lease.offset}'/>
    </lease>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop'/>
      <source file='{disk}'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <serial>disk</serial>
    </disk>
  </devices>
</domain>
"""


def members(vm: str, lease: LeaseId, disk: str) -> Dict[str, bytes]:
    xml = _DOMAIN.format(vm=vm, lease=lease, disk=disk)
    lines = [
        f"xmlBase64={base64.b64encode(xml.encode()).decode()}",
        f"vmId={vm}",
        "vmName=HostedEngine",
        "memSize=4096",
    ]
    found = dict.fromkeys(("version", "fhanswers.conf", "hosted-engine.conf", "broker.conf"), b"x=1\n")
    return {**found, "vm.conf": ("\n".join(lines) + "\n").encode()}


# --- as a management application leaves it ----------------------------------------------------------------------------

_EXCLUSIVE = """<metadata><v:vm xmlns:v='http://ovirt.org/vm/1.0'><v:device devtype='disk' name='vda'>
<v:shared>exclusive</v:shared></v:device></v:vm></metadata><devices>"""
_OVF = """<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" xmlns:rasd="rasd" ovf:version="4.4.0.0"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<Section xsi:type="ovf:DiskSection_Type"><Disk ovf:fileRef="{image}/{volume}" ovf:volume-format="RAW"
 ovf:disk-interface="VirtIO"/></Section>
<Content xsi:type="ovf:VirtualSystem_Type"><Name>HostedEngine</Name><DefaultDisplayType>2</DefaultDisplayType>
<EngineXml>{xml}</EngineXml>
<Section ovf:id="{vm}" xsi:type="ovf:OperatingSystemSection_Type"/>
<Section xsi:type="ovf:VirtualHardwareSection_Type">
<Item><rasd:ResourceType>3</rasd:ResourceType><rasd:num_of_sockets>4</rasd:num_of_sockets>
<rasd:cpu_per_socket>1</rasd:cpu_per_socket></Item>
<Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>{memory}</rasd:VirtualQuantity></Item>
{items}</Section></Content></ovf:Envelope>
"""
_ITEM = """<Item><rasd:Caption>Graphical Controller of a real size, with words that nobody reads</rasd:Caption>
<rasd:InstanceId>00000000-0000-4000-8000-{n:012d}</rasd:InstanceId><rasd:ResourceType>20</rasd:ResourceType>
<Type>video</Type><Device>vga</Device>
<rasd:Address>{{type=pci, slot=0x02, bus=0x00, function=0x0}}</rasd:Address></Item>
"""


def ovf(conf: HostedEngineConf, disk: str, lease: LeaseId, memory: int) -> bytes:
    """About 30 KB, as real ones have."""
    xml = _DOMAIN.format(vm=conf.vmid, lease=lease, disk=disk).replace("<devices>", _EXCLUSIVE)
    text = _OVF.format(
        vm=conf.vmid,
        image=conf.vm_disk_id,
        volume=conf.vm_disk_vol_id,
        memory=memory,
        xml=escape(xml),
        items="".join(_ITEM.format(n=number) for number in range(70)),
    )
    return text.encode()


def store(vm: str, ovf: bytes, others: int = 10) -> bytes:
    """The tar archive of an OVF_STORE, the engine VM's last."""
    members = {f"{number:08d}-0000-4000-8000-000000000001.ovf": ovf for number in range(others)}
    members[f"{vm}.ovf"] = ovf
    parts = [header(name, len(data)) + data.ljust(padded(len(data)), b"\0") for name, data in members.items()]
    return b"".join(parts) + bytes(2 * BLOCK)


def description(size: int, second: int) -> bytes:
    """Of such a volume."""
    text = {
        "Updated": True,
        "Size": size,
        "Last Updated": f"Sat Nov 21 12:00:{second:02d} UTC 2026",
        "Disk Description": "OVF_STORE",
    }
    return f"DESCRIPTION={json.dumps(text)}\nEOF\n".encode()
