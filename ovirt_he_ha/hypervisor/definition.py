"""The engine VM's libvirt definition: made from ``vm.conf`` for this host's storage, and checked before every start.

Making fills in what the management application leaves to the host (places of lease and disks) and what makes a start
safe by default. Checking trusts nothing, also not what was just made: a definition without the right lease can run
twice, a copy-on-write image can be damaged by the mere opening of it, a preserved crash is a VM that neither runs nor
leaves.
"""

import posixpath
from typing import FrozenSet, List, Optional, Sequence

from lxml import etree

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.custom_definition import Custom, extend
from ovirt_he_ha.hypervisor.host_places import QEMU, unsuitable
from ovirt_he_ha.hypervisor.placeholders import Layout, disks, optical, resolve, source_of
from ovirt_he_ha.hypervisor.vm_conf import VmConf, VmConfError, parse_vm_conf
from ovirt_he_ha.hypervisor.xml_document import Element, XmlProblem, document

__all__ = [
    "MARK",
    "DefinitionRefused",
    "VmConf",
    "VmConfError",
    "check",
    "engine_xml",
    "lease_of",
    "parse_vm_conf",
    "parse_xml",
]

MARK = "urn:ovirt-he-ha:engine:1"  # namespace of our element in the domain's metadata: "this definition was made by us"
OVIRT_VM = "http://ovirt.org/vm/1.0"
CACHES = ("none", "directsync")  # the page cache of one host must not hide a write from the next owner
LONGEST = 300  # characters that are shown of what was found: it stands in the status and in the journal
DEFAULTS = (("on_poweroff", "destroy"), ("on_crash", "destroy"), ("on_lockfailure", "poweroff"))


class DefinitionRefused(ValueError):
    """``code`` is short and stable: ``no-lease``, ``foreign-lease``, ``qcow2``, ...; ``element`` where in the
    definition."""

    msg = "The engine VM's definition is refused ({code}): {element}: expected {expected}, found {found}"

    def __init__(self, code: str, element: str, found: str, expected: str) -> None:
        super().__init__(code, element, found, expected)
        self.code = code
        self.element = element
        self.found = " ".join(found.split())[:LONGEST]
        self.expected = expected

    def __str__(self) -> str:
        return self.msg.format(code=self.code, element=self.element, expected=self.expected, found=self.found)


def parse_xml(xml: str) -> Element:
    """The root of a domain's XML: no entities, no DTD, no network, at most 1 MiB. Raises DefinitionRefused."""
    try:
        root = document(xml.encode("utf-8", "replace"))
    except XmlProblem as problem:
        raise DefinitionRefused("xml", "the document", problem.found, problem.expected) from problem
    if root.tag != "domain":
        raise DefinitionRefused("xml", "the root element", str(root.tag)[:80], "domain")
    return root


def lease_of(root: Element) -> List[LeaseId]:
    """Every lease of a parsed definition. Raises DefinitionRefused for an offset that is no number."""
    return [_lease(node) for node in root.findall("devices/lease")]


# --- making -------------------------------------------------------------------------------------------------------


def engine_xml(conf: VmConf, lease: LeaseId, layout: Optional[Layout] = None, custom: Optional[Custom] = None) -> str:
    """The XML that is given to libvirt: ``conf.xml`` with the places of this host's storage and what its administrator
    adds. Without ``layout`` the places follow from the lease's. Raises DefinitionRefused, CustomRefused."""
    if not conf.xml:
        raise DefinitionRefused(
            "no-xml", "xmlBase64", "nothing", "the VM's libvirt XML (engine 4.2 or later writes it)"
        )
    if conf.launch_paused:
        raise DefinitionRefused("start-paused", "launchPaused", "true", "false: a paused VM holds no lease")
    root = parse_xml(conf.xml)
    if custom is not None:
        extend(root, custom)
    resolve(root, lease, layout or Layout.of(lease))
    for name, value in DEFAULTS:
        if root.find(name) is None:
            etree.SubElement(root, name).text = value
    _mark(root)
    return str(etree.tostring(root, encoding="unicode"))


