"""ovirt-ha-broker: composition from this host's configuration, and the process."""

import argparse
import logging
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Callable, List, Optional

from ovirt_he_ha import __version__
from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.monitors import MonitorOptions, MonitorSet, OptionError, StorageLatency
from ovirt_he_ha.broker.notify import MailNotifier
from ovirt_he_ha.broker.rpc import SocketProblem
from ovirt_he_ha.broker.volume_door import VolumeDoor
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.config.clock import SystemClock, TimeScaleError
from ovirt_he_ha.config.end_signals import on_end
from ovirt_he_ha.config.files import (
    AgentConf,
    HostedEngineConf,
    load_agent_conf,
    load_broker_conf,
    load_hosted_engine_conf,
)
from ovirt_he_ha.config.health import health_url
from ovirt_he_ha.config.journal import finish_logging, setup_logging
from ovirt_he_ha.config.memory import settle
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.systemd import tell_systemd
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.model import EngineFacts, LockspaceState, Reading
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.connection import BindingMissing, binding
from ovirt_he_ha.hypervisor.events import EngineWatch
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease.binding import SanlockMissing
from ovirt_he_ha.lease.formatting import FormatFailed, write_lockspace
from ovirt_he_ha.lease.lockspace import WHITEBOARD, SanlockLockspaces
from ovirt_he_ha.lease.reset_watch import ResetWatch
from ovirt_he_ha.storage.domain_files import DomainFiles
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError, StorageOverdue
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.lease_reader import LeaseReader
from ovirt_he_ha.storage.refusal import Refusal
from ovirt_he_ha.storage.volumes import SCANNED

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXIT_OK = 0
EXIT_SOCKET = 1  # another broker, or no place for the socket
EXIT_HANGING = 2  # told to stop, and something hung until the end: the journal names it
EXIT_NOT_CONFIGURED = 255
# Seconds that one thread may keep the others waiting, if they want to run: Python's 0.005, one after the other, is what
# a caller would wait beside 40 clients that never stop asking.
SWITCH = 0.0005
STOP_SECONDS = 4.2  # wall: with the log's and the process's own end below the 5 s that are promised
CHECK_SECONDS = 5.0  # product: looking at the domain before the volume is used
RESET_SECONDS = 60.0  # wall: writing 2,000 host ids on slow storage

_LOST = (LockspaceState.NOT_HELD, LockspaceState.NO_DAEMON, LockspaceState.ID_TAKEN, LockspaceState.MISMATCH)


class NotConfigured(Exception):
    """This host cannot run a broker as it is. ``str()`` is one line that says what to do."""


class WatchedEngine:
    """The watch over libvirt as the monitors want it: they count in product seconds."""

    def __init__(self, watch: EngineWatch, clock: SystemClock) -> None:
        self._watch = watch
        self._clock = clock

    def start(self, on_change: Callable[[], None]) -> None:
        self._watch.start(on_change)

    def stop(self, deadline: float) -> None:
        if not self._watch.stop(self._clock.wall_seconds(deadline)):
            log.warning("a libvirt call still hangs; it is left to the end of the process")

    def facts(self) -> Reading[EngineFacts]:
        return self._watch.facts()


def main(argv: Optional[List[str]] = None) -> int:
    _parse(sys.argv[1:] if argv is None else argv)
    paths = HostPaths.from_env()
    setup_logging("ovirt-ha-broker", paths.broker_log_conf)
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    sys.setswitchinterval(SWITCH)
    on_end(lambda: told.put(None))
    status = _run(paths, told)
    finish_logging()
    os._exit(status)  # a worker that hangs in storage, sanlock or libvirt must not delay the end


def _run(paths: HostPaths, told: "queue.SimpleQueue[None]") -> int:
    try:
        broker = compose(paths)
        broker.server.reserve()
        settle()
        broker.start()
    except NotConfigured as problem:
        return _refused(problem, EXIT_NOT_CONFIGURED)
    except SocketProblem as problem:
        return _refused(problem, EXIT_SOCKET)
    log.info("serving host id %d at %s", broker.host_id, paths.broker_socket, extra={"HE_HOST_ID": broker.host_id})
    tell_systemd("READY=1")
    told.get()
    tell_systemd("STOPPING=1")
    ended = broker.stop(STOP_SECONDS)
    log.info("stopped")
    return EXIT_OK if ended else EXIT_HANGING


def _refused(problem: Exception, status: int) -> int:
    sys.stderr.write(f"ovirt-ha-broker: {problem}\n")
    return status


def _parse(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ovirt-ha-broker", description="This host's contact with shared storage, sanlock and its monitors."
    )
    parser.add_argument("--version", action="version", version=f"ovirt-ha-broker {__version__}")
    return parser.parse_args(argv)


# --- composition ------------------------------------------------------------------------------------------------------


def compose(paths: HostPaths) -> Broker:
    """The broker of this host; nothing runs and nothing was written yet. Raises NotConfigured."""
    try:
        conf = checked_conf(paths)
        agent_conf = load_agent_conf(paths.agent_conf)
        load_broker_conf(paths.broker_conf)
        clock = SystemClock()
        binding()
        timers = Timers()
        if timers.check():
            raise NotConfigured("timers: " + "; ".join(timers.check()))
        return _composed(paths, conf, agent_conf, clock, timers)
    except (DomainProblem, ConfigError, OptionError, TimeScaleError, BindingMissing, SanlockMissing) as problem:
        raise NotConfigured(str(problem)) from problem


