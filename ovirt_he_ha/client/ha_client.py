"""The public API of the hosted engine's HA for other programs: what a management agent and a setup tool call.

Names, arguments and results are the field's: ``HAClient`` is used by programs that know nothing else of this package.
"""

import logging
import math
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, TypeVar

from ovirt_he_ha.client.bounded_volume import BoundedVolume
from ovirt_he_ha.client.link import BrokerLink, BrokerUnavailable
from ovirt_he_ha.client.records import ALL, GLOBAL, HOST, check_mode, read_slots
from ovirt_he_ha.client.shared_config import SharedConfig
from ovirt_he_ha.client.socket_errors import as_socket_error
from ovirt_he_ha.config.files import load_hosted_engine_conf, read_values, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.schema import parse_boolean
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, MAX_HOST_ID, SLOT_SIZE
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.volumes import SCANNED

T = TypeVar("T")

DEADLINE = 20.0  # wall seconds of a call to the broker without a timeout of its own
DIRECT_DEADLINE = 30.0  # wall seconds to read all slots past the broker: 8 MB
CONFIG_DEADLINE = 20.0  # wall seconds of a call about the configuration
CONNECT_TIMEOUT = 900.0  # wall seconds, the field's

log = logging.getLogger(__name__)


class UnsafeError(Exception):
    """The operation would hurt hosts that are alive."""


