"""Reading and writing the configuration files.

A reader is tolerant of what does not matter (unknown keys, comments, lines without ``=``, repeated keys: the last one
counts, the text ``None``: unset) and strict about what does: the first missing or nonsensical value raises
:class:`ConfigError`. A writer never touches a file that does not parse, and replaces a file as a whole or not at all.
"""

import configparser
import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from ovirt_he_ha.config.schema import (
    AGENT_SECTIONS,
    BLANK_UUID,
    BROKER_SECTIONS,
    HA_KEYS,
    HOSTED_ENGINE_KEYS,
    PATTERN,
    Key,
    key_named,
)
from ovirt_he_ha.config.text import NOTHING, ConfigError, PathLike, atomic_write, lines_of, locked, read_text, shown
from ovirt_he_ha.core.model import ScoreConfig

__all__ = [
    "AgentConf",
    "BrokerConf",
    "ConfigError",
    "HaConf",
    "HostedEngineConf",
    "atomic_write",
    "check_hosted_engine_value",
    "hosted_engine_conf",
    "load_agent_conf",
    "load_broker_conf",
    "load_ha_conf",
    "load_hosted_engine_conf",
    "read_values",
    "save_ha_conf",
]


# --- what the files say ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HostedEngineConf:
    """``hosted-engine.conf``. An absent optional text is ``""``, an absent ``tcp_t_port`` None. ``values`` holds every
    key of the file as written."""

    fqdn: str
    vmid: str
    host_id: int
    sd_uuid: str
    domain_type: str
    vm_disk_id: str
    vm_disk_vol_id: str
    metadata_image_uuid: str
    metadata_volume_uuid: str
    lockspace_image_uuid: str
    lockspace_volume_uuid: str
    conf_image_uuid: str
    conf_volume_uuid: str
    bridge: str
    storage: str = ""
    sp_uuid: str = BLANK_UUID
    gateway: str = ""
    network_test: str = "ping"
    tcp_t_address: str = ""
    tcp_t_port: Optional[int] = None
    configured: bool = True
    conf: str = ""
    connection_uuid: str = ""
    nfs_version: str = "auto"
    mnt_options: str = ""
    vfs_type: str = ""
    vdsm_use_ssl: str = ""
    console: str = ""
    ca_cert: str = ""
    ca_subject: str = ""
    iqn: str = ""
    portal: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    port: str = ""
    iscsi_paths_blacklist: str = ""
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def own_volumes(self) -> Tuple[str, ...]:
        """What the hosts use themselves: no VM may have one as its disk."""
        return (self.metadata_volume_uuid, self.lockspace_volume_uuid, self.conf_volume_uuid)


@dataclass(frozen=True)
class HaConf:
    """``ha.conf``. ``maintenance`` is what counts: asked by an operator or through the engine. ``global_since``: when
    the cluster's maintenance was last asked on this host, in seconds since the epoch, 0 for never; ``global_reason``:
    with which words. The flag itself is on the shared volume."""

    local_maintenance: bool = False
    manual: bool = False
    reason: str = ""
    end_reason: str = ""
    global_reason: str = ""
    global_since: int = 0

    @property
    def maintenance(self) -> bool:
        return self.local_maintenance or self.manual


@dataclass(frozen=True)
class AgentConf:
    """``agent.conf``; the defaults are those of an absent file."""

    score: ScoreConfig = field(default_factory=ScoreConfig)
    migration_address: str = ""
    migration_uri: str = ""
    libvirt_uri: str = "qemu:///system"
    allow_unfenced: bool = False
    health_url: str = ""
    health_ca_file: str = ""
    recorder_kib: int = 2048
    extra_xml: str = ""
    allowed_elements: Tuple[str, ...] = ()


@dataclass(frozen=True)
class BrokerConf:
    """``broker.conf``. ``notify`` maps an event to the regular expression of what is mailed; ``smtp_timeout`` in
    seconds."""

    smtp_server: str = "localhost"
    smtp_port: int = 25
    smtp_timeout: int = 10
    smtp_starttls: bool = False
    smtp_user: str = ""
    smtp_password: str = field(default="", repr=False)
    source_email: str = "root@localhost"
    destination_emails: Tuple[str, ...] = ("root@localhost",)
    notify: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"state_transition": "maintenance|start|stop|up|down"})
    )


# --- key=value files -------------------------------------------------------------------------------------------------


def load_hosted_engine_conf(path: PathLike) -> HostedEngineConf:
    """Raises ConfigError: file missing, empty or unreadable; a required key absent; a value that does not fit its
    type; a spUUID of the 3.5 layout."""
    return hosted_engine_conf(path, read_values(path))


