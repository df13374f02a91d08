"""ovirt-ha-agent: composition, signals and the loop."""

import argparse
import faulthandler
import logging
import os
import queue
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import List, Optional

from ovirt_he_ha import __version__
from ovirt_he_ha.agent.actions import ActionWorker
from ovirt_he_ha.agent.collect import Collector, Identity, PublishClock, Workers
from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.definition_source import DefinitionSource
from ovirt_he_ha.agent.fence import STUCK, Fencer
from ovirt_he_ha.agent.guard import Guard, GuardSeams, host_sleep
from ovirt_he_ha.agent.late_answer import LateAnswer
from ovirt_he_ha.agent.ledger import Ledger, LedgerFile
from ovirt_he_ha.agent.meter import Meter
from ovirt_he_ha.agent.publish import Publisher, beside
from ovirt_he_ha.agent.recorder import Recorder
from ovirt_he_ha.agent.ring import SHARE, Ring, RingThread
from ovirt_he_ha.agent.second_network import reaches
from ovirt_he_ha.agent.self_check import SelfCheck
from ovirt_he_ha.agent.shared_storage import SharedStorage
from ovirt_he_ha.agent.state_file import StateFile, StateFileError
from ovirt_he_ha.agent.state_writer import StateWriter
from ovirt_he_ha.client.link import BrokerError, BrokerFault, BrokerLink
from ovirt_he_ha.config import host_shutdown
from ovirt_he_ha.config.clock import SystemClock, TimeScaleError
from ovirt_he_ha.config.end_signals import on_end
from ovirt_he_ha.config.equality import deployment_digest
from ovirt_he_ha.config.files import AgentConf, HostedEngineConf, load_agent_conf, load_hosted_engine_conf
from ovirt_he_ha.config.journal import finish_logging, setup_logging
from ovirt_he_ha.config.memory import settle
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.systemd import Heartbeat, tell_systemd, watchdog_seconds
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.liveness import owner_has_left
from ovirt_he_ha.core.model import Carried, Fence, HostLease, LeaseId, LeaseOwner, Reading, Safeguards
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.connection import BindingMissing, Connection
from ovirt_he_ha.hypervisor.custom_definition import load_custom
from ovirt_he_ha.hypervisor.engine_scan import EngineScan
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.hypervisor.process import ProcessTable, kill, kill_engine
from ovirt_he_ha.lease import binding, daemon_status, vm_lease
from ovirt_he_ha.lease.give_back import give_back
from ovirt_he_ha.lease.host_reset import HostReset
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.lease_reader import LeaseReader
from ovirt_he_ha.storage.newest_store import NewestStore

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_NOT_CONFIGURED = 255
EXIT_INIT = 157
BROKER_RETRY = 1.0  # wall seconds: a broker is supervised again within 2 s, and nothing can be decided without it
CYCLE_LIMIT = 60.0  # wall seconds that one turn of the loop may take: three times its four calls of the broker
STOP_SECONDS = 4.2  # wall: with the log's and the process's own end below the 5 s that are promised
RECORDER_SECONDS = 0.2  # wall: for the last cycle's record to reach the disk, within the same 5 s
LEDGER_SECONDS = 0.1  # wall: for its last lines, which nearly always are there already
MIN_GAP = 0.1  # wall seconds between two cycles: a burst of events is one cycle


