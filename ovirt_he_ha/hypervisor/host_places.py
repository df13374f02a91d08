"""What a definition names of the host it is started on, beside its disks and its lease.

The VM has to start on every host of the cluster, and nothing that the guest can write to may lie on the shared storage
without being one of the disks that were looked at. So every place is refused that is not known to be there on all
hosts: also one of an element that libvirt will learn next year. An administrator may name the element in agent.conf;
the storage domain, and the hosts' disks, stay closed to it.
"""

import re
from typing import FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from ovirt_he_ha.hypervisor.custom_definition import elements
from ovirt_he_ha.hypervisor.placeholders import MADE_BY_VDSM, Layout
from ovirt_he_ha.hypervisor.xml_document import Element, local_name

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
# What carries a place whatever it begins with: QEMU runs in "/", so "dev/sda" is one as well.
_ATTRIBUTES = frozenset(["path", "file", "dir", "socket", "template", "rendernode", "logFile"])
_TEXTS = frozenset(
    [
        *("loader", "nvram", "kernel", "initrd", "dtb", "shim", "table", "emulator", "backend", "path", "database"),
        *("block", "char", "init", "bootloader"),
    ]
)
# Of people, of firmware tables, of control groups, of an encrypted guest's owner: no places, whatever they look like.
_UNREAD = frozenset(["metadata", "title", "description", "name", "launchSecurity", "devices/lease"])
_FREE_TEXT = frozenset(["sysinfo", "resource", "os/cmdline"])
_FREE_TAGS = frozenset(["serial", "vendor", "product"])
_NO_PLACES = frozenset(["passwd"])

_PACKAGES = "/usr/"
_NVRAM = "/var/lib/libvirt/qemu/nvram/"
_RANDOM = ("/dev/urandom", "/dev/random", "/dev/hwrng")
_SOCKETS = ("/var/lib/libvirt/qemu/", "/run/libvirt/qemu/", "/var/run/libvirt/qemu/", *MADE_BY_VDSM)
_TERMINAL = re.compile(r"/dev/pts/[0-9]+")
# Never, also not for an administrator: what lies there is written by other hosts, or is a disk that nobody looked at.
_DISKS = (
    *("/rhev/", "/run/vdsm/storage/", "/var/run/vdsm/storage/", "/proc/", "/dev/block/", "/dev/fd/"),
    *("/dev/sd", "/dev/vd", "/dev/dm-", "/dev/mapper/", "/dev/disk/", "/dev/nvme", "/dev/loop"),
)
_HOST_ONLY = frozenset(["devices/hostdev", "devices/filesystem", "devices/shmem"])
_HOST_INTERFACES = ("hostdev", "vdpa", "vhostuser")
DEEPEST = 8  # elements below one of devices
_SCSI = ("scsi", "scsi_host", "storage")


class Unsuitable(NamedTuple):
    """``code``: ``host-place``, ``host-device``, ``shared-place`` or ``foreign-element``."""

    code: str
    element: str
    found: str
    expected: str


def unsuitable(root: Element, layout: Layout, allowed: FrozenSet[str]) -> Optional[Unsuitable]:
    """The first thing because of which the definition may not start on another host, or would let the guest write past
    its lease. ``allowed``: the elements (``devices/serial``) that this host's administrator answers for."""
    for path, node in elements(root):
        found = _judged(path, node, layout, allowed)
        if found is not None:
            return found
    return None


def _judged(path: str, node: Element, layout: Layout, allowed: FrozenSet[str]) -> Optional[Unsuitable]:
    if str(node.tag).startswith("{"):
        return None if _harmless(node) else Unsuitable("foreign-element", path, "this element", "none of its kind")
    kind = node.get("type", "")
    if path == "devices/hostdev" and kind in _SCSI:
        expected = "no SCSI device: the guest would write to the storage past its lease"
        return Unsuitable("host-device", path, f"type {kind}", expected)
    if path not in allowed and _is_of_one_host(path, node):
        return Unsuitable("host-device", path, f"type {kind}" if kind else "this element", _unless(path, "none"))
    for where, place in _places(path, node):
        if _is_shared(_plain(place), layout):
            expected = "nothing on the shared storage or a disk of the host, but as a disk"
            return Unsuitable("shared-place", where, place, expected)
        if path not in allowed and not _suits(path, node, where, _plain(place)):
            return Unsuitable("host-place", where, place, _unless(path, "no file, socket or device of one host"))
    return None


