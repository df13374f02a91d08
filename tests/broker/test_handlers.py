"""What each method checks and answers, and who may call it."""

import threading
from dataclasses import replace

import pytest

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.handlers import Handlers, Parts, Policy
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.protocol import METHODS, FaultCode, unpack_snapshot
from ovirt_he_ha.broker.rpc import Caller, Fault
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.core.model import (
    EngineStatus,
    Health,
    HostLease,
    LockspaceState,
    Reading,
    Record,
    Vm,
)
from ovirt_he_ha.core.slot import encode
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from tests.broker.fakes import FakeLockspaces, FakeMonitors, FakeNotifier, ManualClock, MemoryVolume, missing

OWN = Caller(100, 1036, 1036)
ROOT = Caller(101, 0, 0)
VDSM = Caller(102, 36, 36)
NOBODY = Caller(103, 65534, 65534)


def record(host_id, timestamp=100):
    engine = EngineStatus(Vm.DOWN, Health.BAD, "Down")
    return encode(
        Record(host_id=host_id, timestamp=timestamp, score=3400, engine=engine, hostname=f"host{host_id}"), 0.0
    )


class Bench:
    def __init__(self):
        self.clock = ManualClock()
        self.volume = MemoryVolume()
        self.changes = Changes(50)
        self.lockspaces = FakeLockspaces()
        self.monitors = FakeMonitors()
        self.notifier = FakeNotifier()
        self.stopping = threading.Event()
        self.resets = []
        self.board = Whiteboard(self.volume.open, 1, self.clock, Timers(), on_change=self.changes.bump)
        parts = Parts(
            self.board,
            self.lockspaces,
            self.monitors,
            self.notifier,
            self.changes,
            Metrics(),
            self.clock,
            lambda: self.resets.append(self.lockspaces.left),
            self.stopping,
        )
        self.handlers = Handlers(1, parts, Policy(own=OWN.uid))

    def call(self, method, *args, caller=OWN):
        return self.handlers.dispatch(caller, method, args)

    def fault(self, method, *args, caller=OWN):
        with pytest.raises(Fault) as caught:
            self.call(method, *args, caller=caller)
        return caught.value.code


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def held(bench):
    bench.call("lock_host_id", 1)
    bench.board.tick()
    return bench


# --- who may do what ----------------------------------------------------------------------------------------------

ARGUMENTS = {
    "start_monitor": ("network", {}),
    "stop_monitor": ("network",),
    "status_monitor": ("network",),
    "put_stats": (1, record(1)),
    "push_hosts_state": ([1],),
    "notify": ("state_transition", "A-B", {}),
    "start_domain_monitor": (1,),
    "lock_host_id": (1,),
    "wait_for_change": (0, 0.0),
}
READS = {"status_monitor", "get_stats", "is_host_alive", "snapshot", "wait_for_change", "health"}


def test_every_method_is_served():
    assert set(METHODS) == set(Bench().handlers._methods)


@pytest.mark.parametrize("caller", [OWN, ROOT])
@pytest.mark.parametrize("method", METHODS)
def test_root_and_the_daemons_user_may_do_everything(held, caller, method):
    held.call(method, *ARGUMENTS.get(method, ()), caller=caller)


@pytest.mark.parametrize("method", METHODS)
def test_the_vdsm_user_reads(held, method):
    arguments = ARGUMENTS.get(method, ())
    if method in READS:
        held.call(method, *arguments, caller=VDSM)
    else:
        assert held.fault(method, *arguments, caller=VDSM) is FaultCode.NOT_ALLOWED


def test_the_vdsm_user_sets_global_maintenance_and_no_other_slot(held):
    held.call("put_stats", 0, b"maintenance=1", caller=VDSM)
    assert held.volume.slot(0).startswith(b"maintenance=1")
    assert held.fault("put_stats", 1, record(1), caller=VDSM) is FaultCode.NOT_ALLOWED
    assert held.fault("put_stats", False, b"maintenance=0", caller=VDSM) in (
        FaultCode.NOT_ALLOWED,
        FaultCode.ARGUMENT,
    )