def _mark(root: Element) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    if metadata.find(f"{{{MARK}}}engine") is None:
        metadata.append(etree.Element(f"{{{MARK}}}engine", nsmap={"ha": MARK}))


# --- checking -----------------------------------------------------------------------------------------------------


def check(
    xml: str,
    lease: LeaseId,
    vmid: str,
    layout: Optional[Layout] = None,
    reserved: Sequence[str] = (),
    allowed: FrozenSet[str] = frozenset(),
) -> None:
    """Raises DefinitionRefused for the first thing that makes a start unsafe. Without ``layout`` the disks' places
    follow from the lease's. ``reserved``: the domain's volumes that are no disks of a VM, the hosted engine's own.
    ``allowed``: the elements that may name places of this host (see ``host_places``). What only libvirt knows
    (autostart, a managed save) is checked at the start itself."""
    root = parse_xml(xml)
    uuid = (root.findtext("uuid") or "").strip().lower()
    _require(uuid == vmid.lower(), "uuid", "domain/uuid", uuid or "nothing", vmid)
    _check_lease(root, lease)
    layout = layout or Layout.of(lease)
    _check_disks(root, layout, reserved)
    _check_policies(root)
    paused = root.findtext(f"metadata/{{{OVIRT_VM}}}vm/{{{OVIRT_VM}}}launchPaused") or "false"
    _require(paused.strip() != "true", "start-paused", "launchPaused", "true", "false: a paused VM holds no lease")
    for node in root.iter(f"{{{QEMU}}}commandline"):
        # It could add a disk that nothing here has looked at.
        _require(False, "qemu-commandline", "qemu:commandline", f"{len(node)} entries", "none")
    found = unsuitable(root, layout, allowed)
    if found is not None:
        raise DefinitionRefused(*found)


def _require(condition: bool, code: str, element: str, found: str, expected: str) -> None:
    if not condition:
        raise DefinitionRefused(code, element, found, expected)


def _check_lease(root: Element, lease: LeaseId) -> None:
    expected = f"lockspace {lease.lockspace}, key {lease.key}, path {lease.path}, offset {lease.offset}"
    nodes = root.findall("devices/lease")
    if not nodes:
        raise DefinitionRefused("no-lease", "devices/lease", "none", expected)
    for node in nodes:
        found = _lease(node)
        for name in ("lockspace", "key", "path", "offset"):
            value, wanted = str(getattr(found, name)), str(getattr(lease, name))
            _require(value == wanted, "foreign-lease", f"devices/lease {name}", value or "nothing", wanted)


def _lease(node: Element) -> LeaseId:
    target = node.find("target")
    offset = target.get("offset", "0") if target is not None else "0"
    if not (offset.isascii() and offset.isdigit() and len(offset) < 20):
        raise DefinitionRefused("foreign-lease", "devices/lease offset", offset[:80], "a number of bytes")
    path = target.get("path", "") if target is not None else ""
    return LeaseId(_text(node, "lockspace"), _text(node, "key"), path, int(offset))


def _text(node: Element, name: str) -> str:
    return str(node.findtext(name) or "").strip()


def _check_disks(root: Element, layout: Layout, reserved: Sequence[str]) -> None:
    sources = [_check_disk(disk, layout, reserved) for disk in disks(root)]
    expected = f"the volume that the lease guards: {layout.guarded}"
    _require(layout.guarded in sources, "disk-location", "devices/disk", ", ".join(sources) or "no disk", expected)
    for drive in optical(root):
        _check_medium(drive, layout)


def _check_medium(drive: Element, layout: Layout) -> None:
    """Of an optical drive. Only read, and not the engine's disk, so it may be this host's alone; but libvirt opens it,
    and may give it another owner, like every image."""
    name = f"devices/disk {_target(drive)}"
    _, path = source_of(drive)
    _check_format(drive, name)
    ordinary = bool(path) and (f"/{layout.domain}/" not in path or layout.holds(path))
    expected = "nothing, a file or device of this host, or a volume of the domain"
    _require(ordinary, "disk-location", f"{name}/source", path or f"type {drive.get('type')}", expected)
    _check_labels(drive, name)


