"""Every configuration key: its type, what it is when absent, and what it means."""

import math
import re
import socket
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Tuple

from ovirt_he_ha.core.model import MAX_HOST_ID

BLANK_UUID = "00000000-0000-0000-0000-000000000000"
DOMAIN_TYPES = ("local", "nfs", "nfs3", "nfs4", "glusterfs", "posixfs", "iscsi", "fc")
NETWORK_TESTS = ("ping", "dns", "tcp", "none")

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HOST = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_.-]{0,252}[0-9A-Za-z_.])?")
_ADDRESS = re.compile(r"[0-9A-Za-z_:\[][0-9A-Za-z_.:%\[\]-]{0,254}")
_ELEMENT = re.compile(r"(devices/|os/)?[A-Za-z][A-Za-z0-9_-]{0,60}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,10}")


@dataclass(frozen=True)
class Kind:
    """How a value is read. ``parse`` raises ValueError; ``expected`` completes the sentence "expected ..."."""

    expected: str
    parse: Callable[[str], Any]


@dataclass(frozen=True)
class Key:
    """``default`` is the value of an absent key, unless ``required``. ``secret``: never shown in an error or a log."""

    name: str
    attribute: str
    kind: Kind
    meaning: str
    default: Any = ""
    required: bool = False
    secret: bool = False


# --- kinds -----------------------------------------------------------------------------------------------------------


def _matching(pattern: "re.Pattern[str]") -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return parse


