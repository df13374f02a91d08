"""What a lab consists of and where its files are: the plan that every part of it reads.

The plan is a JSON file in the lab's directory. Everything the lab makes is below that directory, or inside namespaces
that end with the lab's first process (the keeper).
"""

import ipaddress
import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

ENV_DIRECTORY = "HE_LAB_DIR"
DEFAULT_DIRECTORY = "/var/lib/he-lab"
# A Unix socket's path may have 107 bytes; the longest of ours below the directory has 60. wdmd cuts its device's path
# after 63; ours has 13.
MAX_DIRECTORY = 45
MAX_HOSTS = 20
DEFAULT_HOSTS = 3
DEFAULT_SCALE = 10.0
MAX_SCALE = 20.0
ENGINE_FQDN = "engine.he.lab"
ENGINE_NAME = "HostedEngine"
BRIDGE = "ovirtmgmt"
LIBVIRT_TCP_PORT = 16509
# vdsm:kvm of oVirt, by number: the names are made inside the lab's own view of /etc.
DAEMON_UID = 36
DAEMON_GID = 36
QEMU_UID = 107


class LabError(Exception):
    """A lab operation that could not be done. ``str()`` is one line for the operator."""


class UnfitDirectory(LabError):
    def __init__(self, directory: str, why: str) -> None:
        self.directory = directory
        super().__init__(f"{directory} cannot hold a lab: {why}. Choose another with --dir or {ENV_DIRECTORY}.")


class NoLab(LabError):
    def __init__(self, directory: str) -> None:
        self.directory = directory
        super().__init__(f"There is no lab in {directory}: `he-lab up` makes one, --dir names another directory.")


class NoSuchHost(LabError):
    def __init__(self, host_id: int, hosts: int) -> None:
        self.host_id = host_id
        super().__init__(f"The lab has no host {host_id}: its hosts are 1 to {hosts}.")


def _new() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Volumes:
    """Image and volume UUIDs of one shared volume."""

    image: str = field(default_factory=_new)
    volume: str = field(default_factory=_new)


@dataclass(frozen=True)
class Identity:
    """The UUIDs of the cluster; new ones for every lab."""

    vm: str = field(default_factory=_new)
    domain: str = field(default_factory=_new)
    connection: str = field(default_factory=_new)
    disk: Volumes = field(default_factory=Volumes)
    metadata: Volumes = field(default_factory=Volumes)
    lockspace: Volumes = field(default_factory=Volumes)
    configuration: Volumes = field(default_factory=Volumes)


@dataclass(frozen=True)
class Lab:
    """``scale``: product seconds per wall second. ``management`` and ``second`` are /24 networks; ``daemons`` False:
    hosts have libvirtd and sanlock only. ``interpreter`` is the Python of the lab's processes, ``venv`` its
    environment or empty."""

    directory: str
    hosts: int
    scale: float
    management: str
    second: str
    interpreter: str
    venv: str
    daemons: bool = True
    boot_delay: float = 0.0
    identity: Identity = field(default_factory=Identity)

    @property
    def root(self) -> Path:
        return Path(self.directory)

    @property
    def control(self) -> Path:
        return self.root / "keeper.sock"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def observations(self) -> Path:
        return self.root / "observer.jsonl"

    @property
    def appliance(self) -> Path:
        return self.root / "appliance"

    @property
    def source(self) -> Path:
        return self.root / "src"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def native(self) -> Path:
        """What the lab compiled."""
        return self.root / "native"

    @property
    def watchdog_library(self) -> Path:
        return self.native / "watchdog_device.so"

    @property
    def view_program(self) -> Path:
        return self.native / "storage_view"

    @property
    def connections(self) -> Path:
        """The kernel's FUSE connections, in the keeper's mount namespace."""
        return self.root / "fusectl"

    @property
    def views(self) -> Path:
        return self.root / "views"

    @property
    def host_ids(self) -> List[int]:
        return list(range(1, self.hosts + 1))

    @property
    def gateway(self) -> str:
        return _address(self.management, 254)

    @property
    def engine_address(self) -> str:
        return _address(self.management, 100)

    @property
    def health_url(self) -> str:
        return f"http://{self.engine_address}/ovirt-engine/services/health"

    def host(self, host_id: int) -> "LabHost":
        if not 1 <= host_id <= self.hosts:
            raise NoSuchHost(host_id, self.hosts)
        return LabHost(self, host_id)

    def volume_path(self, volumes: Volumes) -> Path:
        return self.storage / self.identity.domain / "images" / volumes.image / volumes.volume

    @property
    def lease_path(self) -> Path:
        """The sanlock resource that guards the VM lies beside its disk."""
        disk = self.volume_path(self.identity.disk)
        return disk.with_name(disk.name + ".lease")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "Lab":
        ids = dict(data["identity"])
        for name in ("disk", "metadata", "lockspace", "configuration"):
            ids[name] = Volumes(**ids[name])
        return cls(**{**data, "identity": Identity(**ids)})


@dataclass(frozen=True)
class LabHost:
    """One host: its names, addresses and directories."""

    lab: Lab
    host_id: int

    @property
    def name(self) -> str:
        return f"h{self.host_id}"

    @property
    def hostname(self) -> str:
        return f"{self.name}.he.lab"

    @property
    def address(self) -> str:
        return _address(self.lab.management, self.host_id)

    @property
    def second_address(self) -> str:
        return _address(self.lab.second, self.host_id)

    @property
    def directory(self) -> Path:
        return self.lab.root / self.name

    @property
    def product_root(self) -> Path:
        """``OVIRT_HE_ROOT`` of this host's daemons."""
        return self.directory / "root"

    @property
    def run(self) -> Path:
        """The host's /run."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        """The host's /var/log."""
        return self.directory / "log"

    @property
    def control(self) -> Path:
        return self.run / "he-lab.sock"

    @property
    def view(self) -> Path:
        """Where its view of the storage is mounted outside of it; inside it lies over ``Lab.storage``."""
        return self.lab.views / self.name

    @property
    def watchdog(self) -> Path:
        return self.directory / "watchdog"

    @property
    def no_watchdog(self) -> Path:
        """Exists when the host shall have none from its next power-on."""
        return self.directory / "no-watchdog"

    @property
    def namespace_file(self) -> Path:
        """Holds the name of the host's PID namespace while it is powered on."""
        return self.directory / "pid-namespace"

    def mac(self, network: int) -> str:
        """``network``: 0 management, 1 second. Locally administered."""
        return f"02:4e:{network:02x}:00:00:{self.host_id:02x}"


def _address(network: str, number: int) -> str:
    return str(ipaddress.ip_network(network)[number])


def directory_from(option: Optional[str]) -> str:
    """The lab's directory: the option, else ``HE_LAB_DIR``, else the default; resolved. Raises UnfitDirectory."""
    directory = os.path.realpath(option or os.environ.get(ENV_DIRECTORY) or DEFAULT_DIRECTORY)
    if len(directory) > MAX_DIRECTORY:
        raise UnfitDirectory(directory, f"its path has {len(directory)} characters, sockets allow {MAX_DIRECTORY}")
    for taken in ("/run", "/proc", "/sys", "/dev", "/var/log", "/var/lib/libvirt", "/var/cache/libvirt", "/etc"):
        if directory == "/" or (directory + "/").startswith(taken + "/"):
            raise UnfitDirectory(directory, "every host of the lab mounts its own over it")
    return directory
