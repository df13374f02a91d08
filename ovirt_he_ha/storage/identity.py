"""Whether the connected domain is the one that this host knows, before anybody joins it.

A cloned LUN or a restored export carries the same UUIDs as the original. Two hosts on two copies would each see the
VM's lease free: so each host remembers by which traits it knows its copy, and refuses another one until told otherwise.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.text import ConfigError, atomic_write, read_text
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.leader import NotLockspace, host_in, owner_in
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from ovirt_he_ha.storage.domain_files import VolumeFiles
from ovirt_he_ha.storage.errors import ConnectionProblem, StorageError
from ovirt_he_ha.storage.io_process import PAGE, IoFailure
from ovirt_he_ha.storage.provider import Domain

ACCEPT = "--accept-copy"


@dataclass(frozen=True)
class Traits:
    """``copy``: what differs between two copies with the same UUIDs; texts that only compare. ``generation``: of this
    host's id in the domain's lockspace, which only grows; an older copy has a smaller one. ``host_id``: whose."""

    sd_uuid: str
    copy: Tuple[Tuple[str, str], ...]
    host_id: int
    generation: int
    known_since: float = 0.0  # wall seconds since the epoch, for the eyes of people


def verify_contents(domain: Domain, conf: HostedEngineConf, files: VolumeFiles) -> int:
    """That the lockspace and the VM's lease are this domain's. This host's generation in the lockspace. Raises
    ConnectionProblem ``lockspace``, ``lease``, DomainProblem, StorageError."""
    sector_size = domain.sector_size()
    lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
    try:
        position = (conf.host_id - 1) * sector_size
        page = _read(files, domain.ids_path, position - position % PAGE)
        record = host_in(page[position % PAGE :], conf.sd_uuid, sector_size)
    except NotLockspace as problem:
        raise ConnectionProblem(
            "lockspace",
            domain.ids_path,
            f"the lockspace of storage domain {conf.sd_uuid}",
            f"there is {problem.found}: check sdUUID and what is connected; nothing was joined",
        ) from problem
    _verify_lease(lease, sector_size, files)
    return record.generation


def _verify_lease(lease: LeaseId, sector_size: int, files: VolumeFiles) -> None:
    try:
        owner_in(_read(files, lease.path, lease.offset), lease, sector_size)
    except LeaseUnreadable as problem:
        raise ConnectionProblem(
            "lease",
            lease.path,
            f"the lease {lease.lockspace}:{lease.key} at offset {lease.offset}",
            f"{problem.why}: check vm_disk_vol_id and what is connected; without it the engine VM never starts",
        ) from problem


def _read(files: VolumeFiles, path: str, offset: int) -> bytes:
    try:
        return files.read(path, offset, PAGE)
    except IoFailure as failure:
        raise StorageError(failure.code, path, failure.error) from failure


class KnownCopy:
    """What this host remembers of its domain; only root writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Optional[Traits]:
        """None where nothing is remembered. Raises ConfigError for a damaged file: what it said is not guessed."""
        if not self._path.exists():
            return None
        try:
            values = json.loads(read_text(self._path))
            return _traits(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            expected = f"what --connect-storage wrote; remove it if this host should know the storage anew ({ACCEPT})"
            raise ConfigError(self._path, "", expected, "something else") from error

    def save(self, traits: Traits) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        values = {
            "sd_uuid": traits.sd_uuid,
            "copy": dict(traits.copy),
            "host_id": traits.host_id,
            "generation": traits.generation,
            "known_since": traits.known_since,
        }
        atomic_write(self._path, (json.dumps(values, indent=1) + "\n").encode(), 0o644)

    def compare(self, found: Traits, accept: bool = False) -> None:
        """Remember ``found``, if nothing is known of this domain or it is the same copy. Raises ConnectionProblem
        ``another-copy``, ``older-copy`` unless it is accepted; ConfigError, OSError."""
        known = None if accept else self.load()
        if known is None or known.sd_uuid != found.sd_uuid:
            self.save(replace(found, known_since=time.time()))
            return
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.known_since))
        for name, value in known.copy:
            _check_copy(found, name, value, since)
        if known.host_id == found.host_id and found.generation < known.generation:
            raise ConnectionProblem(
                "older-copy",
                f"storage domain {found.sd_uuid}",
                f"a record of host id {found.host_id} of generation {known.generation} or later",
                f"it shows generation {found.generation}: it was restored from a backup or a snapshot, or its "
                f"lockspace was written anew. {_what_to_do()}",
            )
        if found != replace(known, known_since=0.0):
            self.save(replace(found, known_since=known.known_since))


def _check_copy(found: Traits, name: str, value: str, since: str) -> None:
    now = dict(found.copy).get(name, "")
    if value and now and now != value:
        raise ConnectionProblem(
            "another-copy",
            f"storage domain {found.sd_uuid}",
            f"the copy that this host knows since {since}, with the {name} {value}",
            f"this one has {now}: was it cloned or restored? {_what_to_do()}",
        )


def _what_to_do() -> str:
    return (
        "Hosts on two copies would both start the VM. If every host of the cluster is on this copy, or stopped: "
        f"hosted-engine --connect-storage {ACCEPT} on each"
    )


def _traits(values: Dict[str, Any]) -> Traits:
    copy = tuple(sorted((str(name), str(value)) for name, value in values["copy"].items()))
    return Traits(
        str(values["sd_uuid"]), copy, int(values["host_id"]), int(values["generation"]), float(values["known_since"])
    )
