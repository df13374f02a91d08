"""The engine VM's libvirt definition: made from ``vm.conf`` for this host's storage, and checked before every start.

Making fills in what the management application leaves to the host (places of lease and disks) and what makes a start
safe by default. Checking trusts nothing, also not what was just made: a definition without the right lease can run
twice, a copy-on-write image can be damaged by the mere opening of it, a preserved crash is a VM that neither runs nor
leaves.
"""

import posixpath
from typing import Any, List, Optional

from lxml import etree

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.vm_conf import VmConf, VmConfError, parse_vm_conf

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

Element = Any  # lxml's element: its type differs between the versions of the stubs

MAX_XML = 1 << 20  # bytes; a real one has 10-20 KB
MARK = "urn:ovirt-he-ha:engine:1"  # namespace of our element in the domain's metadata: "this definition was made by us"
OVIRT_VM = "http://ovirt.org/vm/1.0"
LEASE_SUFFIX = ".lease"
VDSM_NETWORK = "vdsm-"  # libvirt networks that exist only where vdsm runs
CACHES = ("none", "directsync")  # the page cache of one host must not hide a write from the next owner
DEFAULTS = (("on_poweroff", "destroy"), ("on_crash", "destroy"), ("on_lockfailure", "poweroff"))
PLACEHOLDERS = ("LEASE-PATH:", "LEASE-OFFSET:", "OS-NAME:", "OS-VERSION:", "HOST-SERIAL:")


class DefinitionRefused(ValueError):
    """``code`` is short and stable: ``no-lease``, ``foreign-lease``, ``qcow2``, ...; ``element`` where in the
    definition."""

    msg = "The engine VM's definition is refused ({code}): {element}: expected {expected}, found {found}"

    def __init__(self, code: str, element: str, found: str, expected: str) -> None:
        super().__init__(code, element, found, expected)
        self.code = code
        self.element = element
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return self.msg.format(code=self.code, element=self.element, expected=self.expected, found=self.found)


def parse_xml(xml: str) -> Element:
    """The root of a domain's XML: no entities, no DTD, no network, at most 1 MiB. Raises DefinitionRefused."""
    data = xml.encode("utf-8", "replace")
    if len(data) > MAX_XML:
        raise DefinitionRefused("xml", "the document", f"{len(data)} bytes", f"at most {MAX_XML}")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as e:
        raise DefinitionRefused("xml", "the document", str(e), "well-formed XML") from e
    docinfo: Any = root.getroottree().docinfo
    if docinfo.doctype:
        raise DefinitionRefused("xml", "the document", "a DOCTYPE", "none")
    if root.tag != "domain":
        raise DefinitionRefused("xml", "the root element", str(root.tag)[:80], "domain")
    return root


def lease_of(root: Element) -> List[LeaseId]:
    """Every lease of a parsed definition. Raises DefinitionRefused for an offset that is no number."""
    return [_lease(node) for node in root.findall("devices/lease")]


# --- making -------------------------------------------------------------------------------------------------------


def engine_xml(conf: VmConf, lease: LeaseId) -> str:
    """The XML that is given to libvirt: ``conf.xml`` with the places of this host's storage.

    The volumes of the domain lie beside the leased one: ``<images>/<image>/<volume>``. Entries of the host's system
    information are left out, because they would differ between the two ends of a migration. Raises DefinitionRefused.
    """
    if not conf.xml:
        raise DefinitionRefused(
            "no-xml", "xmlBase64", "nothing", "the VM's libvirt XML (engine 4.2 or later writes it)"
        )
    if conf.launch_paused:
        raise DefinitionRefused("start-paused", "launchPaused", "true", "false: a paused VM holds no lease")
    root = parse_xml(conf.xml)
    _fill_lease(root, lease)
    _map_disks(root, lease)
    _drop_host_entries(root)
    _replace_networks(root)
    for name, value in DEFAULTS:
        if root.find(name) is None:
            etree.SubElement(root, name).text = value
    _mark(root)
    return str(etree.tostring(root, encoding="unicode"))


def _fill_lease(root: Element, lease: LeaseId) -> None:
    for node in root.findall("devices/lease"):
        target = node.find("target")
        if target is None:
            continue
        if target.get("path", "").startswith("LEASE-PATH:"):
            target.set("path", lease.path)
        if target.get("offset", "").startswith("LEASE-OFFSET:"):
            target.set("offset", str(lease.offset))


def _map_disks(root: Element, lease: LeaseId) -> None:
    images = _images_directory(lease)
    for disk in _disks(root):
        source = disk.find("source")
        path = source.get("file") if source is not None else None
        if source is None or not path:
            continue
        if images and path.startswith("/rhev/data-center/"):
            image, volume = path.split("/")[-2:]
            source.set("file", posixpath.join(images, image, volume))
        if not any(label.get("model") == "dac" for label in source.findall("seclabel")):
            # libvirt must not change the owner of a shared image: the other hosts use it.
            etree.SubElement(source, "seclabel", model="dac", relabel="no")
        driver = disk.find("driver")
        if driver is not None and not driver.get("cache"):
            driver.set("cache", "none")


