"""One run of each daemon on a simulated host: composed as ``broker/service.py`` and ``agent/service.py`` do it, with
events in the place of threads."""

import logging
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Callable, Collection, Iterable, List, Optional, Protocol, Tuple

from ovirt_he_ha import __version__
from ovirt_he_ha.agent.actions import ActionWorker, Definition
from ovirt_he_ha.agent.collect import Collector, Identity, PublishClock, Workers
from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.definition_source import Effective, StartRefused
from ovirt_he_ha.agent.fence import STUCK, Fencer
from ovirt_he_ha.agent.guard import TICK, Guard, GuardSeams
from ovirt_he_ha.agent.publish import Publisher
from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.broker.handlers import Policy
from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.rpc import Caller, Fault
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.client.link import BrokerError, BrokerFault, BrokerLink, BrokerSnapshot, BrokerUnavailable
from ovirt_he_ha.config.files import AgentConf, HaConf
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    Action,
    ActionKind,
    ActionReport,
    Budgets,
    Carried,
    Decision,
    Fence,
    Health,
    LeaseId,
    LeaseOwner,
    LockspaceState,
    Outcome,
    Safeguards,
    ScoreConfig,
    Vm,
)
from ovirt_he_ha.core.seams import BlockIO
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.process import EngineProcess, ProcessTable
from ovirt_he_ha.lease import vm_lease
from ovirt_he_ha.lease.loops import Loop
from ovirt_he_ha.lease.reset_watch import ResetWatch
from ovirt_he_ha.lease.watchdog import tie
from ovirt_he_ha.sim.clock import NEVER, SHORTEST, Beat, HostClock, Scope, Still, Timeline, ns
from ovirt_he_ha.sim.hypervisor import Done, Libvirt
from ovirt_he_ha.sim.lockspaces import EventLockspaces, EventLoop, SanlockBinding, status_of
from ovirt_he_ha.sim.probes import Conditions, SimProbes
from ovirt_he_ha.sim.sanlock import Sanlock
from ovirt_he_ha.sim.watch import Mail, SimTimes, SimWatch

VMID = "0f0e0d0c-0b0a-4908-8706-050403020100"
ROOT = Caller(1, 0, 0)
BROKER_RETRY = 1.0
MIN_GAP = 0.1
RPC = 0.002  # seconds of one call
WHOLE_WAY = 64
SLACK = 0.01  # seconds
_LOST = (LockspaceState.NOT_HELD, LockspaceState.NO_DAEMON, LockspaceState.ID_TAKEN, LockspaceState.MISMATCH)


class Body(Protocol):
    """The machine on which the daemons sit."""

    number: int
    conf_id: int
    hostname: str
    boot_id: str
    timeline: Timeline
    clock: HostClock
    scope: Scope
    random: Random
    timers: Timers
    lease: LeaseId
    libvirt: Libvirt
    conditions: Conditions
    mail: Mail
    jitter: float
    allow_unfenced: bool
    migration_address: str
    score_config: ScoreConfig
    cpu_model: str
    ha_conf: HaConf
    ha_conf_problem: str
    safeguards: Safeguards
    budgets: Optional[Tuple[str, Budgets]]
    reset_watch: ResetWatch
    broker: "Optional[BrokerSeat]"

    def sanlock(self) -> Optional[Sanlock]: ...

    def seconds_to_shutdown(self) -> Optional[float]: ...

    def want_reset(self, wanted: bool) -> None: ...

    def open_volume(self) -> BlockIO: ...

    def page(self) -> Tuple[bool, float]: ...

    def definition(self) -> Effective: ...

    def destination(self, host_id: int) -> Optional[Libvirt]: ...

    def decided(self, cycle: Cycle, decision: Decision) -> None: ...

    def ordered(self, cycle: Cycle, action: Action) -> None: ...

    def trace(self, what: str) -> None: ...


class SimTable(ProcessTable):
    """The VM's processes on one host."""

    def __init__(self, libvirt: Libvirt) -> None:
        super().__init__()
        self._libvirt = libvirt

    def find(self, vmid: str, pids: Optional[Iterable[int]] = None) -> List[EngineProcess]:
        return [copy.process for copy in self._libvirt.processes()]


class Silent:
    """Mail goes nowhere."""

    def start(self) -> None: ...

    def stop(self, deadline: float) -> None: ...

    def notify(self, event: str, detail: str, options: Any) -> str:
        return "ignored"


# --- the broker ------------------------------------------------------------------------------------------------------


