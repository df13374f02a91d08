"""What the tags of a volume group and of its volumes say of where things lie."""

from typing import Dict, Tuple

from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.volume_group import Group, LogicalVolume

_GEOMETRY = (("BLOCK_SIZE", 512), ("ALIGNMENT", 1 << 20))
_ALLOWED = {"BLOCK_SIZE": ("512", "4096"), "ALIGNMENT": tuple(str(number << 20) for number in (1, 2, 4, 8))}
_OLD_PLACE, _NEW_PLACE = 512, 8192  # bytes of one volume's description, before version 5 of a domain, and since
_NEW_BEGIN = 1 << 20


def geometry(group: Group, sd_uuid: str) -> Tuple[int, int]:
    """Bytes of a sector and of a lease's area. Raises ConnectionProblem ``metadata``."""
    sector_size, alignment = (_number(group, sd_uuid, tag, default) for tag, default in _GEOMETRY)
    return sector_size, alignment


def lease_slot(group: Group, sd_uuid: str, volume: str) -> int:
    """The volume's place among the leases. Raises ConnectionProblem ``lease``."""
    found = group.volumes[volume]
    if found.slot < 0:
        raise ConnectionProblem(
            "lease",
            f"{sd_uuid}/{found.name}",
            "a tag MD_<number>, which says where its lease is",
            f"it has the tags {', '.join(found.tags) or 'none'}: without its lease the engine VM never starts",
        )
    return found.slot


def description_place(group: Group) -> int:
    """Bytes that one volume's description has in the domain's volume of descriptions."""
    return _NEW_PLACE if _is_new(group) else _OLD_PLACE


def description_offsets(group: Group) -> Dict[str, int]:
    """Where each volume's description begins in there; those that have none are left out."""
    begin, size = _NEW_BEGIN if _is_new(group) else 0, description_place(group)
    return {each.name: begin + each.slot * size for each in _with_slot(group)}


def _with_slot(group: Group) -> Tuple[LogicalVolume, ...]:
    return tuple(each for each in group.volumes.values() if each.slot >= 0)


def _is_new(group: Group) -> bool:
    version = group.tags.get("VERSION", "5")
    return not version.isdigit() or int(version) >= 5


def _number(group: Group, sd_uuid: str, tag: str, default: int) -> int:
    text = group.tags.get(tag, str(default))
    if text not in _ALLOWED[tag]:
        raise ConnectionProblem(
            "metadata",
            f"volume group {sd_uuid}",
            f"a tag MDT_{tag} of {' or '.join(_ALLOWED[tag])}",
            f"it says {text[:20]!r}: the domain is damaged, or newer than this version",
        )
    return int(text)
