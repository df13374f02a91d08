"""What the management application leaves to the host in the engine VM's libvirt XML, filled in for this host.

The application writes ``LEASE-PATH:<volume>:<domain>`` instead of a place, disks under a directory that only its own
host daemon makes, and entries and networks of that daemon. Where a volume really is depends on how the storage domain
is reached: see Layout.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Any, Optional, Tuple

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.xml_document import Element

FILE, BLOCK = "file", "block"
OPTICAL = "cdrom"
LEASE_SUFFIX = ".lease"
LEASES = "leases"  # the logical volume with every lease of a block domain
RESERVED = 100  # lease areas at its beginning that are not for volumes
VDSM_STORAGE = "/run/vdsm/storage"
VDSM = "vdsm-"  # networks and filters that exist only where vdsm runs
# Of a domain itself, beside its volumes: what a guest would write there is every host's lease or id.
SERVICE_FILES = (LEASE_SUFFIX, ".meta")
SERVICE_VOLUMES = ("ids", LEASES, "metadata", "inbox", "outbox", "master", "xleases")
HOST_ENTRIES = ("OS-NAME:", "OS-VERSION:", "HOST-SERIAL:")
# The application's places: below a pool's or a mount's directory, or where its host daemon prepares an image.
_FOREIGN = re.compile(
    r"(?:/rhev/data-center/(?:[^/]+/){1,4}?|(?:/var)?/run/vdsm/storage/)(?P<domain>[0-9a-fA-F-]{36})/(?:images/)?"
    r"(?P<image>[0-9a-fA-F-]{36})/(?P<volume>[0-9a-fA-F-]{36})"
)
MADE_BY_VDSM = (
    "/var/lib/libvirt/qemu/channels/",
    "/run/ovirt-vmconsole-console/",
    "/var/run/ovirt-vmconsole-console/",
)
_SLOT = re.compile(r"(?:^|,)MD_([0-9]{1,6})(?:,|$)")


@dataclass(frozen=True)
class Layout:
    """Where the volumes of one storage domain are on this host. ``kind``: file or block; ``nested``: a volume lies in
    the directory of its image; ``guarded``: the volume that the VM's lease guards; ``vdsm``: vdsm runs here, and with
    it its networks and directories."""

    kind: str
    directory: str
    nested: bool
    guarded: str
    domain: str
    vdsm: bool = False

    @classmethod
    def of(cls, lease: LeaseId) -> "Layout":
        """Without vdsm, from the lease's place: beside its volume, or in the volume of all leases of a block domain
        (``/dev/<domain>/leases``)."""
        if lease.path.endswith(LEASE_SUFFIX):
            guarded = lease.path[: -len(LEASE_SUFFIX)]
            images = posixpath.dirname(posixpath.dirname(guarded))
            return cls(FILE, images, True, guarded, lease.lockspace)
        group = posixpath.dirname(lease.path)
        return cls(BLOCK, group, False, posixpath.join(group, lease.key), lease.lockspace)

    @classmethod
    def of_vdsm(cls, lease: LeaseId, image: str) -> "Layout":
        """``image``: of the VM's disk. vdsm has prepared it; files and block devices look alike there."""
        kind = FILE if lease.path.endswith(LEASE_SUFFIX) else BLOCK
        directory = posixpath.join(VDSM_STORAGE, lease.lockspace)
        return cls(kind, directory, True, posixpath.join(directory, image, lease.key), lease.lockspace, True)

    def volume(self, image: str, volume: str) -> str:
        """The path of a volume of the domain."""
        return posixpath.join(self.directory, image, volume) if self.nested else posixpath.join(self.directory, volume)

    def holds(self, path: str) -> bool:
        """Whether it is a path of a volume of the domain, written without detours; not of a lease."""
        name = posixpath.basename(path)
        if name.endswith(SERVICE_FILES) or (not self.nested and name in SERVICE_VOLUMES):
            return False
        if posixpath.normpath(path) != path or not path.startswith(self.directory + "/"):
            return False
        return path[len(self.directory) + 1 :].count("/") == (1 if self.nested else 0)


def block_lease(domain: str, volume: str, tags: str, alignment: int = 1 << 20) -> Optional[LeaseId]:
    """The lease of a block domain's volume. ``tags``: of its logical volume, separated by commas; MD_<n> is the number
    of its metadata. None without that tag."""
    found = _SLOT.search(tags)
    if found is None:
        return None
    return LeaseId(domain, volume, f"/dev/{domain}/{LEASES}", (RESERVED + int(found.group(1))) * alignment)