def _is_of_one_host(path: str, node: Element) -> bool:
    if path == "devices/interface":
        return node.get("type", "") in _HOST_INTERFACES
    if path == "devices/smartcard":
        return str(node.get("mode", "")).startswith("host")
    return path in _HOST_ONLY


def _unless(path: str, what: str) -> str:
    return f"{what}, unless allowed-elements in section [definition] of agent.conf has {path}"


def _harmless(node: Element) -> bool:
    """Capabilities of QEMU that an engine of version 4.4 declares. What is taken from QEMU, or told to it, is not."""
    return bool(node.tag == f"{{{QEMU}}}capabilities" and all(each.tag == f"{{{QEMU}}}add" for each in node))


def _places(path: str, top: Element) -> Iterator[Tuple[str, str]]:
    """Where, and the place."""
    if path in _UNREAD:
        return
    for node in top.iter():
        found = [*_text_places(path, node), *_attribute_places(path, top, node)]
        if found:  # whoever made this document may have made it deep: its way is looked for only now
            where = _where(path, top, node)
            yield from ((f"{where} {name}".rstrip(), place) for name, place in found)


def _text_places(path: str, node: Element) -> Iterator[Tuple[str, str]]:
    text = (node.text or "").strip()
    if not text:
        return
    name = local_name(node)
    if name in _TEXTS or (text.startswith("/") and path not in _FREE_TEXT and name not in _FREE_TAGS):
        yield "", text


def _attribute_places(path: str, top: Element, node: Element) -> Iterator[Tuple[str, str]]:
    is_source = path == "devices/disk" and node.tag == "source" and node.getparent() is top
    for name, value in node.attrib.items():
        if is_source and name in ("file", "dev"):
            continue  # the image itself, which the check of the disks looks at
        is_place = name in _ATTRIBUTES or value.startswith(("/", "unix:")) or (name == "dev" and "/" in value)
        if value and is_place and name not in _NO_PLACES:
            yield name, value


def _where(path: str, top: Element, node: Element) -> str:
    """libvirt reads nothing that is deeper; the middle is left out then."""
    names: List[str] = []
    while node is not top and len(names) < DEEPEST:
        names.append(local_name(node))
        node = node.getparent()
    return "/".join([path, *([] if node is top else ["..."]), *reversed(names)])


def _plain(place: str) -> str:
    """As QEMU finds it, from "/"; a way up stays, because a link may lead anywhere."""
    return "/" + "/".join(part for part in place.split("/") if part not in ("", "."))


def _is_shared(place: str, layout: Layout) -> bool:
    """A way up is taken for one: nobody writes it without a reason."""
    if ".." in place.split("/") or place.startswith(_DISKS):
        return True
    mapped = layout.domain.replace("-", "--")  # as the device mapper writes a group's name
    named = any(f"/{name}" in place for name in (layout.domain, mapped) if name)
    return named or place.startswith(layout.directory + "/")


def _suits(path: str, top: Element, where: str, place: str) -> bool:
    """On every host alike, or made by libvirt on each."""
    if path == "os/nvram":
        base = _PACKAGES if where.endswith(" template") else _NVRAM
        return place.startswith(base)
    if path in ("os/loader", "devices/emulator"):
        return place.startswith(_PACKAGES)
    if path == "devices/rng":
        return place in _RANDOM
    if path == "devices/graphics":
        return where.endswith(" socket") and place.startswith(_SOCKETS)
    kind = top.get("type", "")
    if kind == "unix":
        return where == f"{path}/source path" and place.startswith(_SOCKETS)
    return kind == "pty" and _TERMINAL.fullmatch(place) is not None
