"""What a management application leaves in a storage domain: an OVF, the tar it is in, the volume's metadata."""

import json
from pathlib import Path
from xml.sax.saxutils import escape

from ovirt_he_ha.storage.tar import BLOCK, header, padded

OVF = """<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1{slash}"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ovf:version="4.4.0.0">
<References><File ovf:href="{image}/{volume}" ovf:id="{volume}" ovf:size="65498251264"/></References>
<Section xsi:type="ovf:DiskSection_Type"><Info>List of Virtual Disks</Info>
<Disk ovf:diskId="{volume}" ovf:size="61" ovf:fileRef="{image}/{volume}" ovf:volume-format="RAW"
 ovf:volume-type="Preallocated" ovf:disk-interface="VirtIO" ovf:boot="true"/></Section>
<Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type">
<Name>{name}</Name><Description>Hosted Engine</Description>
<DefaultDisplayType>2</DefaultDisplayType><CustomEmulatedMachine>{machine}</CustomEmulatedMachine>
<CustomCpuName>{cpu}</CustomCpuName>
<EngineXml>{xml}</EngineXml>
<Section ovf:id="{vm}" ovf:required="false" xsi:type="ovf:OperatingSystemSection_Type">
<Info>Guest Operating System</Info><Description>other_linux</Description></Section>
<Section xsi:type="ovf:VirtualHardwareSection_Type"><Info>{cores} CPU, {memory} Memory</Info>
<Item><rasd:Caption>virtual cpu</rasd:Caption><rasd:ResourceType>3</rasd:ResourceType>
<rasd:num_of_sockets>{sockets}</rasd:num_of_sockets><rasd:cpu_per_socket>{cores}</rasd:cpu_per_socket>
<rasd:threads_per_cpu>1</rasd:threads_per_cpu><rasd:max_num_of_vcpus>16</rasd:max_num_of_vcpus></Item>
<Item><rasd:Caption>memory</rasd:Caption><rasd:ResourceType>4</rasd:ResourceType>
<rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>{memory}</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceId>{volume}</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType>
<rasd:HostResource>{image}/{volume}</rasd:HostResource><rasd:StorageId>{domain}</rasd:StorageId>
<Type>disk</Type><Device>disk</Device>
<rasd:Address>{{type=pci, slot=0x06, bus=0x00, domain=0x0000, function=0x0}}</rasd:Address>
<BootOrder>0</BootOrder><IsReadOnly>false</IsReadOnly></Item>
<Item><rasd:ResourceType>15</rasd:ResourceType><Type>disk</Type><Device>cdrom</Device></Item>
<Item><rasd:ResourceType>15</rasd:ResourceType><Type>disk</Type><Device>cdrom</Device></Item>
<Item><rasd:InstanceId>4d4c2c0c-0000-4000-8000-000000000001</rasd:InstanceId><rasd:ResourceType>10</rasd:ResourceType>
<rasd:ResourceSubType>3</rasd:ResourceSubType><rasd:Connection>ovirtmgmt</rasd:Connection><rasd:Linked>true</rasd:Linked>
<rasd:MACAddress>00:16:3e:12:34:56</rasd:MACAddress><Type>interface</Type><Device>bridge</Device></Item>
<Item><rasd:ResourceType>10</rasd:ResourceType><Type>interface</Type><Device>bridge</Device></Item>
<Item><rasd:ResourceType>20</rasd:ResourceType><Type>video</Type><Device>vga</Device></Item>
<Item><rasd:ResourceType>26</rasd:ResourceType><Type>graphics</Type><Device>vnc</Device></Item>
<Item><rasd:ResourceType>0</rasd:ResourceType><Type>controller</Type><Device>virtio-scsi</Device></Item>
</Section></Content></ovf:Envelope>
"""


def ovf(vm, domain="", image="", volume="", xml="", **values):
    """``xml``: the libvirt definition, as text."""
    values = {
        "slash": "/",
        "name": "HostedEngine",
        "machine": "pc-q35-rhel8.4.0",
        "cpu": "Cascadelake-Server",
        "sockets": "4",
        "cores": "2",
        "memory": "16384",
        **values,
    }
    texts = {"vm": vm, "domain": domain, "image": image, "volume": volume, "xml": xml, **values}
    return OVF.format(**{key: escape(value) for key, value in texts.items()}).encode()


def store(members):
    """A tar archive of ``name -> bytes``."""
    parts = [header(name, len(data)) + data.ljust(padded(len(data)), b"\0") for name, data in members.items()]
    return b"".join(parts) + bytes(2 * BLOCK)


def meta(size=0, date="Tue Nov 10 14:36:08 UTC 2026", updated=True, kind="OVF_STORE"):
    text = {"Updated": updated, "Size": size, "Last Updated": date, "Storage Domains": [], "Disk Description": kind}
    lines = ["CAP=134217728", "CTIME=1548928945", f"DESCRIPTION={json.dumps(text)}", "DISKTYPE=OVFS", "EOF"]
    return ("\n".join(lines) + "\n").encode()


def write_store(images, number, members, **description):
    """One OVF_STORE volume below the directory of images. Returns its path."""
    image = Path(images, f"{number:08d}-0000-4000-8000-00000000000a")
    image.mkdir(parents=True, exist_ok=True)
    volume = image / f"{number:08d}-0000-4000-8000-00000000000b"
    data = store(members)
    with open(volume, "r+b" if volume.exists() else "wb") as file:
        file.write(data)
        file.truncate(max(1 << 20, -(-len(data) // 4096) * 4096))
    Path(f"{volume}.meta").write_bytes(meta(**{"size": len(data), **description}))
    return volume
