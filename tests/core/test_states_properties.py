"""Any snapshot at all: the rules that hold whatever the world looks like."""

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ovirt_he_ha.core import notes, slot
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    Budgets,
    Carried,
    Decision,
    Empty,
    EngineFacts,
    EngineStatus,
    Exit,
    Health,
    HostFacts,
    HostLease,
    Invalid,
    LeaseFacts,
    LeaseOwner,
    LoadSample,
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
from ovirt_he_ha.core.reasons import describe, describe_countdown
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers
from tests.core.world import LEASE, OTHER_LEASE, OWN_EXTRA, World, changed

NOW = 100_000.0
T = Timers()


def reading(values, stale=True):
    ages = st.sampled_from([0.0, 1.0, 24.0, 25.0, 26.0, 500.0] if stale else [0.0])
    return st.one_of(
        st.builds(Reading.of, values, ages),
        st.builds(Reading.missing, st.sampled_from(["not-yet", "overdue", "error"]), st.none() | ages),
    )


def often(value, other):
    """``value`` three times of four: so that the world is mostly sound and single faults matter."""
    return st.one_of(st.just(value), st.just(value), st.just(value), other)


moments = st.none() | st.floats(NOW - 4000, NOW + 700)
ages = st.none() | st.sampled_from([0.0, 1.0, 4.0, 6.0, 29.0, 31.0, 59.0, 61.0, 299.0, 301.0, 5000.0])
details = st.sampled_from(["Up", "Down", "Paused", "Migration Source", "Migration Destination", "unknown", "höhö|\n"])
engines = st.builds(
    EngineStatus, st.sampled_from(list(Vm)), st.sampled_from(list(Health)), details, st.text(max_size=5)
)
facts = st.builds(
    EngineFacts,
    engines,
    st.sampled_from(list(Exit)),
    exit_age=ages,
    uptime=ages,
    paused_for=st.none() | ages,
    pause_reason=st.sampled_from(["", "user", "migration", "starting-up", "ioerror"]),
    bad_for=ages,
    stalled_for=ages,
    guest_agent=st.none() | st.booleans(),
    pid=st.none() | st.just(4711),
    lease_defined=st.none() | st.booleans(),
    incoming=often(False, st.just(True)),
    outgoing=often(False, st.just(True)),
)
extras = st.one_of(
    st.just(OWN_EXTRA),
    st.builds(
        lambda **values: changed(OWN_EXTRA, **values),
        state=st.sampled_from([state.value for state in State]),
        mig=st.sampled_from(["1", "0"]),
        cpu=st.sampled_from(["same", "other"]),
        mem=st.sampled_from(["0", "9999", "x"]),
        phase=st.sampled_from(["restarting", "up"]),
        lease=often("sd:vol:/srv/sd/images/img/vol.lease:0", st.just("sd:other:/p:0")),
    ),
    st.just(()),
)


def slots(host_id):
    record = st.builds(
        Record,
        st.just(host_id),
        st.integers(1, 5),
        st.sampled_from([0, 1000, 2400, 3399, 3400, 3401, 9999]),
        st.none() | engines,
        st.just(f"host{host_id}"),
        maintenance=often(False, st.just(True)),
        stopped=often(False, st.just(True)),
        extra=extras,
        extra_ok=often(True, st.just(False)),
    )
    invalid = st.builds(Invalid, st.sampled_from(["crc", "too-new", "short-line"]))
    return st.one_of(record, record, record, invalid, st.just(Empty()))