def resolve(root: Element, lease: LeaseId, layout: Layout) -> None:
    """Fill in all that can be filled in. What is left, because it names another volume or domain, is refused by the
    check before the start."""
    _fill_lease(root, lease)
    _map_disks(root, layout)
    _drop_host_entries(root)
    if not layout.vdsm:
        _replace_networks(root)
        _drop_filters(root)
        _drop_places(root)


def _fill_lease(root: Element, lease: LeaseId) -> None:
    ours = f"{lease.key}:{lease.lockspace}"
    for target in root.findall("devices/lease/target"):
        if target.get("path", "") == f"LEASE-PATH:{ours}":
            target.set("path", lease.path)
        if target.get("offset", "") == f"LEASE-OFFSET:{ours}":
            target.set("offset", str(lease.offset))


def disks(root: Element) -> Any:
    """Disks that can be written: not optical drives, nor empty floppy drives."""
    found = [disk for disk in root.findall("devices/disk") if disk.get("device") != OPTICAL]
    return [disk for disk in found if disk.get("device") != "floppy" or _has_medium(disk)]


def optical(root: Element) -> Any:
    """Optical drives with something in them."""
    return [disk for disk in root.findall("devices/disk") if disk.get("device") == OPTICAL and _has_medium(disk)]


def _has_medium(disk: Element) -> bool:
    source = disk.find("source")
    return source is not None and any(value for name, value in source.attrib.items() if name != "startupPolicy")


def source_of(disk: Element) -> Tuple[Optional[Element], str]:
    """The source, and its path; empty when it is neither a file nor a device."""
    source = disk.find("source")
    attribute = {FILE: "file", BLOCK: "dev"}.get(disk.get("type", ""))
    if source is None or attribute is None:
        return source, ""
    return source, str(source.get(attribute, ""))


def _map_disks(root: Element, layout: Layout) -> None:
    for disk in (*disks(root), *optical(root)):
        source, path = source_of(disk)
        if source is None or not path:
            continue
        found = _FOREIGN.fullmatch(path)
        if found is not None and found["domain"] == layout.domain:
            _set_source(disk, source, layout.kind, layout.volume(found["image"], found["volume"]))
        if not any(label.get("model") == "dac" for label in source.findall("seclabel")):
            # libvirt must not change the owner of a shared image: the other hosts use it.
            label = source.makeelement("seclabel", {"model": "dac", "relabel": "no"})
            source.append(label)
        driver = disk.find("driver")
        if driver is not None and not driver.get("cache") and disk.get("device") != OPTICAL:
            driver.set("cache", "none")


def _set_source(disk: Element, source: Element, kind: str, path: str) -> None:
    for attribute in ("file", "dev"):
        source.attrib.pop(attribute, None)
    disk.set("type", kind)
    source.set("file" if kind == FILE else "dev", path)


def _drop_host_entries(root: Element) -> None:
    """They would differ between the two ends of a migration."""
    for entry in root.findall("sysinfo/system/entry"):
        if (entry.text or "").strip().startswith(HOST_ENTRIES):
            entry.getparent().remove(entry)


def _replace_networks(root: Element) -> None:
    """A display that listens on a network of vdsm's listens on loopback: without vdsm that network does not exist, and
    the start would fail for a screen. Its password stays as it is, expired: nobody gets in before one is set."""
    for listen in root.findall("devices/graphics/listen"):
        if listen.get("type") == "network" and listen.get("network", "").startswith(VDSM):
            listen.attrib.clear()
            listen.set("type", "address")
            listen.set("address", "127.0.0.1")


def _drop_filters(root: Element) -> None:
    """A network filter that only vdsm defines; libvirt would refuse the start."""
    for reference in root.findall("devices/interface/filterref"):
        if reference.get("filter", "").startswith(VDSM):
            reference.getparent().remove(reference)


def _drop_places(root: Element) -> None:
    """Sockets in directories that only vdsm's packages make: libvirt chooses a place of its own."""
    for kind in ("channel", "console", "serial"):
        for device in root.findall(f"devices/{kind}"):
            source = device.find("source")
            if source is None or not source.get("path", "").startswith(MADE_BY_VDSM):
                continue
            if kind == "channel":
                del source.attrib["path"]
            else:
                device.set("type", "pty")
                device.remove(source)