class EventWhiteboard(Whiteboard):
    """The product's, which says how long it is calm."""

    def calm_until(self, now: float) -> float:
        """No read is due, and the engine is well by what was read last, until then; in the past if it is not so now.
        Whatever else ends it is a change that is told, or :attr:`says_well`."""
        if self._tried_at is None or not self._is_calm(now):
            return 0.0
        fresh = 3 * self._timers.cycle
        well = (
            NEVER if slot_id == GLOBAL_SLOT else last.changed_at + fresh
            for slot_id, last in self._last.items()
            if last.well
        )
        return min(self._tried_at + self._timers.slot_read_well, max(well, default=0.0))

    @property
    def says_well(self) -> bool:
        """This host's own record."""
        own = self._last.get(self.host_id)
        return own is not None and own.well


class EventBroker(Broker):
    """The product's, which asks its rooms for one value each without making all the others."""

    lockspaces: EventLockspaces
    probes: SimProbes

    def _listed(self) -> Optional[Collection[int]]:
        return self.lockspaces.listed()

    def _alert(self) -> bool:
        facts = self.probes.engine_facts()
        return facts is not None and facts.status.vm is Vm.UP and facts.status.health is not Health.GOOD


class BrokerSeat:
    """One life of the broker."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.scope = Scope(body.scope)
        self.hung = False
        self.waiters: List[Callable[[], None]] = []
        timeline, clock = body.timeline, body.clock
        self.changes = Changes(body.random.randrange(1 << 30))
        self.changes._moved = Still()
        metrics = Metrics()
        table = SimTable(body.libvirt)
        status = status_of(body.sanlock, timeline, body.lease)
        self.lockspaces = EventLockspaces(
            body.lease,
            clock,
            timeline,
            self.scope,
            body.sanlock,
            "ids",
            "hosted-engine.lockspace",
            may_join=JoinRule(table, VMID, status),
            on_change=self.changed,
            ask_watchdog=lambda: tie(status),
            reset_watch=body.reset_watch,
        )
        lost = lambda: self.lockspaces.domain_state() in _LOST  # noqa: E731
        self.watch = SimWatch(body.libvirt, clock, timeline, self.scope, lost, body.mail)
        self.probes = SimProbes(
            self.watch,
            SimTimes(body.libvirt),
            body.page,
            lambda: body.conditions,
            clock,
            timeline,
            self.scope,
            body.timers,
            self.changed,
        )
        whiteboard = EventWhiteboard(
            body.open_volume, body.conf_id, clock, body.timers, self.changed, self._on_read, metrics
        )
        self.broker = EventBroker(
            host_id=body.conf_id,
            server_path=Path("/run/simulated"),
            whiteboard=whiteboard,
            lockspaces=self.lockspaces,
            monitors=self.probes,
            notifier=Silent(),
            reset_lockspace=lambda: None,
            clock=clock,
            changes=self.changes,
            metrics=metrics,
            timers=body.timers,
            policy=Policy(own=0),
        )
        self.broker.lockspaces, self.broker.probes = self.lockspaces, self.probes
        self.whiteboard = whiteboard
        self._reading = Beat(timeline, self.scope, self._read)
        self.lockspaces.want(body.conf_id)
        self.probes.start()
        self._reading.wake(0.01)

    def changed(self) -> None:
        self.changes.bump()
        self._reading.land()
        for waiter in self.waiters:
            waiter()

    def _read(self) -> Optional[float]:
        """One turn of the product's reading thread."""
        due = self.broker.read_slots()
        wait = self.body.clock.world(due - self.body.clock.monotonic())
        self._leave_out(wait)
        return wait

    def _leave_out(self, wait: float) -> None:
        """While all is calm the turns before the one at which a read may be due would find nothing to do: there is
        none of them at all, unless :meth:`changed` comes in between. While it is not, every turn reads."""
        clock, timeline, alert = self.body.clock, self.body.timeline, self.body.timers.slot_read_alert
        if self.lockspaces.alert:
            return
        calm_until = self.whiteboard.calm_until(clock.monotonic()) - SLACK
        moments: List[int] = []
        moment = timeline.shown + ns(max(wait, SHORTEST))
        while True:
            now = clock.at(moment)
            due = now + alert
            if due >= calm_until:
                break
            moments.append(moment)
            moment += ns(clock.world(due - now))
        if moments:
            self._reading.leave_out(moments, moment)

    def _on_read(self, seconds: Optional[float], why: str) -> None:
        if seconds is None:
            self.probes.storage.failed(why)
        else:
            self.probes.storage.record(seconds)

    def call(self, method: str, args: Tuple[Any, ...]) -> Any:
        well = self.whiteboard.says_well
        try:
            return self.broker.handlers.dispatch(ROOT, method, args)
        finally:
            if self.whiteboard.says_well != well:
                self._reading.land()

    def killed(self) -> None:
        self.scope.end()

    def stopped(self) -> None:
        """On request: ``hosted-engine`` is left, what hangs is left behind."""
        self.lockspaces.leave(4.0)
        self.scope.end()