def checked_conf(paths: HostPaths) -> HostedEngineConf:
    """Raises ConfigError."""
    return load_hosted_engine_conf(paths.hosted_engine_conf)


def _composed(
    paths: HostPaths, conf: HostedEngineConf, agent_conf: AgentConf, clock: SystemClock, timers: Timers
) -> Broker:
    changes = Changes(int(clock.monotonic() * 1000) & 0x7FFFFFFF)
    metrics = Metrics()
    domain = domain_of(conf)
    lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
    lockspace_path = domain.volume_path(conf.lockspace_image_uuid, conf.lockspace_volume_uuid)
    reader = LeaseReader(lease, clock)
    lockspaces = SanlockLockspaces(
        lease,
        domain.ids_path,
        lockspace_path,
        clock,
        may_join=JoinRule(ProcessTable(), conf.vmid, refused=Refusal(paths.storage_refusal).why),
        on_change=changes.bump,
        reset_watch=ResetWatch(clock, paths.run_dir / "sanlock-held.json", BOOT_ID.read_text(encoding="ascii").strip()),
        read_owner=reader.owner,
    )
    door = _door(conf, clock, reader.use_sector_size)
    guard_lost = lambda: lockspaces.facts().lockspace.value in _LOST  # noqa: E731
    watch = EngineWatch(agent_conf.libvirt_uri, conf.vmid, lease, clock, guard_lost)
    options = monitor_options(conf, agent_conf)
    monitors = MonitorSet(options, WatchedEngine(watch, clock), clock, changes.bump, timers)
    return Broker(
        host_id=conf.host_id,
        server_path=paths.broker_socket,
        whiteboard=_whiteboard(conf, door, clock, timers, changes, metrics, monitors.storage),
        lockspaces=lockspaces,
        monitors=monitors,
        notifier=MailNotifier(lambda: load_broker_conf(paths.broker_conf), paths.notifications_dir, metrics=metrics),
        reset_lockspace=LockspaceWriter(conf, lockspace_path, door.files, RESET_SECONDS),
        clock=clock,
        changes=changes,
        metrics=metrics,
        timers=timers,
    )


def _whiteboard(
    conf: HostedEngineConf,
    door: VolumeDoor,
    clock: SystemClock,
    timers: Timers,
    changes: Changes,
    metrics: Metrics,
    latency: StorageLatency,
) -> Whiteboard:
    def on_read(seconds: Optional[float], why: str) -> None:
        if seconds is None:
            latency.failed(why)
        else:
            latency.record(seconds)

    return Whiteboard(door.open, conf.host_id, clock, timers, changes.bump, on_read, metrics)


def _door(conf: HostedEngineConf, clock: SystemClock, use_sector_size: Callable[[int], None]) -> VolumeDoor:
    path = domain_of(conf).volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid)

    def check(files: DomainFiles) -> None:
        domain = domain_of(conf, files=files)
        domain.verify()
        sector_size = domain.sector_size()
        domain.check(path, SCANNED, sector_size)
        use_sector_size(sector_size)

    return VolumeDoor(IoWorker(path, clock=clock), check, clock, CHECK_SECONDS)


class LockspaceWriter:
    """The lockspace of the slots, anew; sanlock does the writing. Bounded by ``seconds`` (wall)."""

    def __init__(self, conf: HostedEngineConf, path: str, files: Callable[[], DomainFiles], seconds: float) -> None:
        self._conf = conf
        self._path = path
        self._files = files
        self._seconds = seconds

    def __call__(self) -> None:
        """Raises StorageError; ``overdue``: sanlock was asked and may still do it."""
        try:
            sector_size = domain_of(self._conf, files=self._files()).sector_size()
        except DomainProblem as problem:
            raise StorageError(problem.code, problem.object, detail=f"expected {problem.expected}") from problem
        outcome: List[Optional[FormatFailed]] = []
        writing = threading.Thread(target=self._write, args=(sector_size, outcome), name="write-lockspace", daemon=True)
        writing.start()
        writing.join(self._seconds)
        if not outcome:
            raise StorageOverdue("overdue", self._path, detail="sanlock was asked to write it, and may still do so")
        if outcome[0] is not None:
            raise StorageError("io", self._path, detail=outcome[0].why) from outcome[0]

    def _write(self, sector_size: int, outcome: "List[Optional[FormatFailed]]") -> None:
        try:
            write_lockspace(WHITEBOARD, self._path, sector_size)
            outcome.append(None)
        except FormatFailed as failure:
            outcome.append(failure)


def monitor_options(conf: HostedEngineConf, agent_conf: AgentConf) -> MonitorOptions:
    return MonitorOptions(
        bridge=conf.bridge,
        gateway=conf.gateway,
        vmid=conf.vmid,
        health_url=agent_conf.health_url or health_url(conf.fqdn),
        network_test=conf.network_test,
        tcp_t_address=conf.tcp_t_address,
        tcp_t_port="" if conf.tcp_t_port is None else str(conf.tcp_t_port),
        ca_file=agent_conf.health_ca_file,
    )


if __name__ == "__main__":
    sys.exit(main())
