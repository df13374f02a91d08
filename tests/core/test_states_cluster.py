"""Three hosts decide about one VM: slots travel as bytes, one lease, no clock but the loop's.

A small model, not the simulator: it shows that decisions of several hosts fit together.
"""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    ActionKind,
    ActionReport,
    Carried,
    EngineFacts,
    EngineStatus,
    Exit,
    Health,
    HostFacts,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Outcome,
    Reading,
    Snapshot,
    State,
    Vm,
)
from ovirt_he_ha.core.states import decide
from tests.core.world import LEASE, T

START_TAKES = 2.0
BOOT_TAKES = 8.0
MIGRATION_TAKES = 3.0
DEAD_AFTER = 140.0


class Host:
    def __init__(self, host_id, offset):
        self.id = host_id
        self.offset = offset  # its monotonic clock differs from the world's
        self.carried = Carried()
        self.next_cycle = 0.0
        self.on = True
        self.report = None
        self.until = 0.0
        self.up_since = None
        self.exit = (Exit.NONE, 0.0)
        self.local = False
        self.network = 1.0
        self.decision = None


class Cluster:
    def __init__(self, count=3):
        self.now = 0.0
        self.hosts = {n: Host(n, 1000.0 * n) for n in range(1, count + 1)}
        self.slots = {}
        self.owner = 0
        self.off_since = {}
        self.starts = []

    # --- facts --------------------------------------------------------------------------------------------------

    def flag(self, host_id):
        if self.hosts[host_id].on:
            return HostLease.LIVE
        silent = self.now - self.off_since[host_id]
        return HostLease.DEAD if silent >= DEAD_AFTER else HostLease.FAIL if silent > 80 else HostLease.LIVE

    def facts(self, host):
        exit_, at = host.exit
        if host.up_since is None:
            vm = Vm.DOWN if exit_ in (Exit.NONE, Exit.MIGRATED, Exit.REQUESTED) else Vm.DOWN_UNEXPECTED
            return EngineFacts(
                EngineStatus(vm, Health.BAD, "Down"), exit_, None if exit_ is Exit.NONE else self.now - at
            )
        age = self.now - host.up_since
        health = Health.GOOD if age >= BOOT_TAKES else Health.BAD
        moving = host.report is not None and host.report.action.kind is ActionKind.MIGRATE
        return EngineFacts(EngineStatus(Vm.UP, health, "Up"), exit_, None, uptime=age, pid=1, outgoing=moving)

    def snapshot(self, host):
        now = self.now + host.offset
        return Snapshot(
            now=now,
            wall_offset=0.0,
            host=HostFacts(
                host.id,
                f"host{host.id}",
                "boot",
                local_maintenance=Reading.of(host.local),
                memory_needed=1024,
                lease=LEASE,
                can_migrate=True,
                migration_address=f"192.0.2.{host.id}",
                cpu_model="same",
            ),
            slots={host_id: slot.decode(host_id, data) for host_id, data in self.slots.items()},
            slots_age=0.0,
            global_maintenance=Reading.of(False),
            monitors=Monitors(
                network=Reading.of(host.network),
                bridge=Reading.of(True),
                mem_free=Reading.of(8192),
                cpu_load=Reading.of(0.0),
                engine=Reading.of(self.facts(host)),
            ),
            leases=LeaseFacts(
                lockspace=Reading.of(LockspaceState.HELD),
                whiteboard=Reading.of(LockspaceState.HELD),
                hosts=Reading.of({n: self.flag(n) for n in self.hosts}),
                owner=Reading.of(LeaseOwner(self.owner, 1)),
                watchdog_armed=True,
                renewed_ago=5.0,
            ),
            carried=host.carried,
            report=host.report,
        )

    # --- time ---------------------------------------------------------------------------------------------------

    def run(self, seconds, until=lambda: False):
        """In steps of half a second. Returns the seconds until ``until``, None if it never held."""
        begun = self.now
        while self.now - begun < seconds:
            self.now += 0.5
            for host in self.hosts.values():
                if host.on:
                    self.act(host)
            assert len(self.running()) <= 1
            if until():
                return self.now - begun
        return None

    def act(self, host):
        done = host.report is not None and host.report.outcome is None and self.now >= host.until
        if done:
            self.finish(host)
        if done or self.now >= host.next_cycle:
            self.cycle(host)

    def cycle(self, host):
        decision = decide(self.snapshot(host), T)
        host.decision, host.carried = decision, decision.carried
        if host.report is not None and host.report.outcome is not None:
            host.report = None
        if decision.record is not None:
            self.slots[host.id] = slot.encode(decision.record, 0.0)
        if decision.action is not None:
            self.order(host, decision.action)
        host.next_cycle = min(self.now + 2.0, decision.wake_at - host.offset)

    def order(self, host, action):
        assert host.report is None
        takes = {ActionKind.START: START_TAKES, ActionKind.MIGRATE: MIGRATION_TAKES}.get(action.kind, 1.0)
        host.report, host.until = ActionReport(action, self.now + host.offset), self.now + takes

    def finish(self, host):
        action = host.report.action
        outcome = Outcome.OK
        if action.kind is ActionKind.START:
            outcome = self.start(host)
        elif action.kind is ActionKind.MIGRATE:
            self.leave(host, Exit.MIGRATED)
            self.owner = action.target_id
            self.hosts[action.target_id].up_since = self.now - BOOT_TAKES
        else:
            self.leave(host, Exit.REQUESTED)
        host.report = replace(host.report, outcome=outcome, finished_at=self.now + host.offset)

    def start(self, host):
        self.starts.append((self.now, host.id))
        if self.owner not in (0, host.id) and self.flag(self.owner) is not HostLease.DEAD:
            return Outcome.LOST_RACE
        self.owner, host.up_since = host.id, self.now
        return Outcome.OK

    # --- faults and questions -------------------------------------------------------------------------------------

    def leave(self, host, exit_):
        host.up_since, host.exit = None, (exit_, self.now)
        host.next_cycle = self.now
        if self.owner == host.id:
            self.owner = 0

    def power_off(self, host_id):
        host = self.hosts[host_id]
        host.on, host.up_since = False, None
        self.off_since[host_id] = self.now

    def running(self):
        return [host.id for host in self.hosts.values() if host.on and host.up_since is not None]

    def healthy(self):
        return any(host.on and host.decision and host.decision.state is State.ENGINE_UP for host in self.hosts.values())

    def settled(self):
        """A healthy engine that everybody alive knows about."""
        self.run(300, self.healthy)
        self.run(20)
        assert len(self.running()) == 1
        return self.hosts[self.running()[0]]