def test_who_may_connect():
    policy = Policy(own=OWN.uid)
    assert [policy.may_connect(caller) for caller in (OWN, ROOT, VDSM, NOBODY)] == [True, True, True, False]


def test_a_daemon_that_runs_as_vdsm_may_do_everything():
    policy = Policy(own=36)
    policy.check(VDSM, "put_stats", (1, b""))


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_number_of_arguments_is_a_fault(bench, method):
    assert bench.fault(method, *ARGUMENTS.get(method, ()), "one more") is FaultCode.ARGUMENT


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("put_stats", ("1", b"")),
        ("put_stats", (True, b"")),
        ("put_stats", (-1, b"")),
        ("put_stats", (2001, b"")),
        ("put_stats", (1, "text")),
        ("put_stats", (1, bytes(4097))),
        ("put_stats", (1, record(1) + b"\0")),
        ("put_stats", (1, b"1|1|5|")),
        ("put_stats", (1, record(2))),
        ("put_stats", (1, b"\xff" * 512)),
        ("put_stats", (1, record(1)[:600] + "é".encode())),
        ("put_stats", (0, b"maintenance=2")),
        ("put_stats", (0, b"maintenance=1maintenance=0")),
        ("put_stats", (0, b"\xff")),
        ("push_hosts_state", (1,)),
        ("push_hosts_state", (["1"],)),
        ("push_hosts_state", ([0],)),
        ("push_hosts_state", ([1] * 3000,)),
        ("notify", (1, "", {})),
        ("notify", ("a", "b" * 5000, {})),
        ("notify", ("a", "b", [])),
        ("notify", ("a", "b", {"k": ["list"]})),
        ("notify", ("a", "b", {str(n): "" for n in range(100)})),
        ("start_monitor", ("network", "x")),
        ("lock_host_id", ("1",)),
        ("lock_host_id", (0,)),
        ("lock_host_id", (2,)),
        ("start_domain_monitor", (3,)),
        ("wait_for_change", ("x", 1.0)),
        ("wait_for_change", (1, -1.0)),
        ("wait_for_change", (1, None)),
    ],
)
def test_refused_arguments(held, method, arguments):
    before = bytes(held.volume.data)
    assert held.fault(method, *arguments) is FaultCode.ARGUMENT
    assert held.volume.data == before


# --- slots --------------------------------------------------------------------------------------------------------


def test_stats_are_what_is_on_the_volume(held):
    assert held.call("get_stats") == {}
    held.call("put_stats", 1, record(1))
    held.volume.put(5, record(5))
    held.clock.now += 2
    held.board.tick(listed={1, 5, 9})
    found = held.call("get_stats")
    assert {host_id: data.ljust(4096, b"\0") for host_id, data in found.items()} == {"1": record(1), "5": record(5)}
    assert all(512 <= len(data) < 1024 for data in found.values())  # the field's clients drop what is shorter
    held.call("put_stats", 0, b"maintenance=1")
    assert held.call("get_stats")["0"] == b"maintenance=1".ljust(4096, b"\0")  # and want this one whole


def test_a_refused_write_is_not_served(held):
    held.volume.problem = missing()
    assert held.fault("put_stats", 0, b"maintenance=1") is FaultCode.STORAGE
    assert held.call("get_stats") == {}


@pytest.mark.parametrize(
    ("problem", "code"),
    [(StorageError("read-only", "/v"), FaultCode.STORAGE), (StorageOverdue("overdue", "/v"), FaultCode.OVERDUE)],
)
def test_storage_errors_are_faults(held, problem, code):
    held.volume.problem = problem
    assert held.fault("put_stats", 1, record(1)) is code


def test_slot_0_needs_no_host_id(bench):
    bench.call("put_stats", 0, b"maintenance=1")
    assert bench.volume.slot(0).startswith(b"maintenance=1")


@pytest.mark.parametrize("state", [state for state in LockspaceState if state is not LockspaceState.HELD])
def test_nothing_is_published_without_the_host_id(bench, state):
    bench.lockspaces.current = replace(bench.lockspaces.current, whiteboard=Reading.of(state))
    assert bench.fault("put_stats", 1, record(1)) is FaultCode.NOT_HELD
    assert bench.volume.slot(1) == bytes(4096)


