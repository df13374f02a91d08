"""The protection meter: what each lack makes of a whole cluster, on the VM's host and elsewhere."""

import string
from dataclasses import replace
from pathlib import Path

import pytest

from ovirt_he_ha.core import findings, protection, slot
from ovirt_he_ha.core.model import (
    Empty,
    EngineStatus,
    Health,
    HostLease,
    Invalid,
    Level,
    LockspaceState,
    Reading,
    Record,
    Safeguards,
    ScoreConfig,
    State,
    Vm,
)
from ovirt_he_ha.core.protection import Cluster, assess, host
from ovirt_he_ha.core.recovery import HOW, NOT_RECOVERED, UNKNOWN, forecasts
from ovirt_he_ha.core.safeguards import UNTOLD, facts_of, score_digest, timers_digest
from ovirt_he_ha.core.timers import Timers, announced_bounds
from tests.core.world import DOWN, UP, World, changed, extra, peer

S = State
WALL = 1_700_000_000
TOLD = (
    ("state", "EngineDown"),
    ("mig", "1"),
    ("mig.uri", "192.0.2.2"),
    ("cpu", "same"),
    ("lease", "sd:vol:/path:0"),
    ("version", "1"),
    ("def", "ok"),
    ("lockmgr", "sanlock"),
    ("wd", "1"),
    ("io", "10/60"),
    ("conf", "aaaaaa/bbbbbb/cccccc"),
    ("net2", "1"),
    ("vers", "1/9.0.0/3.8.5"),
    ("wall", str(WALL)),
)
VM = (("fence.state", "guarded"), ("def.run", "1"))


def told(host_id, has_vm=False, extra_ok=True, score=3400, **lines):
    text = changed((*TOLD, *(VM if has_vm else ())), **lines)
    return peer(host_id, score, UP if has_vm else DOWN, text, extra_ok)


class Three:
    """Three whole hosts, the VM on the first."""

    def __init__(self):
        self.hosts = {n: host(n, told(n, n == 1), True, lease=HostLease.LIVE) for n in (1, 2, 3)}
        self.more = {
            "own_id": 1,
            "global_maintenance": Reading.of(False),
            "flags_known": True,
            "slots_age": 1.0,
            "wall": WALL + 5.0,
        }

    def put(self, host_id, record=None, live=True, silent=False, lease=HostLease.LIVE, **lines):
        record = told(host_id, host_id == 1, **lines) if record is None else record
        self.hosts[host_id] = host(host_id, record, live, silent, lease)
        return self

    def meter(self):
        return assess(Cluster(hosts=tuple(self.hosts.values()), **self.more))

    def found(self):
        return {(one.code, one.level, one.hosts) for one in self.meter().findings}

    def forecast(self, memory=0):
        meter = self.meter()
        return {each.fault: each for each in forecasts(meter, tuple(self.hosts.values()), Timers(), memory)}


L = Level


def test_a_whole_cluster_is_protected():
    meter = Three().meter()
    assert meter.findings == ()
    assert (meter.level, meter.vm_host, meter.spares, meter.deployed) == (L.PROTECTED, 1, (2, 3), 3)