def _whole_from(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def whole(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low} to {high}", _whole_from(low, high))


def size_kib(low: int, high: int) -> Kind:
    """Whole KiB, or 0: none at all."""

    def parse(text: str) -> int:
        value = _whole_from(0, high)(text)
        if 0 < value < low:
            raise ValueError(text)
        return value

    return Kind(f"0, or a whole number from {low} to {high}", parse)


def share() -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not 0.0 <= value <= 1.0:
            raise ValueError(text)
        return value

    return Kind("a number from 0.0 to 1.0", parse)


def one_of(*values: str) -> Kind:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return Kind("one of " + ", ".join(values), parse)


def parse_boolean(text: str) -> bool:
    """The grammar of ``ha.conf``: the first letter decides, in either case: t, y, 1 or f, n, 0. Raises ValueError for
    anything else, the empty text and ``on``/``off`` included. An absent key is the text ``None`` there, hence
    false."""
    first = text[:1].lower()
    if first and first in "ty1":
        return True
    if first and first in "fn0":
        return False
    raise ValueError(text)


def _host(text: str) -> str:
    """An IPv6 address without its brackets: an oVirt host needs them in this place, to make a URL of it. A zone would
    be another one on each host."""
    if ":" in text:
        bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
        try:
            socket.inet_pton(socket.AF_INET6, bare)
        except OSError as error:
            raise ValueError(text) from error
        return bare
    if not _HOST.fullmatch(text):
        raise ValueError(text)
    return text


def _exactly_true(text: str) -> bool:
    return text == "True"


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(text) from error
    return text


def _elements(text: str) -> Tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(_ELEMENT.fullmatch(name) for name in names):
        raise ValueError(text)
    return names


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(text)
    return text


TEXT = Kind("text", str)
UUID = Kind("a UUID (8-4-4-4-12 hexadecimal digits)", _matching(_UUID))
HOST = Kind("a host name or an address", _host)
ADDRESS = Kind("an address or a host name", _matching(_ADDRESS))
PORT = whole(1, 65535)
BOOLEAN = Kind("a truth value: true, yes, 1 or false, no, 0", parse_boolean)
ABSOLUTE = Kind("an absolute path", _absolute)
URI = Kind("a libvirt URI such as qemu:///system", _matching(re.compile(r"[a-z]+(\+[a-z0-9]+)?:[!-~]+")))
PEER_URI = Kind(
    "a libvirt URI with a host such as qemu+tls://host/system",
    _matching(re.compile(r"qemu(\+(tcp|tls|ssh))?://[^/@?#\s]+/system")),
)
URL = Kind("an http:// or https:// address", _matching(re.compile(r"https?://[!-~]+")))
PATTERN = Kind("a regular expression", _regular_expression)
ELEMENTS = Kind("names of libvirt elements such as memoryBacking, devices/hostdev", _elements)
ANY_TRUE = Kind("True", _exactly_true)


# --- hosted-engine.conf ----------------------------------------------------------------------------------------------

HOSTED_ENGINE_KEYS: Tuple[Key, ...] = (
    Key("fqdn", "fqdn", HOST, "host name or address of the engine, asked for its health page", required=True),
    Key("vmid", "vmid", UUID, "UUID of the engine VM", required=True),
    Key(
        "host_id",
        "host_id",
        whole(1, MAX_HOST_ID),
        "this host's id; the only value that differs between hosts",
        0,
        True,
    ),
    Key("sdUUID", "sd_uuid", UUID, "storage domain", required=True),
    Key("spUUID", "sp_uuid", UUID, "must be the blank UUID", BLANK_UUID),
    Key("domainType", "domain_type", one_of(*DOMAIN_TYPES), "how the storage domain is reached", required=True),
    Key("storage", "storage", TEXT, "server:/path, portals, or for local the directory that all hosts share"),
    Key("vm_disk_id", "vm_disk_id", UUID, "image of the engine's disk", required=True),
    Key(
        "vm_disk_vol_id", "vm_disk_vol_id", UUID, "volume of the engine's disk, and the key of its lease", required=True
    ),
    Key("metadata_image_UUID", "metadata_image_uuid", UUID, "image of the whiteboard", required=True),
    Key("metadata_volume_UUID", "metadata_volume_uuid", UUID, "volume of the whiteboard", required=True),
    Key("lockspace_image_UUID", "lockspace_image_uuid", UUID, "image of the lockspace hosted-engine", required=True),
    Key("lockspace_volume_UUID", "lockspace_volume_uuid", UUID, "volume of the lockspace hosted-engine", required=True),
    Key("conf_image_UUID", "conf_image_uuid", UUID, "image of the configuration archive", required=True),
    Key("conf_volume_UUID", "conf_volume_uuid", UUID, "volume of the configuration archive", required=True),
    Key("bridge", "bridge", TEXT, "management bridge", required=True),
    Key("gateway", "gateway", ADDRESS, "target of the ping test; required for network_test=ping"),
    Key("network_test", "network_test", one_of(*NETWORK_TESTS), "how the management network is tested", "ping"),
    Key("tcp_t_address", "tcp_t_address", ADDRESS, "target of the tcp test"),
    Key("tcp_t_port", "tcp_t_port", PORT, "port of the tcp test", None),
    Key("configured", "configured", ANY_TRUE, "absent or exactly True: the agent may run", True),
    Key("conf", "conf", ABSOLUTE, "where the effective vm.conf lies"),
    Key("connectionUUID", "connection_uuid", TEXT, "storage connection"),
    Key("nfs_version", "nfs_version", TEXT, "auto, v3, v4 or v4_1; for type nfs only", "auto"),
    Key("mnt_options", "mnt_options", TEXT, "extra mount options"),
    Key("vfs_type", "vfs_type", TEXT, "type of the file system; for type posixfs only"),
    Key("vdsm_use_ssl", "vdsm_use_ssl", TEXT, "not used here"),
    Key("console", "console", TEXT, "console type"),
    Key("ca_cert", "ca_cert", TEXT, "not used here"),
    Key("ca_subject", "ca_subject", TEXT, "not used here"),
    Key("iqn", "iqn", TEXT, "iSCSI target"),
    Key("portal", "portal", TEXT, "iSCSI portal group"),
    Key("user", "user", TEXT, "iSCSI user"),
    Key("password", "password", TEXT, "iSCSI password", secret=True),
    Key("port", "port", TEXT, "iSCSI port"),
    Key("iscsi_paths_blacklist", "iscsi_paths_blacklist", TEXT, "interface<>portal pairs that are not used"),
)


# --- ha.conf ---------------------------------------------------------------------------------------------------------

HA_KEYS: Tuple[Key, ...] = (
    Key("local_maintenance", "local_maintenance", BOOLEAN, "maintenance asked through the engine", False),
    Key("local_maintenance_manual", "manual", BOOLEAN, "maintenance asked by an operator", False),
    Key("local_maintenance_reason", "reason", TEXT, "why, in the words of who asked"),
    Key("maintenance_end_reason", "end_reason", TEXT, "why it was ended, in the words of who did"),
    Key("global_maintenance_reason", "global_reason", TEXT, "why the cluster's was asked on this host"),
    Key("global_maintenance_since", "global_since", TEXT, "when, in seconds since the epoch"),
)


# --- agent.conf and broker.conf: section -> keys ---------------------------------------------------------------------

_POINTS = whole(0, 1_000_000)

AGENT_SECTIONS: Mapping[str, Tuple[Key, ...]] = {
    "score": (
        Key("base-score", "base_score", _POINTS, "score of a host without a penalty", 3400),
        Key("network-score-penalty", "network_penalty", _POINTS, "all network probes failed", 1600),
        Key(
            "not-uptodate-config-penalty", "not_uptodate_penalty", _POINTS, "configuration not on shared storage", 1000
        ),
        Key("mgmt-bridge-score-penalty", "bridge_penalty", _POINTS, "management bridge down", 600),
        Key("free-memory-score-penalty", "memory_penalty", _POINTS, "not enough free memory for the engine", 400),
        Key("cpu-load-score-penalty", "cpu_penalty", _POINTS, "load at or above the upper threshold", 1000),
        Key("engine-retry-score-penalty", "retry_penalty", _POINTS, "each failed start", 50),
        Key("cpu-load-penalty-min", "cpu_min", share(), "load where the penalty begins", 0.4),
        Key("cpu-load-penalty-max", "cpu_max", share(), "load where the penalty is complete", 0.9),
    ),
    "migration": (
        Key("address", "migration_address", ADDRESS, "where peers send the VM; empty: this host receives none"),
        Key("uri", "migration_uri", PEER_URI, "libvirt URI by which peers reach this host, instead of the address"),
    ),
    "libvirt": (Key("uri", "libvirt_uri", URI, "this host's libvirt", "qemu:///system"),),
    "fencing": (Key("allow-unfenced", "allow_unfenced", BOOLEAN, "run the VM without an armed watchdog", False),),
    "health": (
        Key("url", "health_url", URL, "health page; empty: http://<fqdn>/ovirt-engine/services/health"),
        Key("ca-file", "health_ca_file", ABSOLUTE, "certificate authorities for an https page, PEM"),
    ),
    "definition": (
        Key("extra-xml", "extra_xml", ABSOLUTE, "file with libvirt elements that are added to the VM's definition"),
        Key("allowed-elements", "allowed_elements", ELEMENTS, "which elements that file and --vm-conf may bring", ()),
    ),
    "recorder": (
        Key("size-kib", "recorder_kib", size_kib(256, 262144), "size of the recording of cycles; 0: none", 2048),
    ),
}

BROKER_SECTIONS: Mapping[str, Tuple[Key, ...]] = {
    "email": (
        Key("smtp-server", "smtp_server", ADDRESS, "mail server", "localhost"),
        Key("smtp-port", "smtp_port", PORT, "its port", 25),
        Key(
            "smtp-timeout",
            "smtp_timeout",
            whole(1, 600),
            "seconds until a mail server that does not answer is given up",
            10,
        ),
        Key("smtp-starttls", "smtp_starttls", BOOLEAN, "encrypt the dialogue; a server that cannot is an error", False),
        Key("smtp-user", "smtp_user", TEXT, "log in with this name; empty: without"),
        Key("smtp-password", "smtp_password", TEXT, "password of smtp-user", secret=True),
        Key("source-email", "source_email", TEXT, "sender", "root@localhost"),
        Key("destination-emails", "destination_emails", TEXT, "receivers, separated by commas", "root@localhost"),
    ),
    "notify": (
        Key(
            "state_transition",
            "state_transition",
            PATTERN,
            "which state changes are mailed",
            "maintenance|start|stop|up|down",
        ),
    ),
}


def key_named(keys: Tuple[Key, ...], name: str) -> Optional[Key]:
    return next((key for key in keys if key.name == name), None)