seen = st.builds(Seen, st.sampled_from(["1:", "2:", "invalid"]), st.floats(NOW - 900, NOW), moments)
actions = st.builds(
    Action, st.sampled_from(list(ActionKind)), st.sampled_from([0, 2]), st.just("192.0.2.2"), st.floats(0, 300)
)
reports = st.builds(
    ActionReport,
    actions,
    st.floats(NOW - 400, NOW),
    st.none() | st.sampled_from(list(Outcome)),
    st.none() | st.just(NOW),
    st.text(max_size=5),
)
budgets = st.builds(
    Budgets,
    start_failures=often(0, st.integers(0, 40)),
    next_start_at=often(0.0, st.floats(NOW - 700, NOW + 700)),
    crashes=st.lists(st.floats(NOW - 700, NOW), max_size=4).map(tuple),
    backoff_step=st.integers(0, 9),
    hung_restarts=st.lists(st.floats(NOW - 4000, NOW), max_size=4).map(tuple),
    moves=st.lists(st.floats(NOW - 4000, NOW), max_size=3).map(tuple),
    handed_over_until=often(0.0, st.floats(NOW - 70, NOW + 70)),
    healthy_since=moments,
)
NOTES = [
    notes.SEEN_HERE,
    notes.RESTART_AT,
    notes.CRASH_BACKOFF,
    notes.GUEST_OFF,
    notes.LOST_RACE,
    notes.STARTED,
    notes.EXIT_KNOWN,
    notes.MOVED,
    notes.AWAY,
    notes.POWERED_OFF,
    notes.CLAIM + "2",
]
carrieds = st.builds(
    Carried,
    state=st.sampled_from(list(State)),
    entered_at=st.floats(NOW - 700, NOW),
    seen=st.dictionaries(st.sampled_from([2, 3]), seen, max_size=2),
    loads=st.lists(st.builds(LoadSample, st.floats(NOW - 1000, NOW), st.none() | st.floats(0, 1)), max_size=4).map(
        tuple
    ),
    budgets=budgets,
    own_start_at=moments,
    startable_since=moments,
    no_peer_since=moments,
    better_peer_since=moments,
    migration=st.none() | actions,
    migration_tries=st.integers(0, 4),
    migration_error=st.sampled_from(["", "refused"]),
    next_migration_at=st.floats(NOW - 100, NOW + 100),
    stop_asked_at=moments,
    stop_purpose=st.sampled_from(["", "hung", "hand-over", "maintenance", "never-healthy"]),
    stop_limit=st.sampled_from([0.0, 15.0, 300.0]),
    start_problem=st.sampled_from(["", "start-failed", "never-came-up"]),
    hold_down_until=moments,
    notes=st.dictionaries(st.sampled_from(NOTES), st.floats(NOW - 700, NOW + 20), max_size=3),
)
held = often(Reading.of(LockspaceState.HELD), reading(st.sampled_from(list(LockspaceState))))
leases = st.builds(
    LeaseFacts,
    lockspace=held,
    whiteboard=held,
    hosts=reading(st.dictionaries(st.sampled_from([1, 2, 3]), st.sampled_from(list(HostLease)))),
    owner=reading(st.builds(LeaseOwner, st.sampled_from([0, 1, 2, 3, 9]), st.integers(0, 3))),
    own_generation=st.none() | st.integers(0, 9),
    watchdog_armed=often(True, st.none() | st.just(False)),
    reset_within=often(None, st.floats(0.1, 150.0)),
    renewed_ago=often(5.0, st.sampled_from([None, 29.9, 30.0, 300.0])),
    owner_left=often(None, st.integers(0, 4)),
    owner_left_for=st.sampled_from([None, 0.0, 159.9, 160.0]),
)
hosts = st.builds(
    HostFacts,
    st.just(1),
    st.sampled_from(["host1", "höst|1"]),
    st.just("boot"),
    local_maintenance=often(Reading.of(False), reading(st.booleans())),
    maintenance_reason=st.text(max_size=5),
    memory_needed=st.just(4096),
    lease=often(LEASE, st.sampled_from([None, OTHER_LEASE])),
    definition_problem=often("", st.just("qcow2")),
    can_migrate=st.booleans(),
    migration_address=st.sampled_from(["", "192.0.2.1"]),
    cpu_model=st.sampled_from(["same", ""]),
    allow_unfenced=st.booleans(),
)
monitors = st.builds(
    Monitors,
    network=reading(st.sampled_from([0.0, 0.4, 1.0])),
    bridge=reading(st.booleans()),
    mem_free=reading(st.sampled_from([0, 9000])),
    cpu_load=reading(st.sampled_from([0.0, 0.95])),
    engine=often(None, st.just(True)).flatmap(
        lambda broken: reading(facts) if broken else st.builds(Reading.of, facts)
    ),
)
snapshots = st.builds(
    Snapshot,
    now=st.just(NOW),
    wall_offset=st.just(1_600_000_000.0),
    host=hosts,
    slots=st.fixed_dictionaries({}, optional={2: slots(2), 3: slots(3), 1: slots(1)}),
    slots_age=often(0.0, st.none() | st.sampled_from([24.0, 26.0])),
    global_maintenance=often(Reading.of(False), reading(st.booleans(), stale=False)),
    monitors=monitors,
    leases=leases,
    carried=carrieds,
    report=st.none() | reports,
    stopping=often(False, st.just(True)),
    publish_failed_for=st.none() | st.just(40.0),
    fencing=often("", st.sampled_from(["killing", "stuck"])),
    storage_problem=often("", st.just("read-only")),
    overwritten=often(False, st.just(True)),
    state_problem=often("", st.just("read-only")),
)


