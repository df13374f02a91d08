"""What is mounted for each kind of file domain: source, options, and where. Computed alike on every host, and laid out
as oVirt does, so that its tools find the domain where they expect it."""

import posixpath
import re
from dataclasses import dataclass
from typing import Dict, FrozenSet, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError

NFS_KINDS = ("nfs", "nfs3", "nfs4")
MOUNTED_KINDS = (*NFS_KINDS, "glusterfs", "posixfs")

# Nothing on the domain is a program or a device.
_ALL = ("rw", "nosuid", "nodev", "noexec")
# soft: a server that is gone ends an access with an error, after tries of 10, 20 and 30 s; with "hard" a process would
# sleep in the kernel for as long as the server is away, unkillable, and so would QEMU, which must die when its lease is
# lost. nosharecache: two exports of one server do not share the fate of a session. retry=0: mount itself would try for
# 2 minutes; we try again, and can say why.
_NFS = ("soft", "nosharecache", "timeo=100", "retrans=3", "retry=0")
# Version 3 has a lock daemon beside it that must run on both sides. Nothing of ours uses its locks: sanlock's leases
# are written with direct I/O.
_NFS3 = ("nolock",)
_NFS_VERSION = re.compile(r"v?([34])(?:[._]([0-2]))?")

_OPTION = re.compile(r"[0-9A-Za-z_.,:=/@%+\[\]-]*")
_SOURCE = re.compile(r"[0-9A-Za-z_.,:/@%+\[\]-]{1,1024}")
_KIND = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,31}")
# Everything before the last colon in front of a slash: CephFS lists monitors with their ports there.
_REMOTE = re.compile(r"(?P<host>[^/]+):(?P<path>/?.*)")
_SERVER = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?\]|[0-9A-Za-z_.-]+(?:,[0-9A-Za-z_.-]+)*")
# password=, password2=, passwd=, passphrase=, secret=, pw=, and user=NAME%PASSWORD
_SECRET_OPTION = re.compile(r"(?:^|[^0-9a-z_])(?:\w*pass\w*|secret|pw)\s*=|(?:^|,)\s*user(?:name)?\s*=[^,]*%", re.I)
_SECRET_SOURCE = re.compile(r"(?:[a-z]+:)?/*[^/@\[]+:[^/@]*@", re.I)  # name:password@server
_READABLE = (
    "for every user of the host can read the arguments of mount: put it in a file that only root can read, and name "
)
_READABLE += "that in mnt_options (credentials=FILE, secretfile=FILE)"


@dataclass(frozen=True)
class MountPlan:
    """``kinds``: how the kernel may call the mounted file system. ``source`` is normalised."""

    source: str
    target: str
    type: str
    options: str
    kinds: FrozenSet[str]

    def is_of(self, kind: str) -> bool:
        return kind in self.kinds


def mount_plan(conf: HostedEngineConf, paths: HostPaths) -> MountPlan:
    """For domainType nfs, nfs3, nfs4, glusterfs, posixfs. Raises ConfigError."""
    try:
        return _plan(conf, paths)
    except ConfigError as error:
        raise ConfigError(paths.hosted_engine_conf, error.key, error.expected, error.found) from None


def _plan(conf: HostedEngineConf, paths: HostPaths) -> MountPlan:
    _check_texts(conf)
    kind, options = conf.domain_type, list(_ALL)
    root = paths.mount_root
    if kind in NFS_KINDS:
        source = _remote(conf.storage, rooted=True)
        options += [*_NFS, *_nfs_version(conf)]
        type_, kinds = "nfs", {"nfs", "nfs4"}
    elif kind == "glusterfs":
        source = _remote(conf.storage, rooted=False)
        root = root / "glusterSD"
        type_, kinds = "glusterfs", {"fuse.glusterfs"}
    else:
        source = _posix_source(conf.storage)
        type_ = _posix_type(conf)
        kinds = {type_, f"fuse.{type_}"} | ({"nfs", "nfs4"} if type_ == "nfs" else set())
    options += [part for part in conf.mnt_options.split(",") if part]
    return MountPlan(source, str(root / directory_name(source)), type_, ",".join(options), frozenset(kinds))


