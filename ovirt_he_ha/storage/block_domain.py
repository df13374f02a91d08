"""A storage domain on a volume group: each volume is a logical volume, and one of them holds all leases.

Which place in the leases' volume a volume has is written in the tags of its logical volume, and so are the sectors in
those of the group. Only root can ask LVM for them: whoever connects the domain leaves them in a record for the daemons.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from ovirt_he_ha.config.text import ConfigError, atomic_write, read_text
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage.block_stores import BlockOvfStores
from ovirt_he_ha.storage.domain_files import DomainFiles, FilesHere
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.ovf_store import Stores
from ovirt_he_ha.storage.volumes import check_volume

RESERVED = 100  # lease areas at the beginning of the leases' volume that are not for volumes
IDS, LEASES = "ids", "leases"
DESCRIPTIONS = "metadata"  # of all volumes; the hosted engine's own metadata volume is another


@dataclass(frozen=True)
class BlockRecord:
    """``slots``: volume -> its number in the leases' volume, as its tag says. ``stores``: OVF_STORE volume -> where its
    description of ``described`` bytes begins in the volume of descriptions."""

    sd_uuid: str
    sector_size: int  # bytes: 512 or 4096
    alignment: int  # bytes of one lease area
    slots: Mapping[str, int]
    stores: Mapping[str, int] = field(default_factory=dict)
    described: int = 8192


def load_record(path: Path, sd_uuid: str) -> BlockRecord:
    """Raises DomainProblem ``not-connected``: there is none of this domain, or it is damaged."""
    try:
        values = json.loads(read_text(path))
        record = BlockRecord(
            *(str(values["sd_uuid"]), int(values["sector_size"]), int(values["alignment"])),
            _numbers(values["slots"]),
            _numbers(values.get("stores", {})),  # a record of the version before has none
            int(values.get("described", 8192)),
        )
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_connected(sd_uuid) from error
    if record.sd_uuid != sd_uuid or record.sector_size not in (512, 4096):
        raise _not_connected(sd_uuid)
    return record


def _numbers(values: Mapping[object, Any]) -> Dict[str, int]:
    return {str(name): int(number) for name, number in values.items()}


def save_record(path: Path, record: BlockRecord) -> None:
    """Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    values = {
        "sd_uuid": record.sd_uuid,
        "sector_size": record.sector_size,
        "alignment": record.alignment,
        "slots": dict(record.slots),
        "stores": dict(record.stores),
        "described": record.described,
    }
    atomic_write(path, (json.dumps(values) + "\n").encode(), 0o644)


def _not_connected(sd_uuid: str) -> DomainProblem:
    return DomainProblem(
        "not-connected",
        f"storage domain {sd_uuid}",
        "to be connected by root since this host was started",
        "see systemctl status ovirt-ha-storage, or run hosted-engine --connect-storage as root",
    )


class BlockDomain:
    """``devices``: where LVM's device nodes are, ``/dev``. ``files`` as for LocalDomain."""

    def __init__(self, record: BlockRecord, devices: str = "/dev", files: Optional[DomainFiles] = None) -> None:
        self.sd_uuid = record.sd_uuid
        self._record = record
        self._devices = devices
        self._files = files or FilesHere()

    @property
    def directory(self) -> str:
        return os.path.join(self._devices, self.sd_uuid)

    @property
    def ids_path(self) -> str:
        return f"{self.directory}/{IDS}"

    def volume_path(self, _image: str, volume: str) -> str:
        return f"{self.directory}/{volume}"

    def lease(self, _image: str, volume: str) -> LeaseId:
        slot = self._record.slots.get(volume)
        if slot is None:
            raise DomainProblem(
                "no-volume",
                f"{self.sd_uuid}/{volume}",
                "a logical volume with a tag MD_<number>, which says where its lease is",
                "check the UUIDs in hosted-engine.conf, then connect the storage again",
            )
        return LeaseId(self.sd_uuid, volume, f"{self.directory}/{LEASES}", (RESERVED + slot) * self._record.alignment)

    def sector_size(self) -> int:
        return self._record.sector_size

    def alignment(self) -> int:
        return self._record.alignment

    def verify(self) -> None:
        self.check(self.ids_path, self.alignment(), self.sector_size())

    def ovf_stores(self) -> Stores:
        record = self._record
        return BlockOvfStores(self.directory, f"{self.directory}/{DESCRIPTIONS}", record.stores, record.described)

    def check(self, path: str, min_size: int, sector_size: int) -> None:
        check_volume(path, min_size, sector_size, look=self._files.look)