def _images_directory(lease: LeaseId) -> str:
    """``<domain>/images`` of a file domain, else empty: on a block domain leases share one volume."""
    if not lease.path.endswith(LEASE_SUFFIX):
        return ""
    return posixpath.dirname(posixpath.dirname(lease.path))


def _drop_host_entries(root: Element) -> None:
    for entry in root.findall("sysinfo/system/entry"):
        if (entry.text or "").strip().startswith(PLACEHOLDERS):
            entry.getparent().remove(entry)


def _replace_networks(root: Element) -> None:
    """A display that listens on a network of vdsm's listens on loopback here: without vdsm that network does not
    exist, and the start would fail for a screen."""
    for listen in root.findall("devices/graphics/listen"):
        if listen.get("type") == "network" and listen.get("network", "").startswith(VDSM_NETWORK):
            listen.attrib.clear()
            listen.set("type", "address")
            listen.set("address", "127.0.0.1")


def _mark(root: Element) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    if metadata.find(f"{{{MARK}}}engine") is None:
        metadata.append(etree.Element(f"{{{MARK}}}engine", nsmap={"ha": MARK}))


def _disks(root: Element) -> List[Element]:
    """Disks that can be written: not optical or floppy drives."""
    return [disk for disk in root.findall("devices/disk") if disk.get("device", "disk") in ("disk", "lun")]


# --- checking -----------------------------------------------------------------------------------------------------


def check(xml: str, lease: LeaseId, vmid: str) -> None:
    """Raises DefinitionRefused for the first thing that makes a start unsafe. What only libvirt knows (autostart, a
    managed save) is checked at the start itself."""
    root = parse_xml(xml)
    uuid = (root.findtext("uuid") or "").strip().lower()
    _require(uuid == vmid.lower(), "uuid", "domain/uuid", uuid or "nothing", vmid)
    _check_lease(root, lease)
    _check_disks(root, lease)
    _check_policies(root)
    paused = root.findtext(f"metadata/{{{OVIRT_VM}}}vm/{{{OVIRT_VM}}}launchPaused") or "false"
    _require(paused.strip() != "true", "start-paused", "launchPaused", "true", "false: a paused VM holds no lease")


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


def _check_disks(root: Element, lease: LeaseId) -> None:
    disks = _disks(root)
    guarded = lease.path[: -len(LEASE_SUFFIX)] if lease.path.endswith(LEASE_SUFFIX) else ""
    sources = [_check_disk(disk, guarded) for disk in disks]
    expected = f"the volume that the lease guards: {guarded}"
    _require(
        not guarded or guarded in sources, "disk-location", "devices/disk", ", ".join(sources) or "no disk", expected
    )


def _check_disk(disk: Element, guarded: str) -> str:
    """Returns the path of its image."""
    name = f"devices/disk {_target(disk)}"
    path = _source_path(disk)
    _check_image(disk, name)
    images = posixpath.dirname(posixpath.dirname(guarded)) if guarded else ""
    inside = not images or (posixpath.normpath(path) == path and path.startswith(images + "/"))
    _require(inside, "disk-location", f"{name}/source", path or f"type {disk.get('type')}", f"a file below {images}")
    for unwanted in ("readonly", "transient", "shareable"):
        _require(disk.find(unwanted) is None or path != guarded, f"disk-{unwanted}", name, unwanted, f"no {unwanted}")
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
    return path


def _check_image(disk: Element, name: str) -> None:
    driver: Optional[Element] = disk.find("driver")
    form = driver.get("type", "nothing") if driver is not None else "nothing"
    cache = driver.get("cache", "default") if driver is not None else "default"
    code = "qcow2" if form == "qcow2" else "disk-format"
    _require(
        form == "raw",
        code,
        f"{name}/driver type",
        form,
        "raw: opening another format can write to it before the lease is held",
    )
    _require(cache in CACHES, "disk-cache", f"{name}/driver cache", cache, " or ".join(CACHES))
    backing = disk.find("backingStore")
    _require(backing is None or len(backing) == 0, "disk-backing", f"{name}/backingStore", "a chain", "none")


def _source_path(disk: Element) -> str:
    source = disk.find("source")
    if source is None:
        return ""
    attribute = {"file": "file", "block": "dev"}.get(disk.get("type", ""))
    return str(source.get(attribute, "")) if attribute is not None else ""


def _target(disk: Element) -> str:
    target = disk.find("target")
    return str(target.get("dev", "?")) if target is not None else "?"


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
