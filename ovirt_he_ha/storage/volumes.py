"""Making and checking the volumes of a domain.

Layout, the one that oVirt uses for file domains: ``<storage>/<sdUUID>/dom_md/{metadata,ids,leases}`` and
``<storage>/<sdUUID>/images/<image>/<volume>`` with ``<volume>.lease`` beside it.
"""

import errno
import fcntl
import os
import stat
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Callable, Iterator, List, NoReturn, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.text import atomic_write
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE
from ovirt_he_ha.storage.content import first_content
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.io_process import BLKROGET, IoFailure, VolumeLook, look
from ovirt_he_ha.storage.signature import EXAMINED, UNKNOWN, ZEROS, signature

MIB = 1 << 20
GIB = 1 << 30

SCANNED = (MAX_HOST_ID + 1) * SLOT_SIZE  # 8,196,096 bytes: what readers parse of the metadata volume
LOCKSPACE_USED = 9 * MIB  # of the lockspace volume: the lockspace, and the lock of the configuration behind it
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
    (not with ``force``), and then nothing was changed; what was made before something failed is removed again.
    ``owner`` None: whoever runs this.
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
    with _undone_on_failure() as made:
        for path, size, zeroed in plan:
            _directories(storage, os.path.dirname(path), owner, made)
            if not os.path.lexists(path):
                made.append(path)
            create_volume(path, size, owner, force, zeroed)
        if not os.path.lexists(metadata):
            made.append(metadata)
        _write_metadata(metadata, sd_uuid, sector_size, owner)


def _write_metadata(path: str, sd_uuid: str, sector_size: int, owner: Optional[Tuple[int, int]]) -> None:
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
    try:
        atomic_write(path, ("\n".join(lines) + "\n").encode(), 0o644)
        if owner is not None:
            os.chown(path, *owner)
    except OSError as error:
        raise _failed(path, error) from error


@contextmanager
def _undone_on_failure() -> Iterator[List[str]]:
    """What is put into the list was made by us: nothing half-made stays behind."""
    made: List[str] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # the first error is the one to be told
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
        raise


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
        (path(volumes.lockspace), sizes.lockspace, LOCKSPACE_USED),
        (path(volumes.configuration), sizes.configuration, MIB),
        *disk,
        *((f"{path(name)}.lease", sizes.lease, MIB) for name in leases),
    )


def _directories(storage: str, directory: str, owner: Optional[Tuple[int, int]], made: List[str]) -> None:
    """Like makedirs, and each one that is new below ``storage`` gets the owner."""
    missing = []
    while not os.path.isdir(directory) and len(directory) > len(storage):
        missing.append(directory)
        directory = os.path.dirname(directory)
    try:
        os.makedirs(storage, exist_ok=True)
        for each in reversed(missing):
            os.mkdir(each, 0o755)
            made.append(each)
            if owner is not None:
                os.chown(each, *owner)
    except OSError as error:
        raise _failed(directory, error) from error


def create_volume(
    path: str, size: int, owner: Optional[Tuple[int, int]] = OWNER, force: bool = False, zeroed: int = MIB
) -> None:
    """A raw preallocated volume whose first ``zeroed`` bytes are written as zeros: what a reused extent held before
    must not be taken for a slot. An existing one, file or block device, is refused if it holds something (DomainProblem
    ``in-use``), unless ``force``; a device that is mounted or part of something else is refused with it, too. It is
    never made smaller; a device is never made at all (``missing``). A new file that could not be finished is removed.
    Raises DomainProblem: also ``full``, ``no-access``, ``read-only``, ``too-small`` (a device), ``io``."""
    try:
        handle, fresh = _opened(path, force)
    except OSError as error:
        raise _failed(path, error) from error
    with _undone_on_failure() as made:
        if fresh:
            made.append(path)
        try:
            if not fresh and not force:
                _refuse_content(handle, path, max(zeroed, MIB))
            _fill(handle, path, size, zeroed, owner)
        except OSError as error:
            raise _failed(path, error, size) from error
        finally:
            os.close(handle)