def _check_disk(disk: Element, layout: Layout, reserved: Sequence[str]) -> str:
    """Returns the path of its image."""
    name = f"devices/disk {_target(disk)}"
    _, path = source_of(disk)
    _check_image(disk, name)
    found = path or f"type {disk.get('type')}"
    inside = layout.holds(path) and disk.get("type") == layout.kind
    _require(inside, "disk-location", f"{name}/source", found, f"a {layout.kind} below {layout.directory}")
    free = posixpath.basename(path) not in reserved
    _require(free, "disk-location", f"{name}/source", found, "a volume that the hosted engine does not use itself")
    for unwanted in ("readonly", "transient", "shareable"):
        _require(
            disk.find(unwanted) is None or path != layout.guarded,
            f"disk-{unwanted}",
            name,
            unwanted,
            f"no {unwanted}",
        )
    _check_labels(disk, name)
    return path


def _check_labels(disk: Element, name: str) -> None:
    for label in disk.findall("source/seclabel"):
        _require(
            label.get("relabel") == "no",
            "relabel",
            f"{name}/source/seclabel",
            f"relabel={label.get('relabel')}",
            "relabel=no",
        )
    has_label = any(label.get("model") == "dac" for label in disk.findall("source/seclabel"))
    _require(
        has_label,
        "relabel",
        f"{name}/source",
        "no seclabel",
        "<seclabel model='dac' relabel='no'/>: the image is shared",
    )


def _check_image(disk: Element, name: str) -> None:
    _check_format(disk, name)
    driver: Optional[Element] = disk.find("driver")
    cache = driver.get("cache", "default") if driver is not None else "default"
    _require(cache in CACHES, "disk-cache", f"{name}/driver cache", cache, " or ".join(CACHES))
    # Raw SCSI commands reach the whole LUN below a logical volume, and with it the leases and all other disks.
    device = disk.get("device", "disk")
    _require(device != "lun", "disk-passthrough", f"{name} device", device, "disk")
    for attribute in ("rawio", "sgio"):
        found = disk.get(attribute, "no")
        _require(found in ("no", "filtered"), "disk-passthrough", f"{name} {attribute}", found, "no raw SCSI commands")
    locked = disk.find("encryption") is not None or disk.find("source/encryption") is not None
    _require(not locked, "disk-format", f"{name}/encryption", "an encrypted image", "raw: its key is this host's alone")
    backing = disk.find("backingStore")
    _require(backing is None or len(backing) == 0, "disk-backing", f"{name}/backingStore", "a chain", "none")


def _check_format(disk: Element, name: str) -> None:
    driver: Optional[Element] = disk.find("driver")
    form = driver.get("type", "nothing") if driver is not None else "nothing"
    code = "qcow2" if form == "qcow2" else "disk-format"
    _require(
        form == "raw",
        code,
        f"{name}/driver type",
        form,
        "raw: opening another format can write to it before the lease is held",
    )


def _target(disk: Element) -> str:
    target = disk.find("target")
    return str(target.get("dev", "?"))[:20] if target is not None else "?"


def _check_policies(root: Element) -> None:
    """``on_crash``: a preserved or dumped crash is a dead VM that holds its lease; libvirt's own restart would hide
    the crash from the budgets. ``on_lockfailure``: an absent one lets sanlock kill the process, which is as safe, but
    then nothing says why it died."""
    allowed = {
        "on_crash": ("destroy",),
        "on_poweroff": ("destroy",),
        "on_reboot": ("destroy", "restart", ""),
        "on_lockfailure": ("poweroff",),
    }
    for name, values in allowed.items():
        found = _text(root, name)
        _require(found in values, name.replace("_", "-"), name, found or "nothing", " or ".join(v for v in values if v))
