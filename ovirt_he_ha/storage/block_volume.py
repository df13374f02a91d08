"""A logical volume of the hosted engine that was lost, made anew in its volume group.

The one thing for which the group's metadata is written here. Where a management application manages the domain, one of
its hosts is the writer, and holds a lease in the domain for that: then this is refused, unless forced.
"""

import os
from contextlib import contextmanager
from typing import Callable, Iterator, List

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.leader import owner_in
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from ovirt_he_ha.storage.command import CommandError
from ovirt_he_ha.storage.errors import ConnectionProblem, StorageError
from ovirt_he_ha.storage.file_provider import files_as
from ovirt_he_ha.storage.io_process import PAGE, IoFailure
from ovirt_he_ha.storage.volume_group import Group, VolumeGroup
from ovirt_he_ha.storage.volumes import VolumeName, create_volume

MANAGER = "SDM"  # the lease of the host that may write the group's metadata, in the second place of the leases' volume
NO_RECORD = -223  # sanlock's number: no lease was ever written there
REMOVAL = 20.0  # wall seconds
NO_PARENT = "PU_00000000-0000-0000-0000-000000000000"


def refuse_managed(leases: str, sd_uuid: str, alignment: int, sector_size: int, seconds: float) -> None:
    """``leases``: the device of all leases, active. Raises ConnectionProblem ``in-use`` while a host of a management
    application has the right to write the group's metadata, and ``lease`` where that cannot be told."""
    lease = LeaseId(sd_uuid, MANAGER, leases, alignment)
    try:
        with files_as(leases, seconds, None) as files:
            owner = owner_in(files.read(leases, alignment, PAGE), lease, sector_size)
    except LeaseUnreadable as problem:
        if problem.code == NO_RECORD:
            return  # nobody ever managed it
        raise _not_told(leases, problem.why) from problem
    except (IoFailure, StorageError) as problem:
        raise _not_told(leases, str(problem)) from problem
    if owner.host_id:
        raise ConnectionProblem(
            "in-use",
            f"volume group {sd_uuid}",
            "to be managed by nobody",
            f"host {owner.host_id} has the lease of its manager ({MANAGER}), and two writers destroy the group: make "
            "the volume there, or, if that host is gone for good, add --force",
        )


def _not_told(leases: str, why: str) -> ConnectionProblem:
    return ConnectionProblem(
        "lease",
        leases,
        "to say who may write the group's metadata",
        f"{why}: find out whether a management application manages this domain; if none does, add --force",
    )


def make(
    volumes: VolumeGroup,
    found: Group,
    name: VolumeName,
    size: int,
    zeroed: int,
    node: str,
    left: Callable[[], float],
    settle: Callable[[], None],
) -> None:
    """A volume of ``size`` bytes, rounded up to whole extents, whose first ``zeroed`` bytes are zeros, with the tags
    that a management application looks for. ``node``: its device. ``left()``: wall seconds for the next call. What
    failed half way is removed again. Raises ConnectionProblem, DomainProblem, CommandError."""
    free, extent = volumes.space(left())
    rounded = -(-size // extent) * extent
    if free < rounded:
        raise ConnectionProblem(
            "full",
            f"volume group {volumes.name}",
            f"{rounded} bytes free, in extents of {extent}",
            f"it has {free}: extend it, or remove what is not needed; nothing was made",
        )
    tags = _tags(found, name)
    volumes.create(name.volume, rounded, tags, left())
    with _taken_back_on_failure(volumes, name.volume):
        settle()
        group = volumes.look(left())
    # What is not as it was made may be another host's by now: that is not removed.
    _check(group, volumes.name, name.volume, rounded, tags)
    with _taken_back_on_failure(volumes, name.volume):
        if not os.path.exists(node):
            raise ConnectionProblem("no-volume", node, "the device node of the new volume", "look at udevadm monitor")
        # Whatever the extents held before, an old slot among it, is nobody's: the volume is some seconds old.
        create_volume(node, size, None, force=True, zeroed=zeroed)


def _tags(found: Group, name: VolumeName) -> List[str]:
    """``MD_``: a place that no volume has, nor ever had while those that are left were made."""
    number = 1 + max([3, *(each.slot for each in found.volumes.values())])
    return [f"IU_{name.image}", f"MD_{number}", NO_PARENT]


def _check(group: Group, where: str, name: str, size: int, tags: List[str]) -> None:
    made = group.volumes.get(name)
    if made is None or made.size != size or sorted(made.tags) != sorted(tags):
        seen = (
            "it is gone" if made is None else f"it has {made.size} bytes and the tags {', '.join(made.tags) or 'none'}"
        )
        raise ConnectionProblem(
            "in-use",
            f"{where}/{name}",
            f"{size} bytes and the tags {', '.join(tags)}, as it was made",
            f"{seen}: another host writes the group's metadata in this moment; find out which",
        )


@contextmanager
def _taken_back_on_failure(volumes: VolumeGroup, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException as problem:
        try:
            volumes.remove(name, REMOVAL)
        except CommandError as error:
            raise ConnectionProblem(
                "command",
                f"{volumes.name}/{name}",
                "to be removed again, because it could not be finished",
                f"remove it by hand (lvremove) before you repeat this; the reason was: {problem}",
                str(error),
            ) from problem
        raise