class DirectLink(BrokerLink):
    """The product's client without XML between: its typed parsing is used, its transport is not."""

    def __init__(self, body: Body, deadline: float) -> None:
        super().__init__("simulated", deadline)
        self._body = body
        self._asked = 0

    def snapshot(self) -> BrokerSnapshot:
        """Every sixty-fourth one goes the whole way, through the product's packing and parsing, and must come out as it
        went in; the others are handed over as they are, without what the protocol does not carry."""
        self._asked += 1
        seat = self._body.broker
        if seat is None or seat.hung or self._asked % WHOLE_WAY == 1:
            found = super().snapshot()
            if seat is not None and found != _carried(seat.broker.handlers.facts()):
                raise AssertionError(f"a snapshot changed on its way: {found}")
            return found
        self._body.timeline.spend(RPC)
        return _carried(seat.broker.handlers.facts())

    def call(self, method: str, *args: Any, deadline: Optional[float] = None) -> Any:
        seat = self._body.broker
        if seat is None:
            raise BrokerUnavailable("simulated", "refused", "no broker")
        if seat.hung:
            self._body.timeline.spend(self.deadline if deadline is None else deadline)
            raise BrokerUnavailable("simulated", "overdue", "no answer")
        self._body.timeline.spend(RPC)
        try:
            return seat.call(method, args)
        except Fault as fault:
            raise BrokerFault(method, int(fault.code), fault.message) from None


def _carried(facts: BrokerSnapshot) -> BrokerSnapshot:
    engine = facts.monitors.engine
    if engine.value is None or engine.value.counters is None:
        return facts
    bare = replace(engine, value=replace(engine.value, counters=None))
    return replace(facts, monitors=replace(facts.monitors, engine=bare))


# --- the agent -------------------------------------------------------------------------------------------------------


class _Taker:
    """A process that holds the lease for a moment."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.lease = (0, 0)

    def signal(self, kill: bool) -> None: ...


class EventActions(ActionWorker):
    """The product's action worker; libvirt's answer is an event."""

    def __init__(self, body: Body, guard: "Callable[[], Guard]", scope: Scope, *parts: Any) -> None:
        super().__init__(*parts)
        self._body = body
        self._guard = guard
        self._scope = scope

    def launch(self, report: ActionReport) -> None:
        self._body.timeline.after(0.005, lambda: self._begin(report), self._scope)

    def _begin(self, report: ActionReport) -> None:
        action, libvirt = report.action, self._body.libvirt
        answer = self._answer(report)
        if action.kind is ActionKind.START:
            self._begin_start(report, answer)
        elif action.kind is ActionKind.STOP:
            libvirt.shutdown(action.deadline, answer)
        elif action.kind is ActionKind.POWER_OFF:
            libvirt.destroy(action.deadline, answer)
        else:
            self._without_lease(action.deadline + 30.0)
            libvirt.migrate(self._body.destination(action.target_id), action.deadline, answer)

    def _begin_start(self, report: ActionReport, answer: Done) -> None:
        try:
            _, objection = self.withheld()
        except StartRefused as refused:
            answer(Outcome.FAILED, str(refused))
            return
        if objection:
            answer(Outcome.LOST_RACE, objection)
            return
        self._body.trace("libvirt: create")
        self._without_lease(report.action.deadline)
        self._body.libvirt.create(report.action.deadline, answer)

    def _answer(self, report: ActionReport) -> Done:
        def answer(outcome: Outcome, detail: str) -> None:
            if not self._scope.running:
                return
            if report.action.kind is ActionKind.START:
                self._without_lease(0.0)
            elif report.action.kind is ActionKind.MIGRATE:
                self._without_lease(30.0)
            self._body.trace(f"{report.action.kind.value}: {outcome.value} {detail}".rstrip())
            if report.action.kind is ActionKind.START and outcome is Outcome.FAILED:
                self._clear_own_record()
            self.finish(report, replace(report, outcome=outcome, detail=detail))

        return answer

    def _clear_own_record(self) -> None:
        """A process takes the lease and ends, as the product's."""
        daemon = self._body.sanlock()
        if daemon is None or daemon.disk.owner.host_id != self._body.conf_id or self._body.libvirt.processes():
            return
        taker = _Taker(-self._body.number)
        daemon.register(taker)
        daemon.acquire(taker, lambda _outcome: daemon.ended(taker.pid))

    def abort_migration(self) -> None:
        self._body.timeline.after(0.05, self._body.libvirt.abort_migration, self._scope)