class HAClient:
    """One instance per program is enough; nothing is read before a method needs it, and nothing is kept open. Several
    threads may use it.

    ``log``: without it the root logger gets a handler that says nothing, if it has none. ``paths``: where this host's
    files are; by default those of ``/``, or of the directory that OVIRT_HE_ROOT names. Other arguments are ignored.

    **Time.** ``timeout`` is in wall seconds, above 0, and counts for each call to the broker (``get_all_stats`` and
    ``reset_lockspace`` make two); None means DEADLINE. Anything else raises ValueError before anything is done.

    **Errors of the broker**, of every method that asks it:

    * no socket: FileNotFoundError; nobody listens: ConnectionRefusedError; not allowed: PermissionError; no answer in
      time: ``socket.timeout``, which is TimeoutError from Python 3.10 on; broken off: ConnectionResetError. All are
      OSError and BrokerUnavailable, with the socket's path in their text.
    * it answered, but not what was asked for: BrokerUnavailable with the code ``garbage``
    * it refused or failed: BrokerFault with a code

    **Storage** is accessed by a process of its own with a deadline, never on the caller's thread.
    """

    class StatModes:
        """What ``get_all_stats`` returns: hosts and global flags, hosts, or global flags."""

        ALL = ALL
        HOST = HOST
        GLOBAL = GLOBAL

    class GlobalMdFlags:
        """Flags for the whole cluster."""

        MAINTENANCE = "maintenance"

    class MaintenanceMode:
        """GLOBAL: the whole cluster. LOCAL: this host, as a management agent sets and ends it. LOCAL_MANUAL: this host,
        as its operator does: ending LOCAL leaves it."""

        GLOBAL = "GLOBAL"
        LOCAL = "LOCAL"
        LOCAL_MANUAL = "LOCAL_MANUAL"

    def __init__(self, log: bool = False, *, paths: Optional[HostPaths] = None, **_ignored: object) -> None:
        if not log:
            logging.basicConfig(filename=os.devnull)
        self._paths = paths or HostPaths.from_env()

    # --- statistics -----------------------------------------------------------------------------------------------

    def get_all_stats(self, mode: str = StatModes.ALL, timeout: Optional[float] = None) -> Dict[int, Dict[str, Any]]:
        """``{host id: record}``, host ids 1 to 2000. Key 0 is ``{"maintenance": bool}``, absent when the global flags
        cannot be read.

        A record, in this order: ``host-id`` int · ``host-ts`` int, monotonic seconds of that host · ``score`` int, 0
        to 3400 · ``engine-status`` str, a JSON object or ``null`` · ``hostname`` str · ``maintenance`` bool, of that
        host · ``stopped`` bool, its agent was stopped in order · ``crc32`` str, 8 hex digits ·
        ``conf_on_shared_storage`` bool · ``local_conf_timestamp`` int · ``extra`` str, lines ``key=value`` ·
        ``live-data`` bool: it is alive as this host's agent sees it.

        A slot that cannot be read is logged and left out. Raises ValueError for an unknown mode, and the errors of the
        broker.
        """
        check_mode(mode)
        with self._link(timeout) as link:
            slots = _asked(link.get_stats)
            alive = _asked(link.is_host_alive) if mode != GLOBAL else ()
        stats, _unreadable = read_slots(slots, mode)
        for host_id, record in stats.items():
            if host_id != GLOBAL_SLOT:
                record["live-data"] = host_id in alive
        return stats

    def get_all_host_stats(self, timeout: Optional[float] = None) -> Dict[int, Dict[str, Any]]:
        """``get_all_stats`` without key 0."""
        return self.get_all_stats(HOST, timeout)

    def get_all_stats_direct(self, mode: str = StatModes.ALL) -> Dict[int, Dict[str, Any]]:
        """Like ``get_all_stats``, from the volume, without the broker and without ``live-data``. Within 30 s. Raises
        ValueError for an unknown mode, ConfigError where nothing is deployed, StorageError."""
        check_mode(mode)
        conf = load_hosted_engine_conf(self._paths.hosted_engine_conf)
        domain = domain_of(conf, self._paths)
        path = domain.volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid)
        with BoundedVolume(path, DIRECT_DEADLINE) as volume:
            data = volume.read_at(0, SCANNED)
        return read_slots({at // SLOT_SIZE: data[at : at + SLOT_SIZE] for at in range(0, SCANNED, SLOT_SIZE)}, mode)[0]

    def get_all_host_stats_direct(self) -> Dict[int, Dict[str, Any]]:
        """``get_all_stats_direct`` without key 0."""
        return self.get_all_stats_direct(HOST)

    def get_local_host_id(self) -> Optional[int]:
        """1 to 2000; None where no host id is configured, and where it cannot be read. Never raises."""
        try:
            text = read_values(self._paths.hosted_engine_conf).get("host_id", "")
        except ConfigError as error:
            log.debug("%s", error)
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 4):
            return None
        return int(text) if 1 <= int(text) <= MAX_HOST_ID else None

    def get_local_host_score(self, timeout: Optional[float] = None) -> int:
        """This host's score, 0 to 3400; 0 when its own record is not live or no host id is configured. Raises the
        errors of the broker."""
        record = self.get_all_host_stats(timeout).get(self.get_local_host_id() or -1)
        return int(record["score"]) if record and record["live-data"] else 0

    # --- maintenance ----------------------------------------------------------------------------------------------

    def set_global_md_flag(self, flag: str, value: object, timeout: Optional[float] = None) -> None:
        """Returns when the flag is on the volume and was read back. ``value`` as in ``set_maintenance_mode``. Raises
        ValueError for an unknown flag or value, and the errors of the broker."""
        if flag != self.GlobalMdFlags.MAINTENANCE:
            raise ValueError(f"flag {flag!r}: expected {self.GlobalMdFlags.MAINTENANCE!r}")
        block = slot.encode_global(_truth(value))
        with self._link(timeout) as link:
            _asked(lambda: link.put_stats(GLOBAL_SLOT, block))

    def set_maintenance_mode(self, mode: str, value: object, timeout: Optional[float] = None) -> None:
        """``mode``: one of MaintenanceMode. ``value``: a bool, a number, or one of the words that the configuration
        files take (``True``, ``0``, ``no``, ...). LOCAL changes one of the host's two flags, LOCAL_MANUAL both, and
        the agent acts on it in its next cycle (10 s).

        Raises ValueError for an unknown mode or value; ConfigError or OSError when ha.conf cannot be changed; for
        GLOBAL the errors of the broker.
        """
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
        """Whether this host's hosted-engine.conf exists; it may be empty. Never raises."""
        return os.path.exists(self._paths.hosted_engine_conf)

    def get_shared_config(self, key: str, config_type: Optional[str] = None) -> List[str]:
        """``[value, type]``, both str. ``config_type``: ``he_local``, ``he_shared``, ``ha`` or ``broker``; None: the
        one that has the key. Within 20 s.

        Raises KeyError for an unknown key; SharedConfigError for an unknown or read-only type and for a key of several
        types; ConfigError for this host's files; ArchiveError for the configuration volume, with the code ``overdue``
        when it does not answer.
        """
        return SharedConfig(self._paths, CONFIG_DEADLINE).get(key, config_type)

    def set_shared_config(self, key: str, value: str, config_type: Optional[str] = None) -> None:
        """Returns when the value is stored and was read back. Within 22 s. Raises like ``get_shared_config``;
        SharedConfigError or ConfigError also for a value that does not fit, OSError for a file that cannot be written;
        ArchiveError ``changed`` when another host was faster, ``late-write`` when the storage stopped answering and the
        change may still arrive. In every other case nothing was changed."""
        SharedConfig(self._paths, CONFIG_DEADLINE).set(key, value, config_type)

    def get_all_config_keys(self, config_type: Optional[str] = None) -> Dict[str, List[str]]:
        """``{type: sorted keys}``, those included that may be set but are not; ``{}`` for the read-only type ``vm``.
        Within 20 s. Raises SharedConfigError for an unknown type, ConfigError, ArchiveError."""
        return SharedConfig(self._paths, CONFIG_DEADLINE).keys(config_type)

    # --- storage --------------------------------------------------------------------------------------------------

    def reset_lockspace(self, force: bool = False, timeout: Optional[float] = None) -> None:
        """Write the lockspace hosted-engine anew. Without ``force`` only in global maintenance, with every known
        agent stopped and every slot readable: raises UnsafeError otherwise, and the errors of the broker. Nothing
        happens on a host that is not deployed."""
        if not self.is_deployed():
            return
        with self._link(timeout) as link:
            if not force:
                _check_at_rest(_asked(link.get_stats))
            _asked(link.reset_lockspace)

    def connect_storage_server(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """A directory needs no connection; looks whether it is there. Raises RuntimeError when it is not, or does not
        answer within ``timeout`` seconds; ConfigError where nothing is deployed."""
        seconds = _seconds(timeout)
        conf = load_hosted_engine_conf(self._paths.hosted_engine_conf)
        directory = domain_of(conf, self._paths).directory
        try:
            with BoundedVolume(directory, seconds) as storage:
                found = storage.is_directory(directory)
        except StorageError as error:
            raise RuntimeError(str(error)) from error
        if not found:
            raise RuntimeError(f"{directory}: expected the directory of the storage domain; mount the storage first")

    def disconnect_storage_server(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """A directory has no connection to end. Raises ValueError for a ``timeout`` that is none."""
        _seconds(timeout)

    def _link(self, timeout: Optional[float]) -> BrokerLink:
        return BrokerLink(self._paths.broker_socket, DEADLINE if timeout is None else _seconds(timeout))


def _seconds(timeout: object) -> float:
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and math.isfinite(timeout) and timeout > 0:
        return float(timeout)
    raise ValueError(f"timeout {timeout!r}: expected seconds, more than 0")


def _asked(call: Callable[[], T]) -> T:
    """Callers know the socket's own errors: FileNotFoundError is "setup not finished" to them, other OSErrors a line in
    their log, and anything else a traceback."""
    try:
        return call()
    except BrokerUnavailable as error:
        raise as_socket_error(error) from error


def _truth(value: object) -> bool:
    """A flag as callers pass it: a boolean, a number, or a text such as ``True``, ``0``, ``no``. Raises ValueError."""
    if isinstance(value, (bool, int, float)):
        return bool(value)
    try:
        return parse_boolean(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"value {value!r}: expected True or False") from None


def _check_at_rest(slots: Mapping[int, bytes]) -> None:
    """Nobody may use the lockspace; a host that cannot be read may."""
    stats, unreadable = read_slots(slots, ALL)
    flags = stats.pop(GLOBAL_SLOT, {})
    running = sorted(host_id for host_id, record in stats.items() if not record["stopped"])
    if unreadable:
        hosts = ", ".join(map(str, sorted(unreadable)))
        raise UnsafeError(f"the slots of the hosts {hosts} cannot be read: repair or clean them first")
    if stats and not flags.get("maintenance"):
        raise UnsafeError("the cluster is not in global maintenance: set it first")
    if running:
        raise UnsafeError(f"agents still run on the hosts {', '.join(map(str, running))}: stop them first")
