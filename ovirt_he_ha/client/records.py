"""Slots as other programs know them: plain dictionaries under the field's names."""

import logging
from typing import Any, Dict, Mapping, Set, Tuple

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, Empty, Record

log = logging.getLogger(__name__)

ALL, HOST, GLOBAL = "ALL", "HOST", "GLOBAL"
_MODES = (ALL, HOST, GLOBAL)


def check_mode(mode: str) -> None:
    """Raises ValueError."""
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r}: expected {', '.join(_MODES)}")


def read_slots(slots: Mapping[int, bytes], mode: str) -> Tuple[Dict[int, Dict[str, Any]], Set[int]]:
    """Records by host id with the global flags under 0, as far as ``mode`` asks for them; and the ids of the slots that
    hold something unreadable."""
    stats: Dict[int, Dict[str, Any]] = {}
    unreadable: Set[int] = set()
    for host_id, data in sorted(slots.items()):
        if host_id == GLOBAL_SLOT:
            flags = slot.decode_global(data)
            if mode != HOST and flags.value is not None and data.strip(b"\0"):
                stats[GLOBAL_SLOT] = {"maintenance": flags.value}
        elif mode != GLOBAL:
            found = slot.decode(host_id, data)
            if isinstance(found, Record):
                stats[host_id] = _as_dictionary(found, data)
            elif not isinstance(found, Empty):
                unreadable.add(host_id)
                log.error("slot %d left out: %s %s", host_id, found.reason, found.detail)
    return stats, unreadable


def _as_dictionary(record: Record, data: bytes) -> Dict[str, Any]:
    """Keys in the order in which the field's tools print them."""
    return {
        "host-id": record.host_id,
        "host-ts": record.timestamp,
        "score": record.score,
        "engine-status": slot.encode_engine(record.engine),
        "hostname": record.hostname,
        "maintenance": record.maintenance,
        "stopped": record.stopped,
        "crc32": record.crc32,
        "conf_on_shared_storage": record.conf_on_shared_storage,
        "local_conf_timestamp": record.local_conf_timestamp,
        "extra": data[slot.LINE_SIZE :].rstrip(b"\0").decode("ascii", "replace"),
    }