class EventFencer(Fencer):
    """The kill path; the end of the process is an event."""

    def __init__(self, body: Body, scope: Scope, on_done: Callable[[], None]) -> None:
        super().__init__(lambda fence, seconds: False, body.clock, on_done)
        self._body = body
        self._scope = scope

    def launch(self, fence: Fence) -> None:
        body = self._body
        body.trace(f"fence: {fence.reason}")
        targets = [copy for copy in body.libvirt.processes() if fence.pid in (0, copy.pid)]
        until = body.timeline.now + round(max(fence.deadline, 0.5) * 1e9)
        for copy in targets:
            body.libvirt.kill(copy, "signal")

        def look() -> None:
            gone = not any(copy.alive for copy in targets)
            if gone or body.timeline.now >= until:
                self.finish(gone)
            else:
                body.timeline.after(0.1, look, self._scope)

        body.timeline.after(0.02, look, self._scope)


class EventGuard(Guard):
    """The product's guard; without a copy here it sleeps until one appears."""

    def __init__(self, body: Body, scope: Scope, fencer: Fencer, on_change: Callable[[], None]) -> None:
        self._body = body
        self._scope = scope
        timeline = body.timeline
        binding = SanlockBinding(body.sanlock, timeline)
        seams = GuardSeams(
            find=lambda: [copy.process for copy in body.libvirt.processes()],
            age=lambda process: (timeline.now - process.start_ticks * 10_000_000) * 1e-9,
            sanlock=status_of(body.sanlock, timeline, body.lease),
            owner=lambda: _owner(body.lease, binding),
            asleep=lambda: body.clock.slept,
            order=fencer.order,
            on_change=on_change,
            stuck=lambda: fencer.state == STUCK,
            reset=body.want_reset,
            ran=lambda process: any(copy.ran for copy in body.libvirt.processes() if copy.pid == process.pid),
        )
        super().__init__(body.lease, seams, body.clock, body.timers)
        self.beat = Beat(timeline, scope, self._turn)

    def loop(self, name: str, step: Callable[[], None], interval: float) -> Loop:
        body = self._body
        return EventLoop(
            name,
            step,
            body.clock,
            body.timeline,
            self._scope,
            lambda: interval,
            lambda: body.timers.facts_stale,
            dormant=lambda: not self._copies,
        )

    def start(self) -> None:
        self.beat.wake(self._body.random.random() * self._body.timers.guard_poll)

    def process_appeared(self) -> None:
        """Its look at the processes comes every two seconds; only where there is none, looking is left out."""
        if self.beat.asleep:
            self.beat.wake(self._body.random.random() * self._body.timers.guard_poll)

    def _turn(self) -> Optional[float]:
        self.round()
        return self._body.clock.world(TICK) if self._copies else None


def _owner(lease: LeaseId, binding: SanlockBinding) -> LeaseOwner:
    return vm_lease.owner(lease, api=binding)


class EventCollector(Collector):
    body: Body

    def ha_conf(self) -> HaConf:
        if self.body.ha_conf_problem:
            raise ConfigError("/ha.conf", "local_maintenance", "True or False", self.body.ha_conf_problem)
        return self.body.ha_conf


