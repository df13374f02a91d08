"""The public API of the hosted engine's HA for other programs: what a management agent and a setup tool call.

Names, arguments and results are the field's: ``HAClient`` is used by programs that know nothing else of this package.
"""

import logging
import os
from typing import Any, Dict, List, Mapping, Optional

from ovirt_he_ha.client.link import BrokerError, BrokerLink
from ovirt_he_ha.client.shared_config import SharedConfig
from ovirt_he_ha.config.files import load_hosted_engine_conf, read_values, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.schema import parse_boolean
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, SLOT_SIZE, Empty, Record
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import SCANNED

log = logging.getLogger(__name__)

DEADLINE = 20.0  # wall seconds of a call without a timeout of its own
_LINE = 512  # bytes of the machine-readable part of a slot
_DIRECT_DEADLINE = 30.0  # product seconds to read all slots past the broker


class UnsafeError(Exception):
    """The operation would hurt hosts that are alive."""


class HAClient:
    """One instance per program is enough; nothing is read before a method needs it, and nothing is kept open.

    Without a broker the calls raise the socket's own OSError (FileNotFoundError when there is no socket), otherwise
    BrokerError. ``log``: without it the root logger gets a handler that says nothing, if it has none. Other
    arguments are ignored.
    """

    class StatModes:
        ALL = "ALL"
        HOST = "HOST"
        GLOBAL = "GLOBAL"

    class GlobalMdFlags:
        MAINTENANCE = "maintenance"

    class MaintenanceMode:
        GLOBAL = "GLOBAL"
        LOCAL = "LOCAL"
        LOCAL_MANUAL = "LOCAL_MANUAL"

    def __init__(self, log: bool = False, paths: Optional[HostPaths] = None, **_ignored: object) -> None:
        if not log:
            logging.basicConfig(filename=os.devnull)
        self._paths = paths or HostPaths.from_env()

    # --- statistics -----------------------------------------------------------------------------------------------

    def get_all_stats(self, mode: str = StatModes.ALL, timeout: Optional[float] = None) -> Dict[int, Dict[str, Any]]:
        """``{host id: record}``; key 0 holds the global flags. ``live-data`` of a host: it is alive as this host's
        agent sees it. Records that cannot be read are logged and left out. ``timeout`` in seconds, for each of the
        two calls."""
        with self._link(timeout) as link:
            slots = _asked(link.get_stats)
            alive = _asked(link.is_host_alive) if mode != self.StatModes.GLOBAL else ()
        stats = _stats(slots, mode)
        for host_id, record in stats.items():
            if host_id != GLOBAL_SLOT:
                record["live-data"] = host_id in alive
        return stats

    def get_all_host_stats(self, timeout: Optional[float] = None) -> Dict[int, Dict[str, Any]]:
        return self.get_all_stats(self.StatModes.HOST, timeout)

    def get_all_stats_direct(self, mode: str = StatModes.ALL) -> Dict[int, Dict[str, Any]]:
        """From the volume, without the broker and without ``live-data``. Raises StorageError, ConfigError."""
        conf = load_hosted_engine_conf(self._paths.hosted_engine_conf)
        domain = LocalDomain(conf.storage, conf.sd_uuid)
        volume = IoWorker(domain.volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid))
        try:
            data = volume.read(0, SCANNED, _DIRECT_DEADLINE)
        finally:
            volume.close(1.0)
        slots = {start // SLOT_SIZE: data[start : start + SLOT_SIZE] for start in range(0, SCANNED, SLOT_SIZE)}
        return _stats(slots, mode)

    def get_all_host_stats_direct(self) -> Dict[int, Dict[str, Any]]:
        return self.get_all_stats_direct(self.StatModes.HOST)

    def get_local_host_id(self) -> Optional[int]:
        """None where no host id is configured. Never raises."""
        try:
            text = read_values(self._paths.hosted_engine_conf).get("host_id", "")
        except ConfigError as error:
            log.debug("%s", error)
            return None
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None

    def get_local_host_score(self, timeout: Optional[float] = None) -> int:
        """This host's score; 0 when its own record is not live."""
        record = self.get_all_host_stats(timeout).get(self.get_local_host_id() or -1)
        return int(record["score"]) if record and record["live-data"] else 0

    # --- maintenance ----------------------------------------------------------------------------------------------

    def set_global_md_flag(self, flag: str, value: object, timeout: Optional[float] = None) -> None:
        """Returns when the flag is on the volume. Raises ValueError for an unknown flag."""
        if flag != self.GlobalMdFlags.MAINTENANCE:
            raise ValueError(f"flag {flag!r}: expected {self.GlobalMdFlags.MAINTENANCE!r}")
        with self._link(timeout) as link:
            _asked(lambda: link.put_stats(GLOBAL_SLOT, slot.encode_global(_truth(value))))

    def set_maintenance_mode(self, mode: str, value: object, timeout: Optional[float] = None) -> None:
        """Raises ValueError for an unknown mode, ConfigError or OSError when ha.conf cannot be changed."""
        flag = _truth(value)
        if mode == self.MaintenanceMode.GLOBAL:
            self.set_global_md_flag(self.GlobalMdFlags.MAINTENANCE, flag, timeout)
        elif mode == self.MaintenanceMode.LOCAL:
            save_ha_conf(self._paths.ha_conf, local_maintenance=flag)
        elif mode == self.MaintenanceMode.LOCAL_MANUAL:
            save_ha_conf(self._paths.ha_conf, local_maintenance=flag, manual=flag)
        else:
            raise ValueError(f"mode {mode!r}: expected GLOBAL, LOCAL or LOCAL_MANUAL")

    # --- configuration --------------------------------------------------------------------------------------------

    def is_deployed(self) -> bool:
        return os.path.exists(self._paths.hosted_engine_conf)

    def get_shared_config(self, key: str, config_type: Optional[str] = None) -> List[str]:
        """``[value, type]``. Raises KeyError, SharedConfigError."""
        return SharedConfig(self._paths).get(key, config_type)

    def set_shared_config(self, key: str, value: str, config_type: Optional[str] = None) -> None:
        """Raises KeyError, SharedConfigError, ArchiveError."""
        SharedConfig(self._paths).set(key, value, config_type)

    def get_all_config_keys(self, config_type: Optional[str] = None) -> Dict[str, List[str]]:
        return SharedConfig(self._paths).keys(config_type)

    # --- storage --------------------------------------------------------------------------------------------------

    def reset_lockspace(self, force: bool = False, timeout: Optional[float] = None) -> None:
        """Write the lockspace hosted-engine anew. Without ``force`` only in global maintenance, with every known
        agent stopped: raises UnsafeError otherwise. Nothing happens on a host that is not deployed."""
        if not self.is_deployed():
            return
        if not force:
            self._check_safe(timeout)
        with self._link(timeout) as link:
            _asked(link.reset_lockspace)

    def _check_safe(self, timeout: Optional[float]) -> None:
        stats = self.get_all_stats(timeout=timeout)
        flags = stats.pop(GLOBAL_SLOT, {})
        running = sorted(host_id for host_id, record in stats.items() if not record["stopped"])
        if stats and not flags.get("maintenance"):
            raise UnsafeError("the cluster is not in global maintenance: set it first")
        if running:
            raise UnsafeError(f"agents still run on the hosts {', '.join(map(str, running))}: stop them first")

    def connect_storage_server(self, timeout: float = 900) -> None:
        """A directory needs no connection; checks that it is there. Raises RuntimeError."""
        conf = load_hosted_engine_conf(self._paths.hosted_engine_conf)
        directory = LocalDomain(conf.storage, conf.sd_uuid).directory
        if not os.path.isdir(directory):
            raise RuntimeError(f"{directory}: expected the directory of the storage domain; mount the storage first")

    def disconnect_storage_server(self, timeout: float = 900) -> None:
        """A directory has no connection to end."""

    def _link(self, timeout: Optional[float]) -> BrokerLink:
        return BrokerLink(self._paths.broker_socket, DEADLINE if timeout is None else float(timeout))


def _asked(call: Any) -> Any:
    """Callers know the socket's own errors: FileNotFoundError is "setup not finished" to them."""
    try:
        return call()
    except BrokerError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise


def _truth(value: object) -> bool:
    """A flag as callers pass it: a boolean, a number, or a text such as ``True``, ``0``, ``no``. Raises ValueError."""
    if isinstance(value, str):
        return parse_boolean(value)
    return bool(value)


def _stats(slots: Mapping[int, bytes], mode: str) -> Dict[int, Dict[str, Any]]:
    if mode not in (HAClient.StatModes.ALL, HAClient.StatModes.HOST, HAClient.StatModes.GLOBAL):
        raise ValueError(f"mode {mode!r}: expected ALL, HOST or GLOBAL")
    stats: Dict[int, Dict[str, Any]] = {}
    for host_id, data in sorted(slots.items()):
        if host_id == GLOBAL_SLOT:
            flags = slot.decode_global(data)
            if mode != HAClient.StatModes.HOST and flags.value is not None and data.strip(b"\0"):
                stats[GLOBAL_SLOT] = {"maintenance": flags.value}
        elif mode != HAClient.StatModes.GLOBAL:
            found = slot.decode(host_id, data)
            if isinstance(found, Record):
                stats[host_id] = _record(found, data)
            elif not isinstance(found, Empty):
                log.error("slot %d left out: %s %s", host_id, found.reason, found.detail)
    return stats


def _record(record: Record, data: bytes) -> Dict[str, Any]:
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
        "extra": data[_LINE:].rstrip(b"\0").decode("ascii", "replace"),
    }