def hosted_engine_conf(path: PathLike, values: Mapping[str, str]) -> HostedEngineConf:
    """The same from values, which a file at ``path`` holds or is to hold. Raises ConfigError."""
    if not values:
        raise ConfigError(path, "", "lines of key=value, as written by hosted-engine --deploy", "no such line")
    parsed = {key.attribute: _value(path, key, values) for key in HOSTED_ENGINE_KEYS}
    conf = HostedEngineConf(values=MappingProxyType(dict(values)), **parsed)
    _check_hosted_engine(path, conf)
    return conf


def check_hosted_engine_value(path: PathLike, name: str, text: str) -> None:
    """That one key of hosted-engine.conf may have this value; a key that is not ours may have any. Raises
    ConfigError."""
    key = key_named(HOSTED_ENGINE_KEYS, name)
    if key is not None:
        _value(path, key, {name: text})


def _check_hosted_engine(path: PathLike, conf: HostedEngineConf) -> None:
    if conf.sp_uuid != BLANK_UUID:
        raise ConfigError(
            path,
            "spUUID",
            f"{BLANK_UUID} (any other value is the layout of oVirt 3.5, which is not converted in place: "
            "upgrade the host with oVirt 3.6 or deploy it again)",
            repr(conf.sp_uuid),
        )
    if conf.domain_type == "local" and not conf.storage.startswith("/"):
        raise ConfigError(path, "storage", "an absolute directory for domainType=local", shown(conf.storage))
    if conf.domain_type != "fc" and not conf.storage:
        raise ConfigError(path, "storage", f"where the storage of domainType={conf.domain_type} is", NOTHING)
    if conf.network_test == "ping" and not conf.gateway:
        raise ConfigError(path, "gateway", "the address that network_test=ping asks", NOTHING)
    if conf.network_test == "tcp" and not conf.tcp_t_address:
        raise ConfigError(path, "tcp_t_address", "the address that network_test=tcp connects to", NOTHING)
    if conf.network_test == "tcp" and conf.tcp_t_port is None:
        raise ConfigError(path, "tcp_t_port", "the port that network_test=tcp connects to", NOTHING)


def read_values(path: PathLike) -> Dict[str, str]:
    """The keys of a ``key=value`` file as they are written: no types, nothing required. Raises ConfigError if the file
    is missing, not a file, unreadable, larger than 1 MiB or not UTF-8."""
    values: Dict[str, str] = {}
    for line in lines_of(read_text(path)):
        pair = _pair(line)
        if pair:
            values[pair[0]] = pair[1]
    return values


def _pair(line: str) -> Optional[Tuple[str, str]]:
    if line.lstrip().startswith("#") or "=" not in line:
        return None
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _value(path: PathLike, key: Key, values: Mapping[str, str]) -> Any:
    text = values.get(key.name, "")
    if text in ("", "None"):
        if key.required:
            raise ConfigError(path, key.name, key.kind.expected, shown(text))
        return key.default
    return _parsed(path, key, text)


def _parsed(path: PathLike, key: Key, text: str) -> Any:
    try:
        return key.kind.parse(text)
    except ValueError:
        found = "something else (not shown)" if key.secret else shown(text)
        raise ConfigError(path, key.name, key.kind.expected, found) from None


def load_ha_conf(path: PathLike) -> HaConf:
    """A missing file or key is "not in maintenance": a host that nobody ever put into maintenance has none. Raises
    ConfigError for a file that cannot be read and for a value outside the grammar, an empty one included; to the
    caller that is *unknown*."""
    if not os.path.lexists(path):
        return HaConf()
    return _ha_conf(path, read_values(path))


def _ha_conf(path: PathLike, values: Mapping[str, str]) -> HaConf:
    found: Dict[str, Any] = {key.attribute: values.get(key.name, "") for key in HA_KEYS}
    for key in HA_KEYS[:2]:
        found[key.attribute] = bool(_parsed(path, key, values[key.name])) if key.name in values else False
    since = str(found["global_since"])  # nothing but a text hangs on it: what is no number refuses nothing
    found["global_since"] = int(since[:12]) if since.isascii() and since.isdigit() else 0
    return HaConf(**found)