def _opened(path: str, force: bool) -> Tuple[int, bool]:
    """To be read and written; whether it is new. Raises OSError, DomainProblem."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    in_dev = path.startswith("/dev/")
    if in_dev:
        # The links of logical volumes are followed. A device that is mounted, or below another one, says EBUSY.
        flags = (flags & ~os.O_NOFOLLOW) | os.O_EXCL
    elif not os.path.lexists(path):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, MODE), True
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if not (stat.S_ISBLK(mode) if in_dev else stat.S_ISREG(mode)):
        os.close(handle)
        raise _in_use(path) if not force else DomainProblem("not-a-volume", path, "a file or a block device", "")
    if in_dev:
        try:
            _refuse_read_only(handle, path)
        except BaseException:
            os.close(handle)
            raise
    return handle, False


def _fill(handle: int, path: str, size: int, zeroed: int, owner: Optional[Tuple[int, int]]) -> None:
    if stat.S_ISBLK(os.fstat(handle).st_mode):
        found = os.lseek(handle, 0, os.SEEK_END)
        if found < size:
            raise DomainProblem("too-small", path, f"at least {size} bytes", f"it has {found}: extend the volume")
        _zero(handle, min(zeroed, size))
        os.fsync(handle)
        return
    if size > 0:
        _allocate(handle, size)
    _zero(handle, min(zeroed, size))
    os.fsync(handle)
    os.fchmod(handle, MODE)
    if owner is not None:
        os.fchown(handle, *owner)


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
    """Raises DomainProblem ``in-use`` if ``path`` is something else than a file or a device of zeros (all of its first
    ``examined`` bytes, and samples of the others: see ``first_content``), and what ``create_volume`` raises if it
    cannot be read."""
    in_dev = path.startswith("/dev/")
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if in_dev else os.O_NOFOLLOW)
        handle = os.open(path, flags)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error
    try:
        mode = os.fstat(handle).st_mode
        if not (stat.S_ISREG(mode) or (in_dev and stat.S_ISBLK(mode))):
            raise _in_use(path)
        _refuse_content(handle, path, examined)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(handle)


def _refuse_content(handle: int, path: str, examined: int) -> None:
    offset = first_content(handle, examined)
    if offset is None:
        return
    found = signature(os.pread(handle, EXAMINED, 0))
    what = f"something ({found})" if found.kind not in (ZEROS, UNKNOWN) else f"something at byte {offset}"
    raise _in_use(path, f"it holds {what}: ")


def _refuse_read_only(handle: int, path: str) -> None:
    """Most such devices can be opened for writing, and say EPERM to the write."""
    if struct.unpack("i", fcntl.ioctl(handle, BLKROGET, bytes(4)))[0]:
        todo = f"look for path errors in the kernel log and at the storage's export; then blockdev --setrw {path}"
        raise DomainProblem("read-only", path, "a device that can be written to", todo)


def _in_use(path: str, found: str = "") -> DomainProblem:
    return DomainProblem(
        "in-use", path, "nothing, or a volume of zeros", f"{found}if it may be overwritten, remove it or use force"
    )


_ERRORS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "no-access",
    errno.EPERM: "no-access",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENXIO: "missing",
    errno.EISDIR: "in-use",
    errno.ELOOP: "in-use",
    errno.EBUSY: "in-use",
}
_EXPECTED = {
    "full": ("space for {size} bytes", "free space on the storage; nothing was left behind"),
    "read-only": ("storage that can be written to", "look for errors in the kernel log, then mount it read-write"),
    "no-access": ("leave to write here", "run it as root; on NFS the export must not squash user and group 36:36"),
    "missing": ("its directory, or the activated device", "connect the storage first, and check the UUIDs"),
    "in-use": ("a file or a device that nothing uses", "it is a directory, a link, mounted or part of another device"),
}


def _failed(path: str, error: OSError, size: int = 0) -> DomainProblem:
    code = _ERRORS.get(error.errno or 0, "io")
    expected, what_to_do = _EXPECTED.get(code, ("storage that answers", f"{error.strerror}: look into the kernel log"))
    return DomainProblem(code, path, expected.format(size=size), what_to_do)


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
