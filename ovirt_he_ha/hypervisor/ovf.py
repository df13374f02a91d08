"""The management application's description of the engine VM (OVF), turned into ``vm.conf``.

The application writes one per VM into its OVF_STORE disks. The VM's libvirt XML is in it as a text (``EngineXml``);
the other keys of ``vm.conf`` are for the tools that read them.
"""

import base64
import re
from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from lxml import etree

from ovirt_he_ha.hypervisor.xml_document import Element, XmlProblem, document, local_name

OVF_NAMESPACES = ("http://schemas.dmtf.org/ovf/envelope/1", "http://schemas.dmtf.org/ovf/envelope/1/")
OVIRT_VM = "http://ovirt.org/vm/1.0"
BLANK = "00000000-0000-0000-0000-000000000000"
CDROM_ID = "8c3179ac-b322-4f5c-9449-c52e3665e0ae"
ALIAS_LENGTH = 24  # characters of a console's alias that libvirt's own tools carry through
SPICE_CHANNELS = "smain,sdisplay,sinputs,scursor,splayback,srecord,ssmartcard,susbredir"
DISPLAYS = {"0": "vnc", "1": "qxl", "2": "vnc"}
NIC_MODELS = {
    "0": "rtl8139_pv",
    "1": "rtl8139",
    "2": "e1000",
    "3": "pv",
    "4": "spaprVlan",
    "5": "pciPassthrough",
}
MEMORY, CPU = "4", "3"  # resource types
MOST = {"memSize": 64 << 20, "smp": 4096, "maxVCpus": 4096}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNFIT = re.compile(r"[\s\"'{}#,]|[^ -~]")
_ADDRESS = re.compile(r"\{[\w=:.,\s-]{0,200}\}")


class OvfRefused(ValueError):
    """``code``: ``xml`` not a safe document, ``ovf`` no OVF of a VM, ``uuid`` of another VM, ``value`` a value that
    cannot be; ``element`` where."""

    msg = "the OVF of the engine VM is refused ({code}): {element}: expected {expected}, found {found}"

    def __init__(self, code: str, element: str, expected: str, found: str) -> None:
        super().__init__(code, element, expected, found)
        self.code = code
        self.element = element
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(code=self.code, element=self.element, expected=self.expected, found=self.found)


@dataclass(frozen=True)
class Converted:
    """``text`` of vm.conf. ``without_xml``: empty, or why it has no ``xmlBase64`` and so cannot be started: the
    element of the libvirt XML and what is expected of it."""

    text: str
    without_xml: str = ""


def convert(data: bytes, vmid: str) -> Converted:
    """vm.conf out of any bytes. Raises OvfRefused, never anything else."""
    root = _root(data)
    content = _first(root, "Content")
    if content is None:
        raise OvfRefused("ovf", "Content", "the description of a VM", "none")
    found = _vm_id(content)
    if found != vmid.lower():
        raise OvfRefused("uuid", "OperatingSystemSection id", vmid, found or "nothing")
    xml, without = _engine_xml(content)
    items = list(root.iter("{*}Item"))
    pairs: List[Tuple[str, str]] = [("xmlBase64", xml), ("vmId", found), *_scalars(content, items)]
    lines = [f"{key}={value}" for key, value in pairs if value]
    lines += [f"devices={_rendered(device)}" for device in _devices(root, items)]
    return Converted("\n".join(lines) + "\n", without)


def _root(data: bytes) -> Element:
    try:
        root = document(data)
    except XmlProblem as problem:
        raise OvfRefused("xml", "the document", problem.expected, problem.found) from None
    if local_name(root) != "Envelope":
        raise OvfRefused("ovf", "the root element", "Envelope", local_name(root)[:40])
    return root


# --- looking into the document: names count, namespaces differ between the engine's versions. ``{*}`` is any of them or
# none, and is compared in the parser's own code: an OVF of 30 KB has 700 elements, and each device asks for several


def _first(node: Element, name: str) -> Optional[Element]:
    """In document order, at any depth."""
    return next(node.iter(f"{{*}}{name}"), None)


def _child_text(node: Optional[Element], name: str) -> str:
    if node is None:
        return ""
    found = next(node.iterchildren(f"{{*}}{name}"), None)
    return (found.text or "").strip() if found is not None else ""


def _attribute(node: Element, name: str) -> str:
    """An attribute of the OVF namespace, which is written with and without a slash at its end."""
    for namespace in OVF_NAMESPACES:
        value = node.get(f"{{{namespace}}}{name}")
        if value is not None:
            return str(value).strip()
    return str(node.get(name, "")).strip()