class Agent:
    """The running daemon. ``run()`` returns the exit status; ``stop()`` may be called from a signal handler."""

    def __init__(self, paths: HostPaths, conf: HostedEngineConf, agent_conf: AgentConf, clock: SystemClock) -> None:
        self._paths = paths
        self._conf = conf
        self._clock = clock
        self._timers = Timers()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.told: queue.SimpleQueue[None] = queue.SimpleQueue()  # something in it: stop
        self.lost_broker = threading.Event()  # set while the broker does not answer
        self._broker_problem = ""
        domain = domain_of(conf, paths)
        lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
        self._storage = SharedStorage(conf, clock, NewestStore(paths.ovf_seen, conf.sd_uuid))
        self._lease_reader = LeaseReader(lease, clock)
        self._definition = DefinitionSource(
            read=self._storage.vm_conf,
            lease=lease,
            vmid=conf.vmid,
            effective_path=paths.vm_conf,
            fallback_path=paths.vm_conf_fallback,
            clock=clock,
            on_change=self._wake.set,
            rest=self._storage.rest,
            ovfs=self._storage.ovfs,
            custom=lambda: load_custom(agent_conf),
            reserved=conf.own_volumes,
        )
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._state_file = StateFile(paths.agent_state, boot_id, clock.scale)
        self._state_writer = StateWriter(self._state_file)
        self._published = PublishClock()
        self._link = self._new_link()
        self._side_link = self._new_link()  # for the action worker: its questions never wait for the cycle's
        self._connection = Connection(agent_conf.libvirt_uri, clock)
        self._identity = Identity(conf.host_id, socket.gethostname(), boot_id, lease, agent_conf, __version__)
        self._vm = self._engine_vm(agent_conf, lease)
        self._cpu_model = LateAnswer(self._vm.cpu_model)
        self._self_check = self._new_self_check(agent_conf)
        self._fencer = Fencer(self._kill_engine, clock, self._wake.set)
        self._heartbeat = Heartbeat(watchdog_seconds())
        self._scan = EngineScan(conf.vmid, ProcessTable())
        self._guard = self._new_guard(lease)
        self._actions = ActionWorker(
            self._vm,
            clock,
            self._definition.definition,
            self._objection,
            self._wake.set,
            lambda seconds: self._guard.suspend(seconds, "action"),
            lambda lease: give_back(lease, conf.host_id, lambda: ProcessTable().find(conf.vmid)),
        )
        self._ledger = Ledger(LedgerFile(paths.ledger))
        self._publisher = Publisher(self._link, conf.host_id, clock, self._published, self._timers, beside)
        self._cycle = Cycle(
            collector=self._collector(self._link),
            actions=self._actions,
            fencer=self._fencer,
            publisher=self._publisher,
            save=lambda carried: self._state_writer.save(carried.budgets),
            timers=self._timers,
            carried=Carried(),
        )
        self._recorder = recorder_of(paths, agent_conf)
        self._cycle.recorder = self._recorder
        self._cycle.ledger, self._cycle.meter = self._ledger, Meter()

    def stop(self) -> None:
        """From any thread; whoever hears a signal puts something into ``told`` instead."""
        self._stopping.set()
        self._wake.set()
        self.told.put(None)

    def run(self) -> int:
        """Until told to stop, and then for at most STOP_SECONDS more, whatever the loop is waiting for."""
        status: List[int] = []
        loop = threading.Thread(target=self._live, args=(status,), name="cycle", daemon=True)
        loop.start()
        self.told.get()
        self.stop()
        loop.join(STOP_SECONDS)
        if self._recorder is not None:
            self._recorder.close(RECORDER_SECONDS)
        self._ledger.close(LEDGER_SECONDS)
        if not status:
            log.error("Stopped without the final record: the loop hangs. Peers see this host as dead after 60 s")
        return status[0] if status else EXIT_INIT

    def _live(self, status: List[int]) -> None:
        """The loop: one cycle, then wait for an event or the deadline, until told to stop."""
        try:
            self._heartbeat.came_round("the cycle", CYCLE_LIMIT)
            self._guard.start()
            self._load_budgets()
            self._definition.start()
            self._self_check.start()
            threading.Thread(target=self._watch_broker, name="wait-for-change", daemon=True).start()
            while not self._stopping.is_set():
                wait = self._one_turn()
                self._heartbeat.came_round("the cycle", CYCLE_LIMIT)
                self._wake.wait(wait)
                self._stopping.wait(MIN_GAP)
                self._wake.clear()
            status.append(self._say_goodbye())
        finally:
            self.told.put(None)  # a defect ends the process as well: systemd starts it again

    def _one_turn(self) -> float:
        """One cycle. Returns the wall seconds until the next one at the latest."""
        try:
            if self._broker_problem or self._cycle.decided is None:
                self._register()
            decision = self._cycle.run_one_cycle()
            self._tell_guard()
        except BrokerError as e:
            self._broker_lost(e)
            return BROKER_RETRY
        if self._broker_problem:
            log.info("The broker answers again")
            self._broker_problem = ""
            self.lost_broker.clear()
        return max(0.0, (decision.wake_at - self._clock.monotonic()) / self._clock.scale)

    def _tell_guard(self) -> None:
        """A migration that somebody else began: the guard may not take its hand-over for a mismatch."""
        before = self._cycle.before
        facts = None if before is None else before.monitors.engine.value
        if facts is not None and facts.outgoing:
            self._guard.suspend(self._timers.own_migration_pause, "migration")

    def _register(self) -> None:
        """After every (re)connection: this host's id in both lockspaces. The broker keeps trying on its own."""
        try:
            self._link.lock_host_id(self._conf.host_id)
        except BrokerFault as e:
            log.error("The host id %d is not held yet: %s", self._conf.host_id, e)

    def _broker_lost(self, problem: BrokerError) -> None:
        if str(problem) != self._broker_problem:
            log.error("%s. Nothing is decided until it answers; a running VM goes on", problem)
        self._broker_problem = str(problem)
        self.lost_broker.set()

    def _watch_broker(self) -> None:
        """Its own connection: the call waits in the broker until something changed there. One that returns at once is
        not asked again within the gap that the next cycle keeps anyway."""
        link = self._new_link()
        serial = 0
        while not self._stopping.is_set():
            try:
                serial = link.wait_for_change(serial, self._timers.cycle / self._clock.scale)
                self._wake.set()
                self._stopping.wait(MIN_GAP)
            except BrokerError:
                self._stopping.wait(BROKER_RETRY)

    def _say_goodbye(self) -> int:
        """The final record (stopped=1), acknowledged on the volume. The VM runs on."""
        tell_systemd("STOPPING=1")
        self._definition.stop()
        self._self_check.stop()
        try:
            self._cycle.run_one_cycle(stopping=True)
        except BrokerError as e:
            log.error("Stopped without the final record: %s. Peers see this host as dead after 60 s", e)
            return EXIT_INIT
        if not self._publisher.settle(STOP_SECONDS):
            log.error("Stopped without the final record: it was not written. Peers see this host as dead after 60 s")
            return EXIT_INIT
        log.info("Stopped; the final record is on the volume")
        return EXIT_OK

    def _objection(self) -> str:
        if self._stopping.is_set():
            return "agent-stopped"  # what it started now, nobody here would watch
        try:
            return self._cycle.objection_to_start(self._collector(self._side_link).collect)
        except BrokerError as e:
            return f"broker: {e}"

    def _kill_engine(self, fence: Fence, seconds: float) -> bool:
        if not fence.pid:
            gone = bool(kill_engine(self._conf.vmid, seconds))
            # A process that hangs may not tell its name any more: a look that leaves it out does not prove its end.
            return gone and not self._scan.remaining()
        # What the guard has identified is not asked who it is again: a process that hangs may not even tell its name.
        found = self._scan.known(fence.pid) or ProcessTable().find(self._conf.vmid, [fence.pid])
        return all([bool(kill(process, seconds)) for process in found])

    def _new_guard(self, lease: LeaseId) -> Guard:
        seams = GuardSeams(
            find=self._scan.find,
            age=ProcessTable().age,
            sanlock=daemon_status.ask,
            owner=lambda: _owner(self._storage, self._lease_reader, lease),
            asleep=host_sleep,
            order=self._fencer.order,
            on_change=self._wake.set,
            alive=self._heartbeat.beat,
            ran=ProcessTable().cpus_ran,
            stuck=lambda: self._fencer.state == STUCK,
            reset=HostReset().want,
        )
        return Guard(lease, seams, self._clock, self._timers)

    def _new_self_check(self, agent_conf: AgentConf) -> SelfCheck:
        apart = reaches(agent_conf.migration_address, self._conf.bridge)
        known = Safeguards(second_network=apart, deployment=deployment_digest(self._conf))
        return SelfCheck(self._paths, known, self._clock, self._vm.libvirt_version, self._wake.set)

    def _collector(self, link: BrokerLink) -> Collector:
        workers = Workers(
            definition=lambda: self._definition.current,
            report=self._actions.report,
            fencing=lambda: self._fencer.state,
            cpu_model=self._cpu_model,
            guard=lambda: self._guard.report,
            state_problem=lambda: self._state_writer.problem,
            ledger_problem=lambda: self._ledger.problem,
            safeguards=lambda: self._self_check.current,
            host_shutdown=self._host_shutdown,
        )
        return Collector(link.snapshot, self._identity, self._paths.ha_conf, workers, self._clock, self._published)

    def _host_shutdown(self) -> Optional[float]:
        left = host_shutdown.seconds_left(self._paths.host_shutdown)
        return None if left is None else left * self._clock.scale

    def _engine_vm(self, agent_conf: AgentConf, lease: LeaseId) -> LibvirtEngineVm:
        return LibvirtEngineVm(
            self._connection,
            self._conf.vmid,
            lease,
            self._clock,
            agent_conf,
            host_id=self._conf.host_id,
            lease_owner=self._lease_owner,
            owner_live=self._owner_live,
            allowed=frozenset(agent_conf.allowed_elements),
        )

    def _lease_owner(self) -> Reading[LeaseOwner]:
        try:
            return self._side_link.snapshot().leases.owner
        except BrokerError:
            return Reading.missing("broker")

    def _owner_live(self, host_id: int) -> Optional[bool]:
        """False when sanlock shows the host DEAD, or that it left what it holds the lease by; None when nobody knows. A
        start that fails beside its record has failed by itself, and is no lost race."""
        try:
            leases = self._side_link.snapshot().leases
        except BrokerError:
            return None
        hosts, owner = leases.hosts.value or {}, leases.owner.value
        if owner is not None and owner.host_id == host_id and owner_has_left(leases, hosts):
            return False
        flag = hosts.get(host_id)
        return None if flag is None else flag not in (HostLease.DEAD, HostLease.FREE)

    def _new_link(self) -> BrokerLink:
        return BrokerLink(self._paths.broker_socket, self._clock.wait_floor(self._timers.rpc_deadline))

    def _load_budgets(self) -> None:
        now = self._clock.monotonic()
        try:
            budgets = self._state_file.load(now)
        except StateFileError as e:
            log.error("%s", e)
            return
        self._cycle.carried = replace(self._cycle.carried, budgets=budgets)