def test_nothing_is_published_on_an_unknown_lockspace(bench):
    bench.lockspaces.current = replace(bench.lockspaces.current, whiteboard=Reading.missing("overdue"))
    assert bench.fault("put_stats", 1, record(1)) is FaultCode.NOT_HELD


@pytest.mark.parametrize("state", [LockspaceState.MISMATCH, LockspaceState.ID_TAKEN])
def test_nothing_is_published_when_the_other_lockspace_is_under_another_id(held, state):
    held.lockspaces.current = replace(held.lockspaces.current, lockspace=Reading.of(state))
    assert held.fault("put_stats", 1, record(1)) is FaultCode.NOT_HELD


def test_another_hosts_slot_is_refused(held):
    assert held.fault("put_stats", 2, record(2)) is FaultCode.NOT_OWNER


@pytest.mark.parametrize(
    ("lease", "cleaned"),
    [
        (HostLease.FREE, True),
        (HostLease.DEAD, True),
        (HostLease.LIVE, False),
        (HostLease.FAIL, False),
        (HostLease.UNKNOWN, False),
    ],
)
def test_another_hosts_slot_is_cleaned_only_when_sanlock_proves_it_unused(held, lease, cleaned):
    held.volume.put(7, record(7))
    held.lockspaces.current = replace(held.lockspaces.current, hosts=Reading.of({1: HostLease.LIVE, 7: lease}))
    if cleaned:
        held.call("put_stats", 7, b"")
        assert held.volume.slot(7) == bytes(4096)
    else:
        assert held.fault("put_stats", 7, b"") is FaultCode.NOT_OWNER
        assert held.volume.slot(7) == record(7)


def test_another_hosts_slot_is_not_cleaned_on_an_unknown_host_list(held):
    held.lockspaces.current = replace(held.lockspaces.current, hosts=Reading.missing("error"))
    assert held.fault("put_stats", 7, b"") is FaultCode.NOT_OWNER


def test_the_own_slot_can_be_cleaned(held):
    held.call("put_stats", 1, record(1))
    held.call("put_stats", 1, b"")
    assert held.volume.slot(1) == bytes(4096)


def test_slot_1_0_1_back_to_back_thirty_times_loses_nothing(held):
    for turn in range(30):
        flag = b"maintenance=%d" % (turn % 2)
        held.call("put_stats", 1, record(1, 2 * turn))
        held.call("put_stats", 0, flag)
        held.call("put_stats", 1, record(1, 2 * turn + 1))
        assert held.volume.slot(0).rstrip(b"\0") == flag
        assert held.volume.slot(1) == record(1, 2 * turn + 1)


# --- liveness -----------------------------------------------------------------------------------------------------


def test_live_hosts_are_believed_for_sixty_seconds(bench):
    assert bench.call("is_host_alive") == []
    bench.call("push_hosts_state", [1, 3, 3])
    bench.clock.now += 60
    assert bench.call("is_host_alive") == [1, 3]
    bench.clock.now += 0.1
    assert bench.call("is_host_alive") == []


# --- monitors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), [("network", "1.0"), ("mgmt-bridge", "None"), ("mem-free", "4096")])
def test_values_as_the_fields_agents_read_them(bench, kind, text):
    assert bench.call("start_monitor", kind, {"addr": "192.0.2.1", "timeout": 5}) == kind
    assert bench.call("status_monitor", kind) == text
    assert bench.call("stop_monitor", kind) == "ok"
    assert bench.call("status_monitor", kind) == text


def test_a_monitor_that_cannot_be_started_is_a_fault(bench):
    assert bench.fault("start_monitor", "network", {"addr": ""}) is FaultCode.ARGUMENT


@pytest.mark.parametrize("method", ["start_monitor", "status_monitor", "stop_monitor"])
@pytest.mark.parametrize("kind", ["no-such", "", 1, None, "__init__"])
def test_unknown_monitors(bench, method, kind):
    arguments = (kind, {}) if method == "start_monitor" else (kind,)
    assert bench.fault(method, *arguments) is FaultCode.NO_MONITOR


# --- notifications, lockspaces ------------------------------------------------------------------------------------


