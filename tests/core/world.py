"""Host 1 of a small cluster, in which every fact can be set; time passes by steps."""

from dataclasses import replace
from types import MappingProxyType

from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    Budgets,
    Carried,
    EngineFacts,
    EngineStatus,
    Exit,
    Health,
    HostFacts,
    HostLease,
    LeaseFacts,
    LeaseId,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Outcome,
    Reading,
    Record,
    Seen,
    Snapshot,
    State,
    Vm,
)
from ovirt_he_ha.core.situation import lease_text
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers

T = Timers()
LEASE = LeaseId("sd", "vol", "/srv/sd/images/img/vol.lease")
OTHER_LEASE = replace(LEASE, key="other")

UP = EngineStatus(Vm.UP, Health.GOOD, "Up")
BAD = EngineStatus(Vm.UP, Health.BAD, "Up")
DOWN = EngineStatus(Vm.DOWN, Health.BAD, "Down")
GONE = EngineStatus(Vm.DOWN_UNEXPECTED, Health.BAD, "Down")
MISSING = EngineStatus(Vm.DOWN_MISSING, Health.BAD, "unknown")
PAUSED = EngineStatus(Vm.UP, Health.BAD, "Paused")
UNKNOWN = EngineStatus(Vm.UNKNOWN, Health.UNKNOWN)

OWN_EXTRA = (
    ("state", "EngineDown"),
    ("mig", "1"),
    ("mig.uri", "192.0.2.2"),
    ("cpu", "same"),
    ("mem", "9000"),
    ("lease", lease_text(LEASE)),
)


def peer(host_id, score=3400, engine=DOWN, extra=OWN_EXTRA, extra_ok=True, **more):
    return Record(
        host_id, 100, score, engine, f"host{host_id}", crc32="00000064", extra=extra, extra_ok=extra_ok, **more
    )


def changed(extra, **values):
    """``extra`` with other values; None takes a key out. ``mig_uri`` stands for ``mig.uri``."""
    wanted = {key.replace("_", "."): value for key, value in values.items()}
    kept = [(key, value) for key, value in extra if key not in wanted]
    return (*kept, *((key, value) for key, value in wanted.items() if value is not None))


