"""The first process of one host of the lab: `python -m ovirt_he_ha.lab.host_init LAB HOST_ID READY_FD`.

It runs in fresh PID, mount, network, UTS and IPC namespaces. Its end is the host's power loss: the kernel kills every
process of the PID namespace, and the mounts and network devices go with theirs.
"""

import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

from ovirt_he_ha.lab import network, services, shared_clock
from ovirt_he_ha.lab.control import ControlServer, listen
from ovirt_he_ha.lab.layout import DAEMON_GID, DAEMON_UID, QEMU_UID, LabError, LabHost
from ovirt_he_ha.lab.mounted_view import detach
from ovirt_he_ha.lab.state import load_lab
from ovirt_he_ha.lab.supervisor import Loop, Supervisor

log = logging.getLogger(__name__)

# The host's own, instead of the machine's.
OWN_DIRECTORIES = {
    "run": "/run",
    "log": "/var/log",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "etc": "/etc/libvirt",
}
# By number: a node of a module that is not loaded yet need not be there, and opening ours loads it.
DEVICES = {
    **{"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)},
    **{"tty": (5, 0), "net/tun": (10, 200)},
}
LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


def main() -> None:
    directory, host_id, ready_fd = sys.argv[1:4]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    host = load_lab(directory).host(int(host_id))
    mount_own(host)
    socket.sethostname(host.hostname)
    # The keeper plugs the network cables in once it knows our pid; end of file means that it has gone, and so shall we.
    if os.read(int(ready_fd), 1) != b"\n":
        sys.exit("the keeper went away")
    os.close(int(ready_fd))
    no_ipv6()
    network.batch(network.host_commands(host))
    supervise(host)


def mount_own(host: LabHost) -> None:
    """What /run is on a real host ends with the boot: it is made anew."""
    mount_storage(host)
    shutil.rmtree(host.run, ignore_errors=True)
    for name in OWN_DIRECTORIES:
        (host.directory / name).mkdir(parents=True, exist_ok=True)
    fill_etc(host)
    for name, target in OWN_DIRECTORIES.items():
        bind(host.directory / name, Path(target))
    boot_id = host.directory / "boot_id"  # budgets that outlive a daemon, but not a boot, are told apart by it
    boot_id.write_text(f"{uuid.uuid4()}\n")
    bind(boot_id, Path("/proc/sys/kernel/random/boot_id"))
    for name in ("group", "passwd", "hosts"):
        bind(host.lab.etc / name, Path("/etc") / name)
    own_devices(host.directory / "dev")
    network.run(["mount", "-t", "sysfs", "sysfs", "/sys"])  # shows the network devices of this namespace
    daemons = ("/run/libvirt", services.SANLOCK_RUN, services.WDMD_RUN)
    for made in ("/run/lock", *daemons, "/var/log/libvirt", "/var/log/engine"):
        Path(made).mkdir(parents=True, exist_ok=True)
    os.chown("/var/log/engine", QEMU_UID, DAEMON_GID)
    services.INSIDE.mkdir()
    services.COMMANDS.mkdir()
    write_commands(host)
    if host.lab.venv:
        services.VENV.mkdir()
        bind(Path(host.lab.venv), services.VENV)
    product_run = host.product_root / "run" / "ovirt-hosted-engine-ha"
    shutil.rmtree(product_run, ignore_errors=True)
    product_run.mkdir(parents=True)
    os.chown(product_run, DAEMON_UID, DAEMON_GID)


def mount_storage(host: LabHost) -> None:
    """The host's view where every host has the storage, over the shared directory itself. What this namespace has
    copied from the keeper's besides must not keep another host's view alive."""
    bind(host.view, host.lab.storage)
    for other in host.lab.host_ids:
        detach(host.lab.host(other).view)
    detach(host.lab.connections)


def own_devices(made: Path) -> None:
    """A small /dev. Above all without /dev/kvm: where it is there but of no use, libvirt probes QEMU anew before
    every start, which costs 8 s each time. /dev/shm must be private: libfaketime names its segments by pid, and every
    host has the same pids."""
    made.mkdir(exist_ok=True)
    network.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(made)])
    for name, (major, minor) in DEVICES.items():
        node = made / name
        node.parent.mkdir(exist_ok=True)
        os.mknod(node, stat.S_IFCHR, os.makedev(major, minor))
        node.chmod(0o666)
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        ("shm", "tmpfs", "mode=1777"),
    ):
        (made / name).mkdir()
        network.run(["mount", "-t", kind, "-o", options, kind, str(made / name)])
    for name, target in LINKS.items():
        (made / name).symlink_to(target)
    network.run(["mount", "--rbind", str(made), "/dev"])


def bind(source: Path, target: Path) -> None:
    network.run(["mount", "--bind", str(source), str(target)])


def fill_etc(host: LabHost) -> None:
    etc = host.directory / "etc"
    if not (etc / "libvirtd.conf").exists():
        shutil.copytree("/etc/libvirt", etc, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(etc / "qemu", ignore_errors=True)  # the machine's own domains and networks stay out
        for name, text in services.libvirt_files(host, str(uuid.uuid4())).items():
            (etc / name).write_text(text)
        etc.chmod(0o755)
        (etc / "qemu.conf").chmod(0o644)  # the agent reads it; on a real host systemd-tmpfiles lets it


def write_commands(host: LabHost) -> None:
    """`hosted-engine` on the PATH of `he-lab exec`."""
    command = services.COMMANDS / "hosted-engine"
    command.write_text(f'#!/bin/sh\nexec {services.python(host)} -m ovirt_he_ha.cli.main "$@"\n')
    command.chmod(0o755)


def no_ipv6() -> None:
    """Link-local addresses would come and go during a test; the lab speaks IPv4."""
    for scope in ("all", "default"):
        path = Path("/proc/sys/net/ipv6/conf") / scope / "disable_ipv6"
        if path.exists():
            path.write_text("1\n")


def supervise(host: LabHost) -> None:
    processes = services.services(host, shared_clock.make_clock(host.lab.scale))
    supervisor = Supervisor(processes, services.environment(host), host.log)

    def on_exit(pid: int, status: int) -> None:
        if not supervisor.exited(pid, status):
            log.info("reaped %s", pid)

    control = ControlServer(listen(Path("/run/he-lab.sock")), supervisor.handlers())
    log.info("%s is up", host.hostname)
    Loop([control], on_exit, lambda: supervisor.start_due(time.monotonic()), supervisor.next_due).run()


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.SubprocessError, LabError):
        log.exception("the host does not start")
        sys.exit(1)