def vm_of(snapshot):
    engine = snapshot.monitors.engine
    if not engine.known or engine.age > T.facts_stale:
        return Vm.UNKNOWN
    return engine.value.status.vm


def may_have_lease(snapshot):
    """The owner on disk, judged without the policy's code."""
    reading_ = snapshot.leases.owner
    if not reading_.known or reading_.age > T.facts_stale:
        return False
    owner = reading_.value.host_id
    if owner in (0, 1):
        return True
    listed = snapshot.leases.hosts
    if not listed.known or listed.age > T.facts_stale or not listed.value:
        return False
    flag, left, generation = listed.value.get(owner), snapshot.leases.owner_left, reading_.value.generation
    if flag is HostLease.DEAD or left == generation:
        return True
    waited = (snapshot.leases.owner_left_for or 0.0) >= 160.0
    return flag in (None, HostLease.FREE) and left is not None and left > generation and waited


def check(snapshot, decision):
    assert isinstance(decision, Decision)
    vm = vm_of(snapshot)
    action = decision.action
    # One action at a time, none while the VM, the cluster's maintenance or the agent's future is unknown (S5, S9).
    if action is not None:
        assert snapshot.global_maintenance.value is False
        assert vm is not Vm.UNKNOWN
        assert snapshot.report is None or snapshot.report.outcome is not None
        assert not snapshot.stopping
        assert not snapshot.fencing
        assert decision.fence is None
    if action is not None and action.kind is ActionKind.START:
        check_start(snapshot, decision, vm)
    elif action is not None:
        assert vm is Vm.UP
        # S10: something of ours, never a remote slot alone.
        assert decision.carried.stop_purpose or action.kind is ActionKind.MIGRATE
    if decision.fence is not None:
        assert vm is Vm.UP
        assert decision.fence.deadline > 0
    check_record(snapshot, decision)
    for why in decision.reasons:
        assert describe(why)
    for ahead in decision.countdowns:
        assert ahead.at > snapshot.now
        assert describe_countdown(ahead, snapshot.now)
    assert snapshot.now < decision.wake_at <= snapshot.now + T.cycle
    assert decision.carried.state is decision.state
    assert 0 <= decision.score.score <= snapshot.host.score.base_score


def check_start(snapshot, decision, vm):
    assert vm is not Vm.UP
    assert may_have_lease(snapshot)
    assert snapshot.host.local_maintenance.value is False
    assert snapshot.host.lease is not None
    assert not snapshot.host.definition_problem
    assert snapshot.leases.watchdog_armed or snapshot.host.allow_unfenced
    assert snapshot.leases.reset_within is None
    assert snapshot.leases.renewed_ago is not None and snapshot.leases.renewed_ago < 30.0
    for lockspace in (snapshot.leases.lockspace, snapshot.leases.whiteboard):
        assert lockspace.value is LockspaceState.HELD
    # S3, without the policy's code: nobody may be there whom we neither saw change, nor be silent, nor dead.
    assert snapshot.slots_age is not None
    assert snapshot.slots_age <= T.facts_stale
    assert not any(slot.reason == "too-new" for slot in snapshot.slots.values() if isinstance(slot, Invalid))
    assert decision.state is State.ENGINE_START