@pytest.fixture
def cluster():
    return Cluster()


def test_all_hosts_cold_one_start(cluster):
    seconds = cluster.run(300, cluster.healthy)
    assert seconds <= 90
    assert [host_id for _, host_id in cluster.starts] == [1]


def test_a_crash_is_repaired_on_the_same_host_within_ten_seconds(cluster):
    home = cluster.settled()
    cluster.leave(home, Exit.CRASHED)
    assert cluster.run(60, lambda: bool(cluster.running())) <= 10
    cluster.run(60)
    assert cluster.running() == [home.id]
    assert len(cluster.starts) == 2


def test_crash_after_crash_goes_to_another_host(cluster):
    home = cluster.settled()
    for _ in range(2):
        cluster.leave(home, Exit.CRASHED)
        cluster.run(60, cluster.running)
        cluster.run(20)
        assert cluster.running() == [home.id]
    cluster.leave(home, Exit.CRASHED)
    assert cluster.run(60, lambda: bool(cluster.running())) <= 30
    assert cluster.running() != [home.id]


def test_a_lost_host_is_replaced_once_sanlock_calls_it_dead(cluster):
    home = cluster.settled()
    cluster.power_off(home.id)
    seconds = cluster.run(300, lambda: bool(cluster.running()))
    assert DEAD_AFTER <= seconds <= DEAD_AFTER + START_TAKES + 5
    cluster.run(120)
    assert len(cluster.starts) == 2  # nobody else tried


def test_local_maintenance_moves_and_then_rests(cluster):
    home = cluster.settled()
    home.local = True
    assert cluster.run(60, lambda: home.decision.state is State.LOCAL_MAINTENANCE) <= 30
    assert cluster.running() not in ([], [home.id])
    cluster.run(60)
    assert home.decision.record.maintenance
    assert len(cluster.starts) == 1


def test_a_lost_network_moves_the_vm(cluster):
    home = cluster.settled()
    home.network = 0.0
    assert cluster.run(120, lambda: home.up_since is None and bool(cluster.running())) <= 30
    cluster.run(600)
    assert len(cluster.starts) == 1  # and it does not come back


def test_everybody_loses_the_network_and_nobody_moves(cluster):
    home = cluster.settled()
    for host in cluster.hosts.values():
        host.network = 0.0
    cluster.run(600)
    assert cluster.running() == [home.id]


def test_a_stop_on_request_is_started_again_by_rank(cluster):
    home = cluster.settled()
    cluster.leave(home, Exit.REQUESTED)
    assert cluster.run(60, lambda: bool(cluster.running())) <= 10


@pytest.mark.parametrize("other", [2, 3])
def test_an_agent_that_restarts_changes_nothing(cluster, other):
    home = cluster.settled()
    for host_id in (home.id, other):
        cluster.hosts[host_id].carried = Carried()
    cluster.run(200)
    assert cluster.running() == [home.id]
    assert len(cluster.starts) == 1


def test_two_hosts_one_dies_and_comes_back():
    cluster = Cluster(2)
    home = cluster.settled()
    cluster.power_off(home.id)
    cluster.run(300, lambda: bool(cluster.running()))
    home.on, home.carried = True, Carried()
    home.next_cycle = cluster.now
    cluster.run(200)
    assert cluster.running() == [3 - home.id]
    assert len(cluster.starts) == 2