class World:
    """A cluster that may start the VM on host 1 at once: hosts 2 and 3 are alive with the same score, the lease is
    free."""

    def __init__(self, peers=(2, 3), state=State.ENGINE_DOWN, **carried):
        self.now = 10_000.0
        self.carried = Carried(state=state, entered_at=self.now, started_at=self.now, **carried)
        self.slots = {}
        self.frozen = set()
        self.slots_age = 0.0
        self.flags = {1: HostLease.LIVE}
        self.hosts_age = 0.0
        self.owner = Reading.of(LeaseOwner(0))
        self.lockspace = Reading.of(LockspaceState.HELD)
        self.whiteboard = Reading.of(LockspaceState.HELD)
        self.watchdog_armed = True
        self.reset_within = None
        self.owner_silent = None
        self.joining_for = None
        self.renewed_ago = 5.0
        self.owner_left = None
        self.owner_left_for = None
        self.io_timeout = 10
        self.generation = 1
        self.global_maintenance = Reading.of(False)
        self.host = HostFacts(
            1,
            "host1",
            "boot",
            local_maintenance=Reading.of(False),
            memory_needed=4096,
            lease=LEASE,
            can_migrate=True,
            migration_address="192.0.2.1",
            cpu_model="same",
            version="1",
        )
        self.monitors = Monitors(
            network=Reading.of(1.0),
            bridge=Reading.of(True),
            mem_free=Reading.of(8192),
            cpu_load=Reading.of(0.1),
            storage_latency=Reading.of(0.01),
        )
        self.facts = EngineFacts(DOWN)
        self.engine = None  # a Reading that replaces ``facts``
        self.report = None
        self.more = {}
        self.decision = None
        for host_id in peers:
            self.add(peer(host_id))
            self.flags[host_id] = HostLease.LIVE

    # --- setting ------------------------------------------------------------------------------------------------

    def add(self, slot, alive=True):
        """Put a slot; an alive one has been seen to change just now."""
        self.slots[slot.host_id] = slot
        seen = dict(self.carried.seen)
        if alive:
            seen[slot.host_id] = Seen("before", self.now - 100.0, self.now)
        else:
            seen[slot.host_id] = Seen(f"{slot.timestamp}:{slot.crc32}", self.now - 1000.0, None)
            self.frozen.add(slot.host_id)
        self.carried = replace(self.carried, seen=MappingProxyType(seen))
        return self

    def edit(self, host_id, **changes):
        self.slots[host_id] = replace(self.slots[host_id], **changes)
        return self

    def dead(self, host_id):
        """The host is gone: its slot stays as it is, sanlock says DEAD."""
        self.flags[host_id] = HostLease.DEAD
        return self.add(self.slots[host_id], alive=False)

    def vm(self, status, **facts):
        self.facts = replace(self.facts, status=status, **facts)
        return self

    def runs(self, health=Health.GOOD, **facts):
        """The VM runs here with our lease."""
        known = {"uptime": 1000.0, "pid": 4711, "lease_defined": True, **facts}
        self.facts = EngineFacts(EngineStatus(Vm.UP, health, "Up"), **known)
        self.owner = Reading.of(LeaseOwner(1, 1))
        return self

    def gone(self, exit_=Exit.CRASHED, age=0.0, status=GONE):
        """The VM left this host."""
        self.facts = EngineFacts(status, last_exit=exit_, exit_age=None if exit_ is Exit.NONE else age)
        self.owner = Reading.of(LeaseOwner(0))
        return self

    def local(self, on=True):
        self.host = replace(self.host, local_maintenance=Reading.of(on))
        return self

    def watch(self, **monitors):
        self.monitors = replace(self.monitors, **monitors)
        return self

    def budget(self, **budgets):
        self.carried = replace(self.carried, budgets=replace(self.carried.budgets, **budgets))
        return self

    def carry(self, **changes):
        self.carried = replace(self.carried, **changes)
        return self

    # --- time ---------------------------------------------------------------------------------------------------

    def snapshot(self):
        engine = self.engine if self.engine is not None else Reading.of(self.facts)
        return Snapshot(
            now=self.now,
            wall_offset=1_600_000_000.0,
            host=self.host,
            slots=dict(self.slots),
            slots_age=self.slots_age,
            global_maintenance=self.global_maintenance,
            monitors=replace(self.monitors, engine=engine),
            leases=LeaseFacts(
                lockspace=self.lockspace,
                whiteboard=self.whiteboard,
                hosts=Reading.of(dict(self.flags), self.hosts_age),
                owner=self.owner,
                own_generation=self.generation,
                watchdog_armed=self.watchdog_armed,
                reset_within=self.reset_within,
                owner_silent=self.owner_silent,
                joining_for=self.joining_for,
                renewed_ago=self.renewed_ago,
                owner_left=self.owner_left,
                owner_left_for=self.owner_left_for,
                io_timeout=self.io_timeout,
            ),
            carried=self.carried,
            report=self.report,
            **self.more,
        )

    def look(self):
        """Decide without a consequence."""
        return decide(self.snapshot(), T)

    def step(self, after=0.0):
        """Time passes, live peers publish, this host decides; its one action begins."""
        self.now += after
        for host_id, slot in self.slots.items():
            if isinstance(slot, Record) and host_id not in self.frozen and after > 0:
                self.slots[host_id] = replace(slot, timestamp=slot.timestamp + max(1, int(after)))
        if self.facts.bad_for is not None:
            self.facts = replace(self.facts, bad_for=self.facts.bad_for + after)
        if self.facts.exit_age is not None:
            self.facts = replace(self.facts, exit_age=self.facts.exit_age + after)
        self.decision = decide(self.snapshot(), T)
        self.carried = self.decision.carried
        if self.report is not None and self.report.outcome is not None:
            self.report = None
        if self.decision.action is not None:
            assert self.report is None
            self.report = ActionReport(self.decision.action, self.now)
        return self.decision

    def finish(self, outcome=Outcome.OK, detail="", after=1.0):
        """The action under way ends; the decision that reads it."""
        assert self.report is not None
        self.report = replace(self.report, outcome=outcome, finished_at=self.now + after, detail=detail)
        return self.step(after)

    def run(self, seconds, every=5.0):
        """Steps until an action is ordered or the time is over. Returns seconds passed."""
        begun = self.now
        while self.now < begun + seconds:
            if self.step(every).action is not None:
                break
        return self.now - begun


def kind(decision):
    return decision.action.kind if decision.action is not None else None


def codes(decision):
    return [reason.code for reason in decision.reasons]


def events(decision):
    return {countdown.event: countdown.at for countdown in decision.countdowns}


def extra(decision):
    return dict(decision.record.extra)


__all__ = [
    "BAD",
    "DOWN",
    "GONE",
    "LEASE",
    "MISSING",
    "OTHER_LEASE",
    "OWN_EXTRA",
    "PAUSED",
    "UNKNOWN",
    "UP",
    "Action",
    "ActionKind",
    "ActionReport",
    "Budgets",
    "T",
    "World",
    "changed",
    "codes",
    "events",
    "extra",
    "kind",
    "peer",
]
