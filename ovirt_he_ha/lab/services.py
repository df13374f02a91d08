"""The processes of one host: command lines, environments, and the files that configure libvirtd and sanlock."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Tuple

from ovirt_he_ha.lab import watchdog
from ovirt_he_ha.lab.layout import DAEMON_GID, DAEMON_UID, LIBVIRT_TCP_PORT, QEMU_UID, LabHost

INSIDE = Path("/run/he-lab")  # in a host: what its processes need of the lab
VENV = INSIDE / "venv"
COMMANDS = INSIDE / "bin"
SANLOCK_RUN = "/run/sanlock"
SANLOCK_SOCKET = Path(SANLOCK_RUN) / "sanlock.sock"
WDMD = "/usr/sbin/wdmd"
WDMD_RUN = "/run/wdmd"
WDMD_SOCKET = Path(WDMD_RUN) / "wdmd.sock"
LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock")
RESTART_DELAY = 2.0  # wall seconds, as the units do
# Environment= of the units: what the daemons take of memory here is what they take there.
BROKER_HEAP = {"MALLOC_ARENA_MAX": "1"}
AGENT_HEAP = {**BROKER_HEAP, "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class Service:
    """One supervised process."""

    name: str
    argv: Tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def environment(host: LabHost) -> Dict[str, str]:
    """What every process of the host gets, `he-lab exec` included."""
    env = {
        "PATH": f"{COMMANDS}:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/run",
        "PYTHONPATH": str(host.lab.source),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OVIRT_HE_ROOT": str(host.product_root),
        "HE_TIME_SCALE": f"{host.lab.scale:g}",
        "SANLOCK_RUN_DIR": SANLOCK_RUN,
        "SANLOCK_PRIVILEGED": "0",
    }
    for name in ("COVERAGE_PROCESS_START", "HE_COVERAGE_DIR"):
        if name in os.environ:
            env[name] = os.environ[name]
    return env


def python(host: LabHost) -> str:
    return str(VENV / "bin" / "python") if host.lab.venv else host.lab.interpreter


def daemon(host: LabHost, module: str, capability: str) -> Tuple[str, ...]:
    """Our daemon as vdsm:kvm with the one capability its unit gives it."""
    return (
        "setpriv",
        f"--reuid={DAEMON_UID}",
        f"--regid={DAEMON_GID}",
        "--clear-groups",
        f"--inh-caps=-all,+{capability}",
        f"--ambient-caps=-all,+{capability}",
        f"--bounding-set=-all,+{capability}",
        "--",
        python(host),
        "-c",
        f"import sys; from {module} import main; sys.exit(main())",  # as the installed command does it
    )


def services(host: LabHost, clock: Mapping[str, str]) -> List[Service]:
    """In the order in which they are started. ``clock``: environment of those that live by the host's fast clock."""
    fenced = watchdog.is_present(host)
    sanlock = ("/usr/sbin/sanlock", "daemon", "-D", "-w", "1" if fenced else "0", "-h", "0", "-l", "0", "-L", "-1")
    found = [wdmd(host, clock)] if fenced else []
    found += [
        Service("sanlock", (*sanlock, "-S", "-1", "-U", "root", "-G", "kvm", "-e", host.hostname), clock),
        Service("libvirtd", ("/usr/sbin/libvirtd", "--listen", "--pid-file", "/run/libvirtd.pid")),
    ]
    if host.lab.daemons:
        found += [
            Service("broker", daemon(host, "ovirt_he_ha.broker.service", "net_raw"), BROKER_HEAP),
            Service("agent", daemon(host, "ovirt_he_ha.agent.service", "kill"), AGENT_HEAP),
        ]
    return found


def wdmd(host: LabHost, clock: Mapping[str, str]) -> Service:
    device, library = str(host.watchdog), str(host.lab.watchdog_library)
    preloads = [library, clock["LD_PRELOAD"]] if clock else [library]
    env = {**clock, "LD_PRELOAD": ":".join(preloads), "HE_WATCHDOG_DEVICE": device}
    return Service("wdmd", (WDMD, "-D", "-H", "0", "-G", "kvm", "-w", device), env)


LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
tcp_port = "{port}"
listen_addr = "{address}"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "kvm"
unix_sock_rw_perms = "0770"
host_uuid = "{uuid}"
log_outputs = "2:stderr"
keepalive_interval = {keepalive}
"""

QEMU_CONF = f"""\
user = "+{QEMU_UID}"
group = "+{DAEMON_GID}"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
migration_address = "0.0.0.0"
seccomp_sandbox = 0
lock_manager = "sanlock"
keepalive_interval = {{keepalive}}
"""

# Seconds between two signs of life that libvirt asks a peer for; the sixth that is missing ends the connection.
KEEPALIVE = 5

QEMU_SANLOCK_CONF = """\
auto_disk_leases = 0
host_id = {host_id}
require_lease_for_disks = 0
io_timeout = 0
user = "root"
group = "root"
"""


def libvirt_files(host: LabHost, host_uuid: str) -> Dict[str, str]:
    """Files below the host's /etc/libvirt. The TCP listener answers on the second network only; it is for migration."""
    keepalive = max(1, round(KEEPALIVE / host.lab.scale))  # libvirt's clock is not the lab's: a lost peer, too, in time
    return {
        "libvirtd.conf": LIBVIRTD_CONF.format(
            port=LIBVIRT_TCP_PORT, address=host.second_address, uuid=host_uuid, keepalive=keepalive
        ),
        "qemu.conf": QEMU_CONF.format(keepalive=keepalive),
        "qemu-sanlock.conf": QEMU_SANLOCK_CONF.format(host_id=host.host_id),
    }


def etc_files(hosts: List[LabHost], group: str, passwd: str, fqdn: str, engine_address: str) -> Dict[str, str]:
    """The lab's view of three files of /etc: the daemons' users by oVirt's numbers, and every name of the lab.
    ``group`` and ``passwd`` are this machine's; an entry of the same name or number gives way."""
    names = ["127.0.0.1 localhost", f"{engine_address} {fqdn}"]
    names += [f"{host.address} {host.hostname} {host.name}" for host in hosts]
    return {
        "group": _replaced(group, {"kvm": f"kvm:x:{DAEMON_GID}:"}),
        "passwd": _replaced(passwd, {"vdsm": f"vdsm:x:{DAEMON_UID}:{DAEMON_GID}::/:/sbin/nologin"}),
        "hosts": "\n".join(names) + "\n",
    }


def _replaced(text: str, entries: Mapping[str, str]) -> str:
    numbers = {line.split(":")[2] for line in entries.values()}
    kept = []
    for line in text.splitlines():
        words = line.split(":")
        if len(words) > 2 and words[0] not in entries and words[2] not in numbers:
            kept.append(line)
    return "\n".join([*kept, *entries.values()]) + "\n"