def test_notify(bench):
    assert bench.call("notify", "state_transition", "A-B", {"hostname": "h", "port": 25}) == "sent"
    assert bench.notifier.events == [("state_transition", "A-B", {"hostname": "h", "port": "25"})]


def test_lock_and_release(bench):
    assert bench.fault("release_host_id") is FaultCode.NOT_HELD
    assert bench.call("lock_host_id", 1) == "ok"
    assert bench.lockspaces.wanted == 1
    assert bench.call("start_domain_monitor", 1) == "ok"
    assert bench.call("stop_domain_monitor") == "ok"
    assert bench.call("release_host_id") == "ok"
    assert bench.lockspaces.left == 1


@pytest.mark.parametrize("state", [LockspaceState.ID_TAKEN, LockspaceState.MISMATCH, LockspaceState.NO_DAEMON])
def test_a_lock_that_cannot_be_had_is_a_fault(bench, state):
    bench.lockspaces.stuck = state
    assert bench.fault("lock_host_id", 1) is FaultCode.LOCKSPACE


def test_a_join_that_takes_its_time_is_awaited(bench):
    bench.lockspaces.stuck = LockspaceState.JOINING
    done = []
    caller = threading.Thread(target=lambda: done.append(bench.call("start_domain_monitor", 1)))
    caller.start()
    while bench.lockspaces.wanted is None:
        caller.join(0.001)
    bench.lockspaces.stuck = LockspaceState.HELD
    bench.lockspaces.want(1)
    bench.changes.bump()
    caller.join(5)
    assert done == ["ok"]


def test_reset_lockspace_leaves_first_and_joins_again(held):
    assert held.call("reset_lockspace") == "ok"
    assert held.resets == [1]
    assert held.lockspaces.wanted == 1


def test_a_reset_that_fails_is_a_fault_and_the_lockspace_is_wanted_again(held):
    def fail():
        held.lockspaces.wanted = None
        raise missing()

    held.handlers._parts = replace(held.handlers._parts, reset_lockspace=fail)
    assert held.fault("reset_lockspace") is FaultCode.LOCKSPACE
    assert held.lockspaces.wanted == 1


# --- ours ---------------------------------------------------------------------------------------------------------


def test_snapshot(held):
    held.call("put_stats", 1, record(1))
    held.clock.now += 3
    snapshot = unpack_snapshot(held.call("snapshot"))
    assert snapshot.slots == {0: bytes(4096), 1: record(1)}
    assert (snapshot.slots_age, snapshot.host_id, snapshot.storage.state) == (3.0, 1, "ok")
    assert snapshot.publish == protocol.PublishFacts(3.0, False, "")
    assert snapshot.leases.whiteboard.value is LockspaceState.HELD
    assert snapshot.serial == held.changes.serial


def test_snapshot_before_storage_was_found(bench):
    bench.volume.problem = missing()
    bench.board.tick()
    snapshot = unpack_snapshot(bench.call("snapshot"))
    assert (snapshot.slots_age, snapshot.storage.state) == (None, "missing")
    assert bench.call("health")["storage"]["state"] == "missing"


def test_health(held):
    held.call("push_hosts_state", [1])
    held.clock.now += 5
    health = held.call("health")
    assert (health["uptime"], health["alive"]) == (5, [1])
    assert "slots" not in health
    assert health["slot_ages"] == {}, "what was only ever found as it is has no age"
    protocol.parse_answer(protocol.answer_bytes(health))


def test_waiting_ends_with_a_change(bench):
    serial = bench.call("wait_for_change", 0, 0.0)
    found = []
    waiter = threading.Thread(target=lambda: found.append(bench.call("wait_for_change", serial, 10)))
    waiter.start()
    bench.changes.bump()
    waiter.join(5)
    assert found == [serial + 1]


def test_waiting_ends_with_the_timeout_and_with_the_broker(bench):
    serial = bench.changes.serial
    assert bench.call("wait_for_change", serial, 0.01) == serial
    bench.changes.close()
    assert bench.call("wait_for_change", serial, 60.0) == serial


def test_calls_of_a_stopping_broker_are_faults(bench):
    bench.stopping.set()
    assert bench.fault("get_stats") is FaultCode.STOPPING
