"""Making and checking the volumes of a domain in a directory.

Layout, the one that oVirt uses for file domains: ``<storage>/<sdUUID>/dom_md/{metadata,ids,leases}`` and
``<storage>/<sdUUID>/images/<image>/<volume>`` with ``<volume>.lease`` beside it.
"""

import errno
import os
import stat
from dataclasses import dataclass
from typing import Callable, NoReturn, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.text import atomic_write
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook, look

MIB = 1 << 20
GIB = 1 << 30

SCANNED = (MAX_HOST_ID + 1) * SLOT_SIZE  # 8,196,096 bytes: what readers parse of the metadata volume
LEASE_AREA = 8 * MIB  # what is allocated for one sanlock lockspace or resource
OWNER = (36, 36)  # vdsm:kvm
MODE = 0o660

_WHAT_TO_DO = {
    "missing": "check that the storage is mounted and the UUIDs are right",
    "no-access": "give it to user and group 36:36 (vdsm:kvm)",
    "read-only": "look for file system or path errors in the kernel log, then mount it read-write",
    "not-a-volume": "check the UUIDs",
    "no-direct-io": "use a file system that knows O_DIRECT: sanlock needs it too",
}


def lease_area(sector_size: int) -> int:
    """Bytes that sanlock needs for one lockspace or resource: 2,000 sectors, rounded up to 1 or 8 MiB."""
    return MIB * (sector_size // 512)


@dataclass(frozen=True)
class VolumeName:
    image: str
    volume: str


@dataclass(frozen=True)
class DomainVolumes:
    """The volumes of a hosted engine."""

    metadata: VolumeName
    lockspace: VolumeName
    configuration: VolumeName
    disk: VolumeName

    @classmethod
    def of(cls, conf: HostedEngineConf) -> "DomainVolumes":
        return cls(
            VolumeName(conf.metadata_image_uuid, conf.metadata_volume_uuid),
            VolumeName(conf.lockspace_image_uuid, conf.lockspace_volume_uuid),
            VolumeName(conf.conf_image_uuid, conf.conf_volume_uuid),
            VolumeName(conf.vm_disk_id, conf.vm_disk_vol_id),
        )


@dataclass(frozen=True)
class VolumeSizes:
    """In bytes. ``disk`` None: the engine's disk is not made here, only its directory and its lease."""

    metadata: int = 128 * MIB
    lockspace: int = GIB
    configuration: int = GIB
    disk: Optional[int] = None
    lease: int = LEASE_AREA


def create_domain(
    storage: str,
    sd_uuid: str,
    volumes: DomainVolumes,
    sizes: Optional[VolumeSizes] = None,
    sector_size: int = 512,
    owner: Optional[Tuple[int, int]] = OWNER,
    force: bool = False,
) -> None:
    """Make the domain's directories and volumes. sanlock's structures are written afterwards (``lease.formatting``).

    Everything is checked before anything is made: DomainProblem ``in-use`` names a volume that already holds something
    (not with ``force``), and then nothing was changed. ``owner`` None: whoever runs this. Raises OSError too.
    """
    if sector_size not in (512, 4096):
        raise DomainProblem("sector-size", storage, "512 or 4096", f"{sector_size} is neither")
    sizes = sizes or VolumeSizes()
    if sizes.metadata < SCANNED:
        raise DomainProblem("too-small", "metadata", f"at least {SCANNED} bytes", f"{sizes.metadata} were asked for")
    root = os.path.join(storage, sd_uuid)
    plan = _plan(root, volumes, sizes)
    for path, _size, zeroed in plan:
        if not force:
            refuse_used(path, max(zeroed, MIB))
    metadata = f"{root}/dom_md/metadata"
    if not force and os.path.exists(metadata):
        raise _in_use(metadata)
    for path, size, zeroed in plan:
        _directories(storage, os.path.dirname(path), owner)
        create_volume(path, size, owner, force, zeroed)
    lines = (
        "ALIGNMENT=1048576",
        f"BLOCK_SIZE={sector_size}",
        "CLASS=Data",
        "DESCRIPTION=hosted_storage",
        "ROLE=Regular",
        f"SDUUID={sd_uuid}",
        "TYPE=LOCALFS",
        "VERSION=5",
    )
    atomic_write(metadata, ("\n".join(lines) + "\n").encode(), 0o644)
    if owner is not None:
        os.chown(metadata, *owner)


def _plan(root: str, volumes: DomainVolumes, sizes: VolumeSizes) -> Tuple[Tuple[str, int, int], ...]:
    """Path, size, and how many bytes from its beginning are written as zeros."""

    def path(name: VolumeName) -> str:
        return f"{root}/images/{name.image}/{name.volume}"

    leases = (volumes.metadata, volumes.lockspace, volumes.configuration, volumes.disk)
    disk = ((path(volumes.disk), sizes.disk, 0),) if sizes.disk is not None else ()
    return (
        (f"{root}/dom_md/ids", sizes.lease, MIB),
        (f"{root}/dom_md/leases", sizes.lease, MIB),
        (path(volumes.metadata), sizes.metadata, SCANNED),
        (path(volumes.lockspace), sizes.lockspace, MIB),
        (path(volumes.configuration), sizes.configuration, MIB),
        *disk,
        *((f"{path(name)}.lease", sizes.lease, MIB) for name in leases),
    )


def _directories(storage: str, directory: str, owner: Optional[Tuple[int, int]]) -> None:
    """Like makedirs, and each one that is new below ``storage`` gets the owner."""
    missing = []
    while not os.path.isdir(directory) and len(directory) > len(storage):
        missing.append(directory)
        directory = os.path.dirname(directory)
    os.makedirs(storage, exist_ok=True)
    for each in reversed(missing):
        os.mkdir(each, 0o755)
        if owner is not None:
            os.chown(each, *owner)


def create_volume(
    path: str, size: int, owner: Optional[Tuple[int, int]] = OWNER, force: bool = False, zeroed: int = MIB
) -> None:
    """A raw preallocated volume whose first ``zeroed`` bytes are written as zeros: what a reused extent held before
    must not be taken for a slot. An existing one is refused if it holds something (DomainProblem ``in-use``), unless
    ``force``; it is never made smaller. Raises OSError (space!)."""
    if not force:
        refuse_used(path, max(zeroed, MIB))
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        if size > 0:
            _allocate(handle, size)
        _zero(handle, min(zeroed, size))
        os.fsync(handle)
        os.fchmod(handle, MODE)
        if owner is not None:
            os.fchown(handle, *owner)
    finally:
        os.close(handle)


def _allocate(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        if os.fstat(handle).st_size < size:  # a file system without preallocation: sparse is the best there is
            os.ftruncate(handle, size)


def _zero(handle: int, count: int) -> None:
    block = bytes(MIB)
    done = 0
    while done < count:
        done += os.pwrite(handle, block[: min(MIB, count - done)], done)


def refuse_used(path: str, examined: int) -> None:
    """Raises DomainProblem ``in-use`` if ``path`` is something else than a file of zeros (in its first ``examined``
    bytes)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _in_use(path) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _in_use(path)
        remaining = examined
        while remaining > 0:
            part = os.read(handle, min(MIB, remaining))
            if not part:
                return
            if part.count(0) != len(part):
                raise _in_use(path)
            remaining -= len(part)
    finally:
        os.close(handle)


def _in_use(path: str) -> DomainProblem:
    return DomainProblem(
        "in-use", path, "nothing, or a volume of zeros", "if it may be overwritten, remove it or use force"
    )


Looker = Callable[[str], VolumeLook]


def check_volume(path: str, min_size: int, sector_size: int, writable: bool = True, look: Looker = look) -> None:
    """That the volume can be used with direct I/O in units of ``sector_size`` by this process. Raises DomainProblem:
    ``missing``, ``not-a-volume``, ``no-access``, ``read-only``, ``too-small``, ``sector-size``, ``no-direct-io``,
    ``io``. May hang with the storage, unless ``look`` has a deadline (see ``domain_files``)."""
    try:
        found = look(path)
    except IoFailure as failure:
        _refuse(path, failure)
    if found.size < min_size:
        raise DomainProblem(
            "too-small", path, f"at least {min_size} bytes", f"it has {found.size}: it is damaged or another volume"
        )
    if found.sector_size > sector_size:
        raise DomainProblem(
            "sector-size",
            path,
            f"a device with sectors of {sector_size} bytes",
            f"its sectors have {found.sector_size}: a domain made for {sector_size} cannot be used on it",
        )
    if writable and found.refusal:
        _refuse(path, IoFailure(found.refusal, found.error))


def _refuse(path: str, failure: IoFailure) -> NoReturn:
    what_to_do = _WHAT_TO_DO.get(failure.code, f"{os.strerror(failure.error)}: look into the kernel log")
    raise DomainProblem(failure.code, path, "a volume that can be read and written", what_to_do) from failure