def recorder_of(paths: HostPaths, agent_conf: AgentConf) -> Optional[Recorder]:
    """None where the configuration wants none. Nothing is written yet."""
    limit = agent_conf.recorder_kib * 1024
    return Recorder(RingThread(Ring(paths.recording_dir, limit)), limit // SHARE) if limit else None


def _owner(storage: SharedStorage, reader: LeaseReader, lease: LeaseId) -> LeaseOwner:
    """Raises LeaseUnreadable."""
    try:
        reader.use_sector_size(storage.sector_size())
        return reader.owner()
    except (DomainProblem, StorageError) as problem:
        raise vm_lease.LeaseUnreadable(lease, 0, str(problem)) from problem


def parse_arguments(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ovirt-ha-agent", description="Keeps one engine VM alive on a cluster of hosts: this host's decisions."
    )
    parser.add_argument("--version", action="version", version=f"ovirt-ha-agent {__version__}")
    return parser.parse_args(argv)


def compose(paths: HostPaths) -> Agent:
    """The agent of this host; nothing runs and nothing was written yet.

    Raises ConfigError, DomainProblem, TimeScaleError, BindingMissing, SanlockMissing: one line each, with the file and
    key or the package.
    """
    conf = load_hosted_engine_conf(paths.hosted_engine_conf)
    if not conf.configured:
        raise ConfigError(paths.hosted_engine_conf, "configured", "True, once the host is set up", "False")
    agent_conf, clock = load_agent_conf(paths.agent_conf), SystemClock()
    binding.load()
    return Agent(paths, conf, agent_conf, clock)


def main(argv: Optional[List[str]] = None) -> int:
    parse_arguments(sys.argv[1:] if argv is None else argv)
    paths = HostPaths.from_env()
    setup_logging("ovirt-ha-agent", paths.agent_log_conf)
    faulthandler.enable(2)  # systemd ends a hanging agent by SIGABRT: the stacks of all threads go to the journal
    try:
        agent = compose(paths)
    except (ConfigError, DomainProblem, TimeScaleError, BindingMissing, binding.SanlockMissing) as e:
        sys.stderr.write(f"ovirt-ha-agent: {e}\n")
        return EXIT_NOT_CONFIGURED
    on_end(lambda: agent.told.put(None))
    settle()
    status = agent.run()
    finish_logging()
    os._exit(status)  # workers may hang in libvirt or storage; nothing of them may delay the stop


if __name__ == "__main__":
    sys.exit(main())