def directory_name(source: str) -> str:
    """``srv:/export/a_b`` lies in ``srv:_export_a__b``."""
    return source.replace("_", "__").replace("/", "_")


def normalized(source: str) -> str:
    """``server:/path`` without detours: no double slashes, no dots, none at the end. Anything else as a path."""
    found = _REMOTE.fullmatch(source)
    if found is None:
        return _plain_path(source)
    return f"{found.group('host')}:{_plain_path(found.group('path'))}"


def same_source(one: str, other: str) -> bool:
    """Whether both name the same export; the case of a host's name does not matter."""
    return _comparable(one) == _comparable(other)


def _comparable(source: str) -> Tuple[str, str]:
    found = _REMOTE.fullmatch(normalized(source))
    if found is None:
        return "", normalized(source)
    return found.group("host").lower(), found.group("path").lstrip("/")


def _plain_path(path: str) -> str:
    if not path:
        return ""
    plain = posixpath.normpath(path)
    return plain[1:] if plain.startswith("//") else plain  # POSIX lets two slashes at the beginning stand


def _remote(storage: str, rooted: bool) -> str:
    found = _REMOTE.fullmatch(storage)
    path = found.group("path") if found and _SERVER.fullmatch(found.group("host")) else ""
    if not path or (rooted and not path.startswith("/")):
        example = "server:/export/path" if rooted else "server:/volume"
        raise _refused("storage", f"{example} (an IPv6 address in brackets)", storage)
    return normalized(storage)


def _posix_source(storage: str) -> str:
    if not (storage.startswith("/") or _REMOTE.fullmatch(storage)):
        raise _refused("storage", "a device, or server:/path", storage)
    return normalized(storage)


def _posix_type(conf: HostedEngineConf) -> str:
    if not _KIND.fullmatch(conf.vfs_type):
        raise _refused("vfs_type", "the type of a file system such as cephfs, for domainType=posixfs", conf.vfs_type)
    return conf.vfs_type


def _nfs_version(conf: HostedEngineConf) -> Tuple[str, ...]:
    by_type: Dict[str, str] = {"nfs3": "v3", "nfs4": "v4"}
    wanted = by_type.get(conf.domain_type, conf.nfs_version)
    if wanted in ("auto", ""):
        return ()
    found = _NFS_VERSION.fullmatch(wanted)
    if found is None or (found.group(1) == "3" and found.group(2)):
        raise _refused("nfs_version", "auto, v3, v4, v4_0, v4_1 or v4_2", wanted)
    major, minor = found.groups()
    version = f"vers={major}" + (f".{minor}" if minor else "")
    return (version, *_NFS3) if major == "3" else (version,)


def _check_texts(conf: HostedEngineConf) -> None:
    """What goes to mount as an argument holds nothing that it could take for something else."""
    if _SECRET_SOURCE.match(conf.storage):
        raise ConfigError("", "storage", f"no password, {_READABLE}", "one")
    if conf.storage.startswith("-") or not _SOURCE.fullmatch(conf.storage):
        raise _refused("storage", "a source for mount, of letters, digits and _.,:/@%+[]-", conf.storage)
    if _SECRET_OPTION.search(conf.mnt_options):
        raise ConfigError("", "mnt_options", f"no password, {_READABLE}", "one")
    strange = _OPTION.sub("", conf.mnt_options)
    if strange:  # and that alone is shown: a password may be spelt in a way that nobody thought of
        raise _refused("mnt_options", "options for mount, of letters, digits and _.,:=/@%+[]-", strange)


def _refused(key: str, expected: str, found: str) -> ConfigError:
    """The file's name is filled in where it is known."""
    return ConfigError("", key, expected, repr(found[:80]))