class AgentSeat:
    """One life of the agent."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.born = body.timeline.now
        self.scope = Scope(body.scope)
        self.stopping = False
        self._broker_problem = True
        self._writing_until = 0
        self._unwritten: Optional[Callable[[], None]] = None
        clock, timers = body.clock, body.timers
        conf = AgentConf(
            score=body.score_config, migration_address=body.migration_address, allow_unfenced=body.allow_unfenced
        )
        self._identity = Identity(body.conf_id, body.hostname, body.boot_id, body.lease, conf, __version__)
        self._published = PublishClock()
        self._link = DirectLink(body, timers.rpc_deadline)
        self._beat = Beat(body.timeline, self.scope, self._turn)
        self.fencer = EventFencer(body, self.scope, self.wake)
        self.guard = EventGuard(body, self.scope, self.fencer, self.wake)
        self.actions = EventActions(
            body,
            lambda: self.guard,
            self.scope,
            None,
            clock,
            self._definition,
            self._objection,
            self.wake,
            lambda seconds: self.guard.suspend(seconds, "action"),
        )
        self.cycle = Cycle(
            collector=self._collector(),
            actions=_Audited(self),
            fencer=self.fencer,
            publisher=self._publisher(),
            save=self._save,
            timers=timers,
            carried=Carried(),
        )
        saved = body.budgets
        if saved is not None and saved[0] == body.boot_id:
            self.cycle.carried = replace(self.cycle.carried, budgets=saved[1])
        self.guard.start()
        self._beat.wake(0.2)
        self._listen()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._beat.wake(MIN_GAP + self.body.jitter * self.body.random.random())

    def _listen(self) -> None:
        broker = self.body.broker
        if broker is not None and self.wake not in broker.waiters:
            broker.waiters.append(self.wake)

    def _turn(self) -> Optional[float]:
        body = self.body
        self._listen()
        try:
            if self._broker_problem:
                self._register()
            decision = self.cycle.run_one_cycle()
        except BrokerError as problem:
            if not self._broker_problem:
                body.trace(f"agent: {problem}")
            self._broker_problem = True
            return BROKER_RETRY
        self._broker_problem = False
        before = self.cycle.before
        facts = None if before is None else before.monitors.engine.value
        if facts is not None and facts.outgoing:
            self.guard.suspend(body.timers.own_migration_pause, "migration")
        body.decided(self.cycle, decision)
        wait = max(0.0, decision.wake_at - body.clock.monotonic())
        return body.clock.world(wait) + MIN_GAP + body.jitter * body.random.random()

    def _register(self) -> None:
        seat = self.body.broker
        if seat is None or seat.hung:
            raise BrokerUnavailable("simulated", "refused", "no broker")
        seat.lockspaces.want(self.body.conf_id)

    def say_goodbye(self) -> bool:
        """The final record. The VM runs on."""
        self.stopping = True
        try:
            self.body.decided(self.cycle, self.cycle.run_one_cycle(stopping=True))
            if self._unwritten is not None:
                self._unwritten()  # one was about to be written; it writes the final record as well
        except BrokerError:
            return False
        finally:
            self.scope.end()
        return True

    def killed(self) -> None:
        self.scope.end()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _launch(self, write: Callable[[], None]) -> None:
        """The slot is written beside the cycle, one write at a time. The final record is waited for."""
        timeline = self.body.timeline
        if self.stopping:
            write()
        else:
            self._unwritten = write
            timeline.at(max(timeline.shown, self._writing_until), lambda: self._write(write), self.scope)

    def _write(self, write: Callable[[], None]) -> None:
        self._unwritten = None
        write()
        self._writing_until = self.body.timeline.shown

    def _collector(self) -> EventCollector:
        workers = Workers(
            definition=self.body.definition,
            report=lambda: self.actions.report(),
            fencing=lambda: self.fencer.state,
            cpu_model=lambda: self.body.cpu_model,
            guard=lambda: self.guard.report,
            safeguards=lambda: self.body.safeguards,
            host_shutdown=lambda: self.body.seconds_to_shutdown(),
        )
        made = EventCollector(
            self._link.snapshot, self._identity, Path("/ha.conf"), workers, self.body.clock, self._published
        )
        made.body = self.body
        return made

    def _publisher(self) -> Publisher:
        body = self.body
        made = Publisher(self._link, body.conf_id, body.clock, self._published, body.timers, self._launch)
        made._changed = Still()
        return made

    def _definition(self) -> Definition:
        effective = self.body.definition()
        if effective.problem:
            raise StartRefused(effective.problem, effective.detail)
        return Definition(effective.xml, self.body.lease)

    def _objection(self) -> str:
        if self.stopping:
            return "agent-stopped"
        try:
            return self.cycle.objection_to_start(self._collector().collect)
        except BrokerError as e:
            return f"broker: {e}"

    def _save(self, carried: Carried) -> None:
        self.body.budgets = (self.body.boot_id, carried.budgets)


class _Audited:
    """The action worker as the cycle sees it; each order is shown to the invariants first."""

    def __init__(self, seat: AgentSeat) -> None:
        self._seat = seat

    def order(self, action: Action) -> bool:
        self._seat.body.ordered(self._seat.cycle, action)
        return self._seat.actions.order(action)

    def taken(self, report: Optional[ActionReport]) -> None:
        self._seat.actions.taken(report)

    def abort_migration(self) -> None:
        self._seat.actions.abort_migration()


def quiet() -> Callable[[], None]:
    """No log of the product while a world runs; returns what undoes it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    return lambda: logging.disable(before)


__all__ = ["VMID", "AgentSeat", "Body", "BrokerSeat", "DirectLink", "quiet"]