def check_record(snapshot, decision):
    record = decision.record
    if snapshot.leases.whiteboard.value is not LockspaceState.HELD:
        assert record is None
    if record is None:
        return
    data = slot.encode(record, snapshot.wall_offset)
    assert len(data) == 4096
    assert data.isascii()
    decoded = slot.decode(1, data)
    assert isinstance(decoded, Record)
    assert decoded.extra_ok
    assert decoded.get("state") == decision.state.value
    if decoded.engine is not None and decoded.engine.vm is not Vm.UNKNOWN:
        assert decoded.engine.health is not Health.UNKNOWN
    assert decoded.maintenance == (decision.state is State.LOCAL_MAINTENANCE)
    if vm_of(snapshot) is Vm.UP and snapshot.global_maintenance.value is False:
        assert not decoded.maintenance


def sound(ready):
    """A world in which the next decision is an action."""
    world = World()
    if ready != "start":
        world.carry(state=State.ENGINE_UP)
        world.runs(Health.BAD, bad_for=400.0)
    if ready == "move":
        world.runs().local()
    if ready == "power-off":
        world.carry(state=State.ENGINE_STOP, stop_asked_at=world.now - 20, stop_limit=15.0, stop_purpose="hung")
    snapshot = world.snapshot()
    shift = NOW - world.now
    seen = {host_id: replace(s, since=s.since + shift, changed_at=NOW) for host_id, s in snapshot.carried.seen.items()}
    carried = replace(snapshot.carried, seen=seen, entered_at=NOW)
    if ready == "power-off":
        carried = replace(carried, stop_asked_at=NOW - 20)
    return replace(snapshot, now=NOW, carried=carried)


# Where one field of a sound world may be replaced by that of an arbitrary one.
PARTS = {
    "host": [f.name for f in fields(HostFacts) if f.name not in ("host_id", "hostname", "boot_id", "score", "version")],
    "leases": ["lockspace", "whiteboard", "hosts", "owner", "watchdog_armed", "renewed_ago"],
    "monitors": ["network", "bridge", "engine"],
    "carried": [f.name for f in fields(Carried) if f.name != "started_at"],
    "": ["slots", "slots_age", "global_maintenance", "report", "stopping", "fencing"],
}
PLACES = [(part, name) for part, names in PARTS.items() for name in names]


def disturbed(base, other, places):
    for part, name in places:
        if part:
            value = getattr(getattr(other, part), name)
            base = replace(base, **{part: replace(getattr(base, part), **{name: value})})
        else:
            base = replace(base, **{name: getattr(other, name)})
    return base


@settings(max_examples=600)
@given(
    st.sampled_from(["start", "stop", "move", "power-off"]),
    snapshots,
    st.lists(st.sampled_from(PLACES), max_size=2),
)
def test_rules_hold_around_every_action(ready, other, places):
    snapshot = disturbed(sound(ready), other, places)
    decision = decide(snapshot)
    check(snapshot, decision)
    if not places:
        assert decision.action is not None
    # S5: with an unknown in the place of what was known, nothing acts.
    for blind in blinded(snapshot):
        assert decide(blind).action is None


def blinded(snapshot):
    unknown = Reading.missing("error")
    yield replace(snapshot, global_maintenance=unknown)
    yield replace(snapshot, monitors=replace(snapshot.monitors, engine=unknown))
    if vm_of(snapshot) is not Vm.UP:
        for name in ("owner", "lockspace", "whiteboard"):
            yield replace(snapshot, leases=replace(snapshot.leases, **{name: unknown}))
        yield replace(snapshot, leases=replace(snapshot.leases, renewed_ago=None))
        yield replace(snapshot, slots_age=None)
        yield replace(snapshot, host=replace(snapshot.host, local_maintenance=unknown))


@settings(max_examples=300)
@given(snapshots)
def test_rules_hold_for_any_snapshot(snapshot):
    decision = decide(snapshot)
    check(snapshot, decision)
    assert decide(snapshot) == decision


@settings(max_examples=150)
@given(snapshots, st.lists(st.tuples(st.sampled_from([0.5, 5.0, 10.0, 61.0]), facts), max_size=6))
def test_rules_hold_for_any_course_of_events(snapshot, course):
    for after, engine in course:
        decision = decide(snapshot)
        check(snapshot, decision)
        snapshot = replace(
            snapshot,
            now=snapshot.now + after,
            carried=decision.carried,
            report=None if decision.action is None else ActionReport(decision.action, snapshot.now, Outcome.OK),
            monitors=replace(snapshot.monitors, engine=Reading.of(engine)),
        )
