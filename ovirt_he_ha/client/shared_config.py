"""Keys of the configuration by type: this host's files, and those that all hosts share in the configuration volume.

Types: ``he_local`` this host's hosted-engine.conf · ``he_shared`` the copy in the configuration volume, a template
for hosts that are deployed later · ``ha`` ha.conf · ``broker`` broker.conf in the configuration volume, keys as
``section.option``.
"""

import configparser
import io
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.client.archive_lock import ArchiveLock, only_ours
from ovirt_he_ha.client.bounded_volume import BoundedVolume
from ovirt_he_ha.config.files import (
    HostedEngineConf,
    atomic_write,
    check_hosted_engine_value,
    hosted_engine_conf,
    load_broker_conf,
    load_hosted_engine_conf,
    read_values,
    save_ha_conf,
)
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.schema import parse_boolean
from ovirt_he_ha.config.text import ConfigError, lines_of, read_text
from ovirt_he_ha.storage.archive import ArchiveError, read_archive, restore_previous, write_archive
from ovirt_he_ha.storage.domain_place import domain_of

HE_LOCAL, HE_SHARED, HA, BROKER, VM = "he_local", "he_shared", "ha", "broker", "vm"
WRITABLE = (BROKER, HA, HE_LOCAL, HE_SHARED)
ON_STORAGE = (BROKER, HE_SHARED)
OPTIONAL = ("iscsi_paths_blacklist", "network_test", "tcp_t_address", "tcp_t_port")
HA_FLAGS = ("local_maintenance", "local_maintenance_manual")
DEADLINE = 20.0  # wall seconds of a call, all accesses to the storage together
# wall seconds; longer than a host that takes no lock (oVirt's own tools) needs from its comparison to its write
SETTLE = 1.0
_DEFAULT_SECTION = "default"