def _section(content: Element, kind: str) -> Optional[Element]:
    """Named by its tag, or ``Section`` with the name in its type."""
    for node in content.iter(f"{{*}}{kind}", "{*}Section"):
        if local_name(node) == kind:
            return node
        if any(
            key.endswith("}type") and value.rpartition(":")[2] == f"{kind}_Type" for key, value in node.attrib.items()
        ):
            return node
    return None


def _vm_id(content: Element) -> str:
    section = _section(content, "OperatingSystemSection")
    found = _attribute(section, "id").lower() if section is not None else ""
    if found and not _UUID.fullmatch(found):
        raise OvfRefused("value", "OperatingSystemSection id", "the VM's UUID", repr(found[:40]))
    return found


# --- keys ---------------------------------------------------------------------------------------------------------


def _scalars(content: Element, items: List[Element]) -> List[Tuple[str, str]]:
    cpu = next((item for item in items if _child_text(item, "ResourceType") == CPU), None)
    memory = next((item for item in items if _child_text(item, "ResourceType") == MEMORY), None)
    sockets = _number("smp", "num_of_sockets", _child_text(cpu, "num_of_sockets"))
    cores = _number("smp", "cpu_per_socket", _child_text(cpu, "cpu_per_socket"))
    size = _number("memSize", "VirtualQuantity of the memory", _child_text(memory, "VirtualQuantity"))
    if not size:
        raise OvfRefused("value", "VirtualQuantity of the memory", "a number of MiB", "nothing")
    most = _number("maxVCpus", "max_num_of_vcpus", _child_text(cpu, "max_num_of_vcpus"))
    smp = int(sockets or 0) * int(cores or 0)
    return [
        ("vmName", _fit(_child_text(content, "Name"))),
        ("display", DISPLAYS.get(_child_text(content, "DefaultDisplayType"), "")),
        ("cpuType", _fit(_child_text(content, "CustomCpuName"), ",")),
        ("emulatedMachine", _fit(_child_text(content, "CustomEmulatedMachine"))),
        ("smp", str(smp) if smp else ""),
        ("maxVCpus", most),
        ("memSize", size),
        ("spiceSecureChannels", SPICE_CHANNELS),
    ]


def _number(key: str, element: str, text: str) -> str:
    if not text:
        return ""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) <= MOST[key]):
        raise OvfRefused("value", element, f"a whole number from 1 to {MOST[key]}", repr(text[:40]))
    return str(int(text))


def _fit(value: str, also: str = "") -> str:
    """What a line, and a device in it, can carry: no blank, quote, brace, comma or comment sign, ASCII only. A name
    with a line's end in it must not become two lines."""
    return "".join(char for char in value[:255] if char in also or not _UNFIT.match(char))


# --- the libvirt XML ----------------------------------------------------------------------------------------------


def _engine_xml(content: Element) -> Tuple[str, str]:
    """In base64, and why there is none."""
    found = _first(content, "EngineXml")
    text = (found.text or "").strip() if found is not None else ""
    if not text:
        return "", "EngineXml: expected the VM's libvirt XML (engine 4.2 or later writes it), found nothing"
    try:
        root = document(text.encode("utf-8"))
    except XmlProblem as problem:
        raise OvfRefused("xml", "EngineXml", problem.expected, problem.found) from None
    if root.find("devices/lease") is None:
        return "", "EngineXml: devices/lease: expected the lease of the VM's disk, found none"
    shared = _shared(root)
    if shared != "exclusive":
        return "", f"EngineXml: shared of the first disk: expected 'exclusive', found {shared[:20] or 'nothing'!r}"
    _cut_console_alias(root)
    return base64.b64encode(bytes(etree.tostring(root, encoding="UTF-8", xml_declaration=True))).decode(), ""


def _shared(root: Element) -> str:
    """Of the first disk that can be written, as the application's metadata says."""
    for disk in root.findall("devices/disk"):
        target = disk.find("target")
        if disk.get("device", "disk") not in ("disk", "lun") or target is None:
            continue
        for device in root.iter(f"{{{OVIRT_VM}}}device"):
            if device.get("devtype") == "disk" and device.get("name") == target.get("dev"):
                return str(device.findtext(f"{{{OVIRT_VM}}}shared") or "").strip()
        return ""
    return ""