# What one line of a slot says, its code, and its level on the VM's host and on a spare.
LACKS = [
    ({"wd": "0"}, "watchdog-off", L.UNPROTECTED, L.DEGRADED),
    ({"wd": None}, "watchdog-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"lockmgr": "off"}, "lock-manager-off", L.UNPROTECTED, L.DEGRADED),
    ({"lockmgr": "lockd"}, "lock-manager-off", L.UNPROTECTED, L.DEGRADED),
    ({"lockmgr": "stale"}, "lock-manager-stale", L.UNPROTECTED, L.DEGRADED),
    ({"lockmgr": None}, "lock-manager-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"def": "no-lease"}, "lease-missing", L.UNPROTECTED, L.DEGRADED),
    ({"def": "foreign-lease"}, "lease-missing", L.UNPROTECTED, L.DEGRADED),
    ({"def": "qcow2"}, "definition-refused", L.UNPROTECTED, L.DEGRADED),
    ({"def": None}, "definition-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"io": None}, "timeouts-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"io": "10"}, "timeouts-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"conf": None}, "settings-unknown", L.UNKNOWN, L.UNKNOWN),
    ({"problem": "state-file,definition"}, "host-problem", L.DEGRADED, L.DEGRADED),
    ({"problem": "ledger"}, "host-problem", L.DEGRADED, L.DEGRADED),
    ({"version": "0.9"}, "half-updated", L.DEGRADED, L.DEGRADED),
]


@pytest.mark.parametrize("host_id", [1, 2])
@pytest.mark.parametrize(("lines", "code", "on_vm_host", "on_spare"), LACKS)
def test_each_lack_alone_is_found_and_worse_where_the_vm_is(host_id, lines, code, on_vm_host, on_spare):
    level = on_vm_host if host_id == 1 else on_spare
    three = Three().put(host_id, **lines)
    assert (code, level, (host_id,)) in three.found()
    assert three.meter().level is {L.UNKNOWN: L.DEGRADED}.get(level, level)


@pytest.mark.parametrize(
    ("lines", "code", "level"),
    [
        ({"fence_state": "threatened", "fence_why": "guard-gone"}, "audit-failed", L.UNPROTECTED),
        ({"fence_state": "killing"}, "audit-failed", L.UNPROTECTED),
        ({"fence_state": "stuck"}, "audit-failed", L.UNPROTECTED),
        ({"fence_state": "unverified"}, "audit-pending", L.UNKNOWN),
        ({"fence_state": "suspended"}, "audit-pending", L.UNKNOWN),
        ({"fence_state": "blind"}, "audit-pending", L.UNKNOWN),
        ({"fence_state": None}, "audit-pending", L.UNKNOWN),
        ({"def_run": "0"}, "running-without-lease", L.UNPROTECTED),
    ],
)
def test_the_guard_over_the_running_copy(lines, code, level):
    assert (code, level, (1,)) in Three().put(1, **lines).found()


@pytest.mark.parametrize(
    ("lines", "code", "level"),
    [
        ({"io": "5/60"}, "timeouts-differ", L.DEGRADED),
        ({"io": "10/30"}, "timeouts-differ", L.DEGRADED),
        ({"conf": "dddddd/bbbbbb/cccccc"}, "deployment-differs", L.DEGRADED),
        ({"conf": "aaaaaa/dddddd/cccccc"}, "score-differs", L.DEGRADED),
        ({"conf": "aaaaaa/bbbbbb/dddddd"}, "timers-differ", L.DEGRADED),
        ({"lease": "sd:vol:/other:0"}, "lease-differs", L.UNPROTECTED),
        ({"version": "2", "vers": "2/9.0.0/3.8.5"}, "versions-differ", L.NOTE),
    ],
)
def test_what_must_be_equal_is_measured_by_the_vms_host(lines, code, level):
    assert Three().put(3, told(3, **lines)).found() == {(code, level, (3,))}
    assert (code, level, (2, 3)) in Three().put(1, told(1, True, **lines)).found()


def test_without_a_vm_most_hosts_are_right():
    three = Three().put(1, told(1, io="5/60"))
    assert ("timeouts-differ", L.DEGRADED, (1,)) in three.found()


@pytest.mark.parametrize(
    ("put", "code", "level"),
    [
        ({"record": replace(told(3), stopped=True), "live": False}, "host-stopped", L.DEGRADED),
        ({"live": False}, "host-dead", L.DEGRADED),
        ({"record": replace(told(3), maintenance=True)}, "host-maintenance", L.DEGRADED),
        ({"maintenance_state": "preparing"}, "host-maintenance", None),
        ({"record": told(3, score=0)}, "host-score", L.DEGRADED),
        ({"silent": True}, "host-silent", L.UNKNOWN),
        ({"record": Invalid("crc"), "live": False}, "host-unreadable", L.DEGRADED),
        ({"record": told(3, extra_ok=False)}, "host-foreign", L.UNKNOWN),
        ({"lease": HostLease.DEAD}, "not-in-lockspace", L.DEGRADED),
        ({"lease": None}, "not-in-lockspace", L.DEGRADED),
        ({"lease": HostLease.UNKNOWN}, "lockspace-unknown", L.UNKNOWN),
        ({"record": Empty(), "live": False, "lease": None}, "host-dead", L.DEGRADED),
    ],
)
def test_a_spare_that_is_taken_away_is_named(put, code, level):
    if "maintenance_state" in put:
        put, level = {"record": peer(3, extra=(*TOLD, ("maintenance_state", "preparing")))}, L.DEGRADED
    three = Three().put(3, **put)
    assert (code, level, (3,)) in three.found()
    assert three.meter().level is L.DEGRADED


def test_no_spare_is_unprotected_and_a_doubted_one_is_not_known():
    away = replace(told(3), maintenance=True)
    assert ("no-spare", L.UNPROTECTED, ()) in Three().put(3, away).put(2, live=False).found()
    assert ("no-spare", L.UNKNOWN, ()) in Three().put(3, away).put(2, silent=True).found()
    assert ("no-spare", L.UNPROTECTED, ()) not in Three().put(3, away).found()


def test_while_the_vm_is_down_one_host_is_for_it_and_one_is_the_spare():
    assert ("no-spare", L.UNPROTECTED, ()) in Three().put(1, live=False).put(2, live=False).found()
    assert "no-spare" not in {code for code, _, _ in Three().put(1, told(1)).put(2, live=False).found()}


def test_of_a_vm_on_a_foreign_host_only_that_is_said():
    found = Three().put(1, told(1, True, extra_ok=False)).found()
    assert found == {("host-foreign", L.UNKNOWN, (1,)), ("no-live-move", L.NOTE, ())}


def test_news_are_not_published():
    lines = dict(findings.published(L.PROTECTED, [findings.found("no-live-move", L.NOTE)]))
    assert lines == {"prot": "protected", "prot.why": ""}


@pytest.mark.parametrize("lines", [{"wd": "0"}, {"lockmgr": "off"}, {"def": "qcow2"}])
def test_a_host_that_may_not_start_the_vm_is_no_spare(lines):
    assert Three().put(2, **lines).meter().spares == (3,)


def test_the_vm_nowhere_or_unwatched_or_twice():
    assert ("vm-nowhere", L.UNKNOWN, ()) in Three().put(1, told(1)).found()
    stopped = replace(told(1, True), stopped=True)
    assert ("vm-unwatched", L.UNPROTECTED, (1,)) in Three().put(1, stopped, live=False).found()
    assert ("vm-nowhere", L.UNKNOWN, ()) in Three().put(1, stopped, live=False, lease=HostLease.DEAD).found()
    assert ("vm-many", L.DEGRADED, (1, 2)) in Three().put(2, told(2, True)).found()
    source = replace(told(1, True), engine=EngineStatus(Vm.UP, Health.BAD, "Migration Source"))
    assert "vm-many" not in {code for code, _, _ in Three().put(1, source).put(2, told(2, True)).found()}


def test_maintenance_of_the_cluster_and_what_cannot_be_read():
    three = Three()
    three.more["global_maintenance"] = Reading.of(True)
    assert three.found() == {("global-maintenance", L.UNPROTECTED, ())}
    three.more["global_maintenance"] = Reading.missing("overdue")
    assert three.found() == {("global-flag-unknown", L.UNKNOWN, ())}
    three = Three()
    three.more["slots_age"] = 26.0
    assert three.found() == {("view-old", L.UNKNOWN, (1,))}
    three.more.update(slots_age=25.0, flags_known=False)
    three.put(3, lease=None)
    assert three.found() == set(), "nothing is known of the lockspace, so nothing is said of it"


@pytest.mark.parametrize(("by", "found"), [(-91, True), (-89, False), (59, False), (61, True)])
def test_clocks_that_differ_are_worth_knowing_and_no_more(by, found):
    three = Three()
    three.more["wall"] = float(WALL)
    three.put(3, wall=str(WALL + by))
    assert (three.found() == {("clocks-differ", L.NOTE, (3,))}) is found
    assert three.meter().level is L.PROTECTED
    three.more["wall"] = None
    assert three.found() == set()


def test_live_migration_and_its_network():
    three = Three().put(2, cpu="other").put(3, mig=None)
    assert three.found() == {("no-live-move", L.NOTE, ())}
    three = Three().put(2, net2="0").put(3, net2=None)
    assert three.found() == {("one-network", L.NOTE, ())}


# --- the recovery that is to be expected ---------------------------------------------------------------------------


def test_the_forecast_of_a_whole_cluster_is_what_is_announced():
    bounds, found = announced_bounds(), Three().forecast(memory=3200)
    for fault in ("vm-crash", "hung-engine", "hung-engine-alone", "host-loss", "sanlock-kill", "storage-loss", "cold"):
        assert found[fault].seconds == bounds[fault], fault
    assert (found["agent-kill"].seconds, found["agent-kill"].how) == (5.0, "untouched")
    assert (found["network-loss"].seconds, found["network-loss"].how) == (60.0, "live-network")
    assert (found["planned-move"].seconds, found["planned-move"].how) == (220.0, "live")


BOUNDS = {f"bound.{fault}": f"{seconds:.0f}" for fault, seconds in announced_bounds().items()}


def test_the_forecast_is_later_where_the_vm_s_host_has_used_up_its_hour():
    usual = Three().put(1, **BOUNDS).forecast()
    assert usual == Three().forecast()
    found = Three().put(1, **{**BOUNDS, "bound.hung-engine": "1320", "bound.network-loss": "690"}).forecast()
    assert {fault for fault in found if found[fault] != usual[fault]} == {"hung-engine", "network-loss"}
    assert found["hung-engine"].seconds == 1320.0 and found["hung-engine"].how == usual["hung-engine"].how
    assert found["network-loss"].seconds == usual["network-loss"].seconds + 600.0
    assert found["hung-engine"].text != usual["hung-engine"].text
    # What a spare has used up is no matter.
    assert Three().put(1, **BOUNDS).put(2, **{**BOUNDS, "bound.hung-engine": "1320"}).forecast() == usual


def test_what_the_vm_s_host_never_does_is_not_recovered():
    rest = {key: text for key, text in BOUNDS.items() if key != "bound.hung-engine"}
    found = Three().put(1, **rest).forecast()
    assert (found["hung-engine"].seconds, found["hung-engine"].how) == (None, NOT_RECOVERED)
    assert found["hung-engine-alone"].seconds == announced_bounds()["hung-engine-alone"]


def test_the_forecast_follows_the_slowest_timeouts_and_what_is_there():
    found = Three().put(3, io="20/60").forecast()
    assert found["host-loss"].seconds == announced_bounds(20, 60)["host-loss"]
    found = Three().put(2, net2="0").put(3, net2="0").forecast()
    assert (found["network-loss"].seconds, found["network-loss"].how) == (90.0, "cold")
    found = Three().put(2, cpu="other").put(3, cpu="other").forecast()
    assert (found["planned-move"].how, found["network-loss"].how) == ("cold", "cold")
    assert Three().put(3, live=False).forecast()["host-loss"].how == "elsewhere-alone"


def test_what_nobody_recovers_is_said():
    alone = Three().put(2, live=False).put(3, live=False).forecast()
    for fault in ("host-loss", "storage-loss", "sanlock-kill", "network-loss", "planned-move"):
        assert (alone[fault].seconds, alone[fault].how) == (None, NOT_RECOVERED), fault
    assert alone["vm-crash"].seconds == 10.0
    three = Three()
    three.more["global_maintenance"] = Reading.of(True)
    found = three.forecast()
    assert {each.how for each in found.values()} == {"untouched", NOT_RECOVERED}
    three.more["global_maintenance"] = Reading.missing("overdue")
    assert {each.how for each in three.forecast().values()} == {"untouched", NOT_RECOVERED}
    assert Three().put(1, wd="0").forecast()["vm-crash"].how == UNKNOWN, "only another host may start it"
    refused = Three().put(1, **{"def": "no-lease"}).put(2, **{"def": "no-lease"}).put(3, **{"def": "no-lease"})
    assert refused.forecast()["vm-crash"].how == NOT_RECOVERED


def test_what_is_not_known_is_no_promise():
    found = Three().put(1, told(1, True, extra_ok=False)).forecast()
    assert (found["vm-crash"].how, found["host-loss"].how) == (UNKNOWN, UNKNOWN)
    doubted = Three().put(2, silent=True).put(3, live=False).forecast()
    assert doubted["host-loss"].how == UNKNOWN
    assert Three().put(1, told(1)).forecast()["vm-crash"].how == UNKNOWN


@pytest.mark.parametrize("how", sorted(HOW))
def test_every_way_has_its_words(how):
    fields = {name for _, name, _, _ in string.Formatter().parse(HOW[how]) if name}
    assert fields <= {"why"}


# --- through the slot ----------------------------------------------------------------------------------------------


def whole(world):
    """Host 1 with everything that it can tell."""
    known = Safeguards("sanlock", True, "aaaaaa", "1", "9.0.0", "3.8.5")
    world.host = replace(world.host, safeguards=known)
    return world


def test_what_a_host_says_of_itself_comes_back_from_its_slot():
    world = whole(World(state=S.ENGINE_UP).runs())
    record = slot.decode(1, slot.encode(world.look().record, 1_600_000_000.0))
    facts = facts_of(record)
    assert (facts.definition, facts.running_lease, facts.lock_manager, facts.watchdog) == ("ok", True, "sanlock", True)
    assert (facts.io_timeout, facts.watchdog_timeout) == (10, 60)
    assert facts.deployment == "aaaaaa"
    assert (facts.score, facts.timers) == (score_digest(ScoreConfig()), timers_digest(Timers()))
    assert (facts.agent, facts.broker, facts.libvirt, facts.sanlock) == ("1", "1", "9.0.0", "3.8.5")
    assert (facts.second_network, facts.migrates, facts.cpu) == (True, True, "same")
    assert facts.wall == 1_600_010_000


def test_what_a_host_does_not_know_it_does_not_say():
    world = World()
    world.generation = None
    world.watchdog_armed = None
    world.host = replace(world.host, definition_problem="no-definition")
    lines = extra(world.look())
    assert not {"def", "def.run", "lockmgr", "wd", "io", "net2"} & set(lines)


def test_a_line_that_makes_no_sense_is_not_known():
    odd = {"io": "10/x", "wd": "yes", "conf": "a/b", "wall": "9" * 30, "net2": "2", "vers": "1", "def_run": "-"}
    facts = facts_of(told(2, **odd))
    assert (facts.io_timeout, facts.watchdog, facts.deployment, facts.wall) == (0, None, "", 0)
    assert (facts.second_network, facts.broker, facts.running_lease) == (None, "", None)
    assert facts_of(told(2, extra_ok=False)) == UNTOLD


def test_digests_follow_every_value():
    assert score_digest(ScoreConfig()) != score_digest(replace(ScoreConfig(), cpu_max=0.8))
    assert timers_digest(Timers()) != timers_digest(replace(Timers(), cycle=9.0))


def test_the_agent_publishes_its_reading_and_hands_it_on():
    world = whole(World(state=S.ENGINE_UP).runs())
    world.more["guard"] = replace(world.snapshot().guard, state="guarded")
    for host_id in (2, 3):
        world.edit(host_id, extra=(*told(host_id, conf=extra(world.look())["conf"]).extra, *world.slots[host_id].extra))
    decision = world.look()
    assert decision.protection.level is L.PROTECTED, decision.protection.findings
    assert extra(decision)["prot"] == "protected"
    assert "prot.why" not in extra(decision)
    world.watchdog_armed = False
    decision = world.look()
    assert decision.protection.level is L.UNPROTECTED
    assert (extra(decision)["prot"], extra(decision)["prot.why"]) == ("unprotected", "watchdog-off:1")


def test_a_host_whose_id_is_in_doubt_publishes_nothing_and_still_reads_the_meter():
    world = whole(World())
    world.whiteboard = Reading.of(LockspaceState.ID_TAKEN)
    decision = world.look()
    assert decision.record is None
    assert decision.protection.deployed == 3


def test_the_reading_stays_when_the_reasons_no_longer_fit():
    world = whole(World())
    world.host = replace(world.host, cpu_model="x" * 2700)
    world.local()
    record = world.look().record
    assert [key for key, _ in record.extra if key.startswith("why.")]
    decoded = slot.decode(1, slot.encode(record, 0.0))
    assert isinstance(decoded, Record) and decoded.extra_ok
    assert not [key for key, _ in decoded.extra if key.startswith("why.")]
    assert decoded.get("prot") == record.get("prot") != ""


def test_the_meter_adds_no_more_to_a_slot_than_it_may():
    """With every host of twenty in trouble: the reasons still have a thousand bytes."""
    hosts = tuple(
        host(n, told(n, n == 1, wd="0", lockmgr="off", io=None, conf=None, **{"def": "qcow2"}), True, lease=None)
        for n in range(1, 21)
    )
    meter = assess(Cluster(1, hosts, Reading.of(False), True, 1.0))
    lines = findings.published(meter.level, meter.findings)
    told_lines = dict(TOLD)
    ours = [(key, told_lines[key]) for key in ("def", "lockmgr", "wd", "io", "conf", "net2", "vers", "wall")]
    assert sum(len(key) + len(value) + 2 for key, value in [*lines, *ours]) < 500


@pytest.mark.parametrize("code", sorted(findings.FINDINGS))
def test_every_finding_has_a_sentence_and_a_way_on(code):
    one = findings.found(code, L.DEGRADED, (2,))
    sentence, mend = findings.describe(one, {2: "host 2 (b)"})
    assert sentence and mend and sentence[0].isupper()
    assert f'"{code}"' in Path(protection.__file__).read_text(encoding="utf-8"), "no finding is made of it"


def test_a_code_that_is_not_registered_is_a_mistake():
    with pytest.raises(KeyError):
        findings.found("nonsense", L.NOTE)