class SharedConfigError(Exception):
    """``code``: ``ambiguous`` the key is in several types, ``read-only``, ``unknown-type`` or ``value``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class SharedConfig:
    """Reads anew at every call, and keeps no file or process open after it. Each call ends within ``seconds`` (wall),
    whatever the storage does: it is accessed by a process of its own. Storage errors come out as ArchiveError, files as
    ConfigError."""

    def __init__(self, paths: HostPaths, seconds: float = DEADLINE) -> None:
        self._paths = paths
        self._seconds = seconds

    def get(self, key: str, kind: Optional[str] = None) -> List[str]:
        """``[value, type]``. Raises KeyError for an unknown key, SharedConfigError, ConfigError, ArchiveError."""
        with _Call(self._paths, self._seconds) as call:
            return call.get(key, kind)

    def set(self, key: str, value: str, kind: Optional[str] = None) -> None:
        """Hosts that change the archive in the same moment wait for each other. Raises KeyError, SharedConfigError,
        ConfigError, OSError for this host's files, ArchiveError: a code that begins with ``lock-`` when it is not
        known who else may change it (sanlock or this host's broker is away), ``changed`` when a host that takes no
        lock was faster, ``late-write`` when the storage did not answer and the change may still arrive."""
        if not isinstance(value, str) or "\0" in value or value.splitlines() not in ([], [value]):
            raise SharedConfigError("value", f"{key}: expected one line of text")
        with _Call(self._paths, self._seconds) as call:
            call.set(key, value, kind)

    def restore(self, force: bool = False) -> Tuple[str, ...]:
        """Put the configuration volume back as it was before the last change (the whole archive, with ``vm.conf``):
        the names of the members that differ now. A second call undoes the first. Waits for other hosts, and raises,
        like ``set``; ArchiveError ``no-copy`` and ``superseded`` too, the latter not with ``force``."""
        with _Call(self._paths, self._seconds) as call:
            return call.restore(force)

    def write_all(self, members: Mapping[str, bytes], force: bool = False) -> None:
        """The whole archive, where it was lost. Waits for other hosts, and raises, like ``set``; ArchiveError
        ``not-an-archive`` too, where the volume holds something else, but not with ``force``."""
        with _Call(self._paths, self._seconds) as call:
            call.write_all(members, force)

    def keys(self, kind: Optional[str] = None) -> Dict[str, List[str]]:
        """``{type: keys}``, the optional ones included; nothing for the read-only type. Raises SharedConfigError,
        ConfigError, ArchiveError."""
        if kind is not None and kind != VM:
            _check_type(kind)
        with _Call(self._paths, self._seconds) as call:
            return call.keys(kind)


class _Call:
    """What one call sees: the archive is read once, so that its answers fit together."""

    def __init__(self, paths: HostPaths, seconds: float) -> None:
        self._paths = paths
        self._seconds = seconds
        self._volume: Optional[BoundedVolume] = None
        self._lock: Optional[ArchiveLock] = None
        self._members: Optional[Dict[str, bytes]] = None
        self._writing = False  # from here on something may have been written
        self._values: Dict[str, Callable[[], Dict[str, str]]] = {
            HE_LOCAL: lambda: read_values(paths.hosted_engine_conf),
            HA: self._ha_values,
            HE_SHARED: lambda: _pairs(str(self._archive()["hosted-engine.conf"], "utf-8", "replace")),
            BROKER: lambda: _options(self._volume_path(), str(self._archive()["broker.conf"], "utf-8", "replace")),
        }

    def __enter__(self) -> "_Call":
        return self

    def __exit__(self, *exc: object) -> None:
        late_writers = self._volume.late_writers() if self._volume is not None else ()
        try:
            if self._lock is not None:
                self._lock.release(late_writers)
        finally:
            if self._volume is not None:
                self._volume.__exit__(*exc)

    def get(self, key: str, kind: Optional[str]) -> List[str]:
        found = self._type_of(key, kind)
        return [self._values[found]().get(_named(found, key), ""), found]

    def set(self, key: str, value: str, kind: Optional[str]) -> None:
        if kind is None or kind in ON_STORAGE:
            self._lock = ArchiveLock(self._conf(), self._opened(), self._seconds / 2)
        found = self._type_of(key, kind)
        setters = {HE_LOCAL: self._set_local, HA: self._set_ha, HE_SHARED: self._set_shared, BROKER: self._set_broker}
        if found not in ON_STORAGE:
            setters[found](_named(found, key), value)
            return
        assert self._lock is not None
        self._lock.enter()
        try:
            # With what was read while the lock was waited for: the write compares it once more with the volume.
            setters[found](_named(found, key), value)
        except ArchiveError as error:
            if error.code != "changed" or self._writing:
                raise
            self._members = None
            setters[found](_named(found, key), value)

    def restore(self, force: bool) -> Tuple[str, ...]:
        self._lock = ArchiveLock(self._conf(), self._opened(), self._seconds / 2)
        self._enter()
        before, after = restore_previous(self._opened(), self._lock.check, force)
        differing = tuple(name for name in sorted(after) if before.get(name) != after[name])
        if "broker.conf" in differing:
            atomic_write(self._paths.broker_conf, after["broker.conf"])
        return differing

    def write_all(self, members: Mapping[str, bytes], force: bool) -> None:
        self._lock = ArchiveLock(self._conf(), self._opened(), self._seconds / 2)
        self._enter()
        write_archive(self._opened(), members, force=force, still=self._lock.check)

    def _enter(self) -> None:
        """From here on nobody else changes the archive: what was read before is read again."""
        assert self._lock is not None
        self._lock.enter()
        self._members = None

    def keys(self, kind: Optional[str] = None) -> Dict[str, List[str]]:
        kinds = WRITABLE if kind is None else (kind,)
        return {each: self._keys(each) for each in kinds if each in WRITABLE}

    def _keys(self, kind: str) -> List[str]:
        optional = OPTIONAL if kind in (HE_LOCAL, HE_SHARED) else ()
        return sorted({*self._values[kind](), *optional})

    def _type_of(self, key: str, kind: Optional[str]) -> str:
        if kind == VM:
            raise SharedConfigError("read-only", f"{kind} is read-only; writable are {', '.join(WRITABLE)}")
        if kind is not None:
            _check_type(kind)
        candidates = [each for each, keys in self.keys(kind).items() if _named(each, key) in keys]
        if not candidates:
            raise KeyError(f"{key}: no such key" + (f" in {kind}" if kind else ""))
        if len(candidates) > 1:
            raise SharedConfigError("ambiguous", f"{key} is in {', '.join(candidates)}: name the type")
        return candidates[0]

    def _ha_values(self) -> Dict[str, str]:
        """A host that never was in maintenance has no file yet."""
        values = dict.fromkeys(HA_FLAGS, "False")
        if self._paths.ha_conf.exists():
            values.update(read_values(self._paths.ha_conf))
        return values

    # --- writing --------------------------------------------------------------------------------------------------

    def _set_local(self, key: str, value: str) -> None:
        """A file that was whole stays whole; one that was not may be mended key by key."""
        path = self._paths.hosted_engine_conf
        before = read_text(path)
        after = replaced(before, key, value)
        check_hosted_engine_value(path, key, value)
        if _is_whole(path, before):
            hosted_engine_conf(path, _pairs(after))
        atomic_write(path, after.encode())

    def _set_ha(self, key: str, value: str) -> None:
        if key not in HA_FLAGS:
            raise SharedConfigError("value", f"{key}: only {' and '.join(HA_FLAGS)} are set here")
        try:
            flag = parse_boolean(value)
        except ValueError:
            raise SharedConfigError("value", f"{key}: expected True or False, found {value[:40]!r}") from None
        save_ha_conf(self._paths.ha_conf, **{"manual" if key.endswith("manual") else key: flag})

    def _set_shared(self, key: str, value: str) -> None:
        check_hosted_engine_value(f"{self._volume_path()}: hosted-engine.conf", key, value)
        members = self._archive()
        text = self._editable("hosted-engine.conf")
        self._store(members, "hosted-engine.conf", replaced(text, key, value))

    def _set_broker(self, key: str, value: str) -> None:
        members = self._archive()
        parser = _parser(self._volume_path(), self._editable("broker.conf"))
        section, _, option = key.partition(".")
        parser.set(section, option, value)
        out = io.StringIO()
        parser.write(out, space_around_delimiters=False)
        text = out.getvalue()
        check_broker_conf(self._paths.broker_conf, text)
        self._store(members, "broker.conf", text)
        atomic_write(self._paths.broker_conf, text.encode())

    def _store(self, members: Mapping[str, bytes], name: str, text: str) -> None:
        lock = self._lock
        assert lock is not None
        settle = SETTLE if lock.fresh or not only_ours(self._paths) else 0.0
        changed = {**members, name: text.encode()}

        def still() -> None:
            lock.check()
            self._writing = True

        write_archive(self._opened(), changed, previous=members, settle=settle, still=still)

    def _archive(self) -> Dict[str, bytes]:
        if self._members is None:
            self._members = read_archive(self._opened())
        return self._members

    def _editable(self, name: str) -> str:
        """Text that can be written back without loss."""
        try:
            return str(self._archive()[name], "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._volume_path()}: {name}", "", "text in UTF-8", "other bytes") from error

    def _opened(self) -> BoundedVolume:
        if self._volume is None:
            self._volume = BoundedVolume(self._volume_path(), self._seconds)
        return self._volume

    def _conf(self) -> HostedEngineConf:
        return load_hosted_engine_conf(self._paths.hosted_engine_conf)

    def _volume_path(self) -> str:
        conf = self._conf()
        return domain_of(conf).volume_path(conf.conf_image_uuid, conf.conf_volume_uuid)


def _check_type(kind: str) -> None:
    if kind not in WRITABLE:
        raise SharedConfigError("unknown-type", f"type {kind[:40]!r}: expected one of {', '.join(WRITABLE)}")


def _is_whole(path: Path, text: str) -> bool:
    try:
        hosted_engine_conf(path, _pairs(text))
    except ConfigError:
        return False
    return True


def check_broker_conf(name: Path, text: str) -> None:
    """Raises ConfigError for a value that the broker would not take; nothing is stored then."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / name.name
        copy.write_text(text)
        try:
            load_broker_conf(copy)
        except ConfigError as error:
            raise ConfigError(name, error.key, error.expected, error.found) from None


def _named(kind: str, key: str) -> str:
    return key if kind != BROKER or "." in key else f"{_DEFAULT_SECTION}.{key}"


def _pairs(text: str) -> Dict[str, str]:
    values = {}
    for line in lines_of(text):
        key, sign, value = line.partition("=")
        if sign and not line.lstrip().startswith("#"):
            values[key.strip()] = value.strip()
    return values


def _parser(volume: str, text: str) -> configparser.RawConfigParser:
    """The text comes from the storage: whatever is in it, the caller gets one of our own errors."""
    parser = configparser.RawConfigParser(strict=False, default_section="\0none")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        detail = str(error).splitlines()[0]
        raise ConfigError(f"{volume}: broker.conf", "", "sections with lines of option=value", detail) from error
    return parser


def _options(volume: str, text: str) -> Dict[str, str]:
    parser = _parser(volume, text)
    return {f"{section}.{key}": value for section in parser.sections() for key, value in parser.items(section)}


def replaced(text: str, key: str, value: str) -> str:
    """``text`` with the last line of ``key`` replaced, which is the one that counts, or the key appended."""
    lines = lines_of(text)
    places = [n for n, line in enumerate(lines) if _pairs(line).keys() == {key}]
    if places:
        lines[places[-1]] = f"{key}={value}"
    else:
        lines.append(f"{key}={value}")
    return "\n".join(lines) + "\n"