def _cut_console_alias(root: Element) -> None:
    for console in root.findall("devices/console"):
        alias = console.find("alias")
        if console.get("type") == "pty" and alias is not None and alias.get("name"):
            alias.set("name", alias.get("name")[:ALIAS_LENGTH])


# --- devices ------------------------------------------------------------------------------------------------------

Device = Dict[str, str]


def _devices(root: Element, items: List[Element]) -> List[Device]:
    files = {_attribute(node, "fileRef"): node for node in root.iter("{*}Disk")}
    found: List[Device] = []
    before: Counter[str] = Counter()  # disks and drives
    for item in items:
        made = _device(item, files, before)
        if made is not None:
            found.append(made)
            before[made.get("device", "")] += 1
    kinds = {device["type"] for device in found}
    if "rng" not in kinds:
        found.append({"device": "virtio", "specParams": "{source:urandom}", "model": "virtio", "type": "rng"})
    if "console" not in kinds:
        found.append({"device": "console", "type": "console"})
    return found


def _device(item: Element, files: Dict[str, Element], before: "Counter[str]") -> Optional[Device]:
    kind, device = _child_text(item, "Type"), _fit(_child_text(item, "Device"))
    if kind == "disk" and device == "disk":
        return _disk(item, files, before["disk"])
    if kind == "disk" and device == "cdrom":
        return None if before["cdrom"] else _cdrom()
    if kind == "interface":
        return _interface(item, device)
    if kind == "controller":
        return _controller(item, device)
    if kind in ("console", "graphics"):
        return _with_address(item, {"device": device, "type": kind})
    if kind == "video":
        return _with_address(item, {"device": device, "alias": "video0", "type": kind})
    if kind == "rng":
        return _with_address(
            item, {"device": device, "specParams": "{source:urandom}", "model": device or "virtio", "type": kind}
        )
    return None


def _disk(item: Element, files: Dict[str, Element], index: int) -> Device:
    reference = _child_text(item, "HostResource")
    image, _, volume = reference.partition("/")
    entry = files.get(reference)
    order = _child_text(item, "BootOrder")
    device = {
        "index": str(index),
        "iface": _fit(_attribute(entry, "disk-interface")).lower() if entry is not None else "",
        "format": _fit(_attribute(entry, "volume-format")).lower() if entry is not None else "",
        "bootOrder": str(int(order) + 1) if order.isascii() and order.isdigit() and len(order) < 6 else "",
        "address": "",
        "volumeID": _fit(volume),
        "imageID": _fit(image),
        "readonly": _fit(_child_text(item, "IsReadOnly")) or "false",
        "domainID": _fit(_child_text(item, "StorageId")),
        "deviceId": _fit(image),
        "poolID": BLANK,
        "device": "disk",
        "shared": "exclusive",
        "propagateErrors": "off",
        "type": "disk",
    }
    return _with_address(item, device)


def _cdrom() -> Device:
    return {
        "index": "2",
        "iface": "ide",
        "address": "{controller:0,target:0,unit:0,bus:1,type:drive}",
        "specParams": "{}",
        "readonly": "true",
        "deviceId": CDROM_ID,
        "path": "",
        "device": "cdrom",
        "shared": "false",
        "type": "disk",
    }


def _interface(item: Element, device: str) -> Optional[Device]:
    mac = _fit(_child_text(item, "MACAddress"))
    if not mac:
        return None
    made = {
        "nicModel": NIC_MODELS.get(_child_text(item, "ResourceSubType"), ""),
        "macAddr": mac,
        "linkActive": _fit(_child_text(item, "Linked")) or "true",
        "network": _fit(_child_text(item, "Connection")),
        "specParams": "{}",
        "deviceId": _fit(_child_text(item, "InstanceId")),
        "address": "",
        "device": device or "bridge",
        "type": "interface",
    }
    return _with_address(item, made)


def _controller(item: Element, device: str) -> Device:
    made = {"device": device, "type": "controller"}
    if device == "virtio-scsi":
        made = {"device": "scsi", "model": "virtio-scsi", "type": "controller"}
    return _with_address(item, made)


def _with_address(item: Element, device: Device) -> Device:
    text = _child_text(item, "Address")
    if text and _ADDRESS.fullmatch(text):
        device["address"] = re.sub(r"\s", "", text.replace("=", ":"))
    return device


def _rendered(device: Device) -> str:
    """``path`` alone may be empty: an empty drive."""
    return "{" + ",".join(f"{key}:{value}" for key, value in device.items() if value or key == "path") + "}"