def save_ha_conf(path: PathLike, **changes: Union[bool, int, str, None]) -> HaConf:
    """Change the fields of HaConf that are given and not None, keep every other line, comments and unknown keys
    included. Returns what the file now says.

    Writers exclude each other by a lock on the file (also against oVirt's own tools). Raises ConfigError if the
    present content does not parse (nothing is written then) or the lock is held for more than 5 s, OSError if the file
    cannot be written.
    """
    names = {key.attribute: key.name for key in HA_KEYS}
    wanted = {names[field]: " ".join(str(value).split()) for field, value in changes.items() if value is not None}
    lock = locked(path)
    try:
        text = read_text(path)
        _ha_conf(path, read_values(path))
        lines = _replaced(lines_of(text), wanted)
        atomic_write(path, ("\n".join(lines) + "\n").encode())
    finally:
        os.close(lock)
    return load_ha_conf(path)


def _replaced(lines: List[str], wanted: Mapping[str, str]) -> List[str]:
    """The last occurrence of a key is the one that counts, so that is the one to change."""
    result = list(lines)
    for name, value in wanted.items():
        places = [number for number, line in enumerate(result) if (_pair(line) or ("",))[0] == name]
        if places:
            result[places[-1]] = f"{name}={value}"
        else:
            result.append(f"{name}={value}")
    return result


# --- INI files -------------------------------------------------------------------------------------------------------


def load_agent_conf(path: PathLike) -> AgentConf:
    """A missing file, section or key gives the defaults. Raises ConfigError for an unknown section or key (a misspelt
    penalty would make this host's score differ from its peers'), and for a value that does not fit."""
    parser = _read_ini(path)
    parsed: Dict[str, Any] = {}
    _refuse_unknown(path, parser)
    for section, keys in AGENT_SECTIONS.items():
        for key in keys:
            parsed[key.attribute] = _ini_value(path, parser, section, key)
    score = ScoreConfig(**{key.attribute: parsed.pop(key.attribute) for key in AGENT_SECTIONS["score"]})
    if score.cpu_min >= score.cpu_max:
        raise ConfigError(
            path,
            "[score] cpu-load-penalty-min",
            f"less than cpu-load-penalty-max ({score.cpu_max:g})",
            f"{score.cpu_min:g}",
        )
    return AgentConf(score=score, **parsed)


def _refuse_unknown(path: PathLike, parser: configparser.RawConfigParser) -> None:
    for section in parser.sections():
        keys = AGENT_SECTIONS.get(section)
        if keys is None:
            raise ConfigError(
                path, f"[{section}]", "one of the sections " + ", ".join(AGENT_SECTIONS), "an unknown section"
            )
        for name in parser.options(section):
            if key_named(keys, name) is None:
                names = ", ".join(key.name for key in keys)
                raise ConfigError(path, f"[{section}] {name}", f"one of {names}", "an unknown key")


def load_broker_conf(path: PathLike) -> BrokerConf:
    """A missing file, section or key gives the defaults; unknown ones are left alone (every key of ``[notify]`` is an
    event). Raises ConfigError for a value that does not fit."""
    parser = _read_ini(path)
    email = {key.attribute: _ini_value(path, parser, "email", key) for key in BROKER_SECTIONS["email"]}
    receivers = tuple(part.strip() for part in str(email.pop("destination_emails")).split(",") if part.strip())
    notify = {key.name: str(_ini_value(path, parser, "notify", key)) for key in BROKER_SECTIONS["notify"]}
    if parser.has_section("notify"):
        for event, text in parser.items("notify"):
            notify[event] = str(_parsed(path, Key(f"[notify] {event}", event, PATTERN, ""), text))
    return BrokerConf(destination_emails=receivers, notify=MappingProxyType(notify), **email)


def _read_ini(path: PathLike) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, default_section="\0none")
    if not os.path.lexists(path):
        return parser
    text = read_text(path)
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(path, f"line {error.lineno}", "a [section] before the first key", shown(error.line)) from None
    except configparser.ParsingError as error:
        number, line = error.errors[0] if error.errors else (0, "")
        raise ConfigError(path, f"line {number}", "[section] or key=value", shown(_unquoted(line))) from None
    except (configparser.Error, AttributeError) as error:
        # AttributeError: a continuation line under a key without a value, before Python 3.13
        raise ConfigError(path, "", "sections of key=value lines", type(error).__name__) from None
    return parser


def _unquoted(line: str) -> str:
    """ParsingError keeps the repr of the line."""
    return line[1:-1].replace("\\n", "") if line[:1] in ("'", '"') else line


def _ini_value(path: PathLike, parser: configparser.RawConfigParser, section: str, key: Key) -> Any:
    text = parser.get(section, key.name, fallback="").strip()
    if text in ("", "None"):
        return key.default
    named = Key(f"[{section}] {key.name}", key.attribute, key.kind, key.meaning, secret=key.secret)
    return _parsed(path, named, text)
