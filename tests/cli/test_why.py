"""--why: the answer, its times, and what is said when something is not known."""

import json
import time
from typing import Any, Dict, Iterable, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovirt_he_ha.cli import sources, why
from ovirt_he_ha.cli.explanation import Cluster, explain
from ovirt_he_ha.cli.host_story import HostSeen, clock, duration
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core import reasons, slot
from ovirt_he_ha.core.advice import PENALTIES, ZEROES, penalty
from ovirt_he_ha.core.model import (
    Countdown,
    EngineStatus,
    Health,
    HostLease,
    Invalid,
    LeaseOwner,
    Reading,
    Reason,
    Record,
    State,
    Vm,
)
from ovirt_he_ha.core.reasons import countdown, reason
from ovirt_he_ha.sim.coverage import UNIVERSE
from tests.cli.world import DOWN, UP, World, record, run

MEMBERS = ["answer", "next", "global_maintenance", "lease", "hosts", "do", "maintenance", "problems", "sources"]
HOST_MEMBERS = [
    "host_id",
    "hostname",
    "local",
    "kind",
    "live",
    "age",
    "age_from",
    "sanlock",
    "state",
    "since",
    "standby",
    "vm",
    "maintenance",
    "reasons",
    "countdowns",
    "next",
    "reactions",
    "fence",
    "score",
]
NOT_RUNNING = (reason("lease-held", host=3, flag="fail"),)
LEASE = (countdown("lease", 30.0),)
SILENT = (countdown("lease", 90.0),)


class Still(SystemClock):
    """This host published a moment ago."""

    def monotonic(self) -> float:
        return 1001.0


@pytest.fixture(autouse=True)
def still(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "world" in request.fixturenames:
        monkeypatch.setattr(why, "SystemClock", Still)


def ours(
    host_id: int,
    state: str = "EngineDown",
    why: Iterable[Reason] = (),
    ahead: Iterable[Countdown] = (),
    extra: Tuple[Tuple[str, str], ...] = (),
    **changes: Any,
) -> Record:
    lines = (("state", state), *extra, *reasons.published(why, ahead, 0.0))
    return record(host_id, extra=lines, extra_ok=True, **changes)


def up(host_id: int, **changes: Any) -> Record:
    extra = (("since", str(900 + host_id)), ("up.since", str(400 + host_id)), ("phase", "up"))
    return ours(host_id, "EngineUp", (reason("up"),), extra=extra, **{"engine": UP, **changes})


def hosts(found: Dict[str, Any]) -> Dict[int, Dict[str, Any]]:
    return {host["host_id"]: host for host in found["hosts"]}


# --- the answer -------------------------------------------------------------------------------------------------------


def test_a_healthy_vm(world: World) -> None:
    away = (reason("engine-up-elsewhere", host=2, hostname="host2"), reason("lease-held", host=2, flag="live"))
    world.publish(ours(1, why=away), up(2), ours(3, why=away))
    world.slot_ages = {2: 4.0, 3: 2.5}
    world.leases(owner=Reading.of(LeaseOwner(2, 7), 3.0))
    ran = run("--why", "--json")
    found = ran.json
    assert (ran.status, ran.err, list(found)) == (0, "", MEMBERS)
    assert found["answer"]["code"] == "runs" and found["answer"]["host"] == 2
    assert found["answer"]["since"] == 1002 - 402 + 4
    assert found["answer"]["text"] == (
        "The engine VM runs on host 2 (host2), for 10 min, and is healthy; nothing is about to change."
    )
    assert found["next"] == [] and found["do"] == []
    assert found["lease"] == {"owner": 2, "generation": 7, "age": 3.0, "unknown": ""}
    found_hosts = hosts(found)
    assert list(found_hosts[2]) == HOST_MEMBERS
    assert [(host["age"], host["age_from"]) for host in found["hosts"]][1:] == [(4.0, "broker"), (2.5, "broker")]
    assert [host["standby"] for host in found["hosts"]] == [True, False, True]
    assert {each["event"] for each in found_hosts[2]["reactions"]} >= {"vm-crash", "local-maintenance"}
    lines = run("--why").out.splitlines()
    assert lines[0] == found["answer"]["text"]
    assert "Host 1 (host1), this host: EngineDown" in "\n".join(lines)


def test_a_start_is_announced_with_its_time_corrected_by_the_age(world: World) -> None:
    rank = (*NOT_RUNNING, reason("rank", count=1, host=2, hostname="host2", score=3400, wait=15))
    bound = (("bound.host-loss", "162"),)
    world.publish(ours(1, why=rank, ahead=LEASE), ours(2, why=NOT_RUNNING, ahead=LEASE, extra=bound), up(3))
    world.alive = [1, 2]
    world.slot_ages = {2: 18.0, 3: 110.0}
    found = run("--why", "--json").json
    assert found["answer"]["text"] == (
        "The engine VM is not running: host 2 (host2) starts it in 12 s, once sanlock shows the lease of host 3 free "
        "or dead (announced bound after the loss of a host: 162 s)."
    )
    assert [found["next"][0][key] for key in ("host", "action", "in")] == [2, "start", 12.0]
    assert found["next"][0]["waits"] == ["lease-held"]
    (waits,) = hosts(found)[2]["reasons"]
    assert (waits["in"], waits["kind"]) == (12.0, "event")
    assert waits["until"] == "sanlock shows the lease of host 3 free or dead"
    assert found["do"] == ["Is host 3 off, or reset? Else start its daemons (host 1 (host1), host 2 (host2))"]
    assert hosts(found)[3]["live"] is False
    assert [step["host"] for step in found["next"]] == [2, 1]


def test_what_one_host_knows_of_a_common_wait_counts_for_the_one_whose_turn_it_is(world: World) -> None:
    """Host 2 is the better one, and has not said yet when the lease is free: its sanlock has seen the owner within 45 s
    before it published (95 s were left at least), up to 20 s after (or before) host 1's did. The middle is said."""
    rank = reason("rank", count=1, host=2, hostname="host2", score=3400, wait=15)
    world.publish(
        ours(1, why=(*NOT_RUNNING, rank), ahead=SILENT), ours(2, why=(reason("lease-held", host=3, flag="live"),))
    )
    world.slot_ages = {2: 6.0}
    found = run("--why", "--json").json
    assert [(step["host"], step["in"]) for step in found["next"]] == [(2, 99.5), (1, 105.0)]
    assert found["answer"]["host"] == 2
    # The other way round: who comes later learns it, too.
    late = (reason("lease-held", host=3, flag="live"), replace_host(rank))
    world.publish(ours(1, why=NOT_RUNNING, ahead=SILENT), ours(2, why=late))
    found = run("--why", "--json").json
    assert [(step["host"], step["in"]) for step in found["next"]] == [(1, 90.0), (2, 114.5)]


def test_a_host_that_has_not_noticed_yet_that_the_vm_is_gone_keeps_its_turn(world: World) -> None:
    rank = reason("rank", count=1, host=2, hostname="host2", score=3400, wait=15)
    world.publish(
        ours(1, why=(*NOT_RUNNING, rank), ahead=SILENT),
        ours(2, why=(reason("engine-up-elsewhere", host=3, hostname="host3"), *NOT_RUNNING)),
        up(3),
    )
    world.alive, world.slot_ages = [1, 2], {2: 6.0, 3: 61.0}
    found = run("--why", "--json").json
    assert [(step["host"], step["in"]) for step in found["next"]] == [(2, 99.5), (1, 105.0)]


def replace_host(rank: Reason) -> Reason:
    return Reason(rank.code, {**rank.values, "host": "1", "hostname": "host1"})


def test_another_wait_is_not_ended_by_what_others_know(world: World) -> None:
    held = reason("lease-held", host=3, flag="live")
    world.publish(ours(1, why=NOT_RUNNING, ahead=LEASE), ours(2, why=(held, reason("engine-unknown", why="overdue"))))
    found = run("--why", "--json").json
    assert [(step["host"], step["in"]) for step in found["next"]] == [(1, 30.0), (2, None)]
    world.publish(ours(2, why=(reason("lease-held", host=4, flag="live"),)))
    found = run("--why", "--json").json
    assert [(step["host"], step["in"]) for step in found["next"]] == [(1, 30.0), (2, None)]


def test_what_did_not_come_is_overdue_and_never_negative(world: World) -> None:
    world.publish(ours(1), ours(2, why=NOT_RUNNING, ahead=LEASE))
    world.slot_ages = {2: 42.0}
    found = run("--why", "--json").json
    assert found["next"][-1]["in"] == -12.0
    assert "overdue by 12 s" in found["next"][-1]["text"]
    (left,) = hosts(found)[2]["countdowns"]
    assert left == {"event": "lease", "in": -12.0, "text": "overdue by 12 s: the owner's lease can be dead"}
    assert "in -" not in run("--why").out


def test_an_age_that_nobody_knows_is_said_and_makes_the_time_a_limit(world: World) -> None:
    world.publish(ours(2, why=NOT_RUNNING, ahead=LEASE))
    world.slots[2] = slot.encode(ours(2, why=NOT_RUNNING, ahead=LEASE), 1e12)  # its wall clock is out of this world
    found = run("--why", "--json").json
    assert (found["hosts"][0]["age"], found["hosts"][0]["age_from"]) == (None, "none")
    assert "host 2 (host2) starts it within 30 s" in found["answer"]["text"]
    assert "said at a time that is not known" in run("--why").out


@pytest.mark.parametrize(
    "records, code, words",
    [
        ([ours(1, "EngineStart", [reason("start", lease="free")])], "starting", "host 1 (host1) is starting it now"),
        (
            [
                ours(
                    1,
                    "EngineStop",
                    [reason("stopping", why="hung")],
                    [countdown("power-off", 9.0)],
                    engine=EngineStatus(Vm.UP, Health.BAD, "Up"),
                )
            ],
            "stopping",
            "powers it off in 9 s, unless it has shut down by then",
        ),
        ([up(1), up(2)], "twice", "published as up by host 1 (host1) and host 2 (host2)"),
        ([up(1, engine=EngineStatus(Vm.UP, Health.GOOD, "Migration Source")), up(2)], "migrating", "to host 2 (host2)"),
        (
            [
                ours(
                    1,
                    "EngineUpBadHealth",
                    [reason("bad-health", seconds=20)],
                    [countdown("hung-signal", 40.0), countdown("hung", 240.0)],
                    engine=EngineStatus(Vm.UP, Health.BAD, "Up"),
                )
            ],
            "bad-health",
            "restarts it in 240 s, or in 40 s with a second sign of a hang, unless its health is good by then",
        ),
        (
            [ours(1, "GlobalMaintenance", [reason("global-maintenance")])],
            "not-running",
            "host 1 (host1) starts it once global maintenance is ended",
        ),
        ([ours(1, "AgentStopped", stopped=True)], "unknown", "no host is known to be alive"),
        (
            [record(1, extra=(("state", "EngineDown"),))],
            "not-running",
            "what host 1 (host1) will do is not published",
        ),
    ],
)
def test_answers(world: World, records: List[Record], code: str, words: str) -> None:
    world.publish(*records)
    world.slot_ages = {2: 0.0}
    found = run("--why", "--json").json
    assert found["answer"]["code"] == code
    assert words in found["answer"]["text"]
    assert run("--why").status == 0


def test_a_host_that_needs_nobody_is_named_before_one_that_needs_the_operator(world: World) -> None:
    unfenced = ours(1, why=[reason("unfenced")])
    held = ours(2, why=[reason("lease-held", host=3, flag="fail"), reason("lease-unknown", why="stale")])
    world.publish(unfenced, held)
    found = run("--why", "--json").json
    assert [step["host"] for step in found["next"]] == [2, 1]
    assert any("allow-unfenced" in text for text in found["do"])


def test_a_stopped_agent_whose_host_owns_the_lease(world: World) -> None:
    world.publish(ours(2, "AgentStopped", stopped=True, engine=UP), ours(1, "AgentStopped", stopped=True))
    world.leases(owner=Reading.of(LeaseOwner(2, 1)))
    found = run("--why", "--json").json
    assert found["answer"]["code"] == "unknown"


def test_global_maintenance_and_a_flag_that_cannot_be_read(world: World) -> None:
    world.publish(up(1))
    world.slots[0] = slot.encode_global(True)
    found = run("--why", "--json").json
    assert found["global_maintenance"] is True and "global maintenance: no host starts" in found["answer"]["text"]
    world.slots[0] = b"\xff" * 4096
    found = run("--why", "--json").json
    assert found["global_maintenance"] is None and "cannot be read" in found["answer"]["text"]


# --- the score --------------------------------------------------------------------------------------------------------


def test_the_score_with_each_penalty_and_its_cause(world: World) -> None:
    extra = (("score.network", "-960 0.4"), ("score.memory", "-0 unknown:not-yet"))
    zero = (("score.zero", "unfenced"),)
    world.publish(ours(1, score=2440, extra=extra), ours(2, score=0, extra=zero))
    found = hosts(run("--why", "--json").json)
    assert found[1]["score"]["points"] == 2440 and found[1]["score"]["of"] == 3400
    assert found[1]["score"]["penalties"][0] == {
        "code": "network",
        "points": 960,
        "value": "0.4",
        "text": "only 0.4 of the network probes are good (1 is all)",
    }
    assert found[1]["score"]["penalties"][1]["text"] == "memory is not measured (not-yet): it costs nothing"
    assert (found[2]["score"]["zero"], found[2]["score"]["zero_text"]) == ("unfenced", ZEROES["unfenced"])
    out = run("--why").out
    assert "2440 of 3400; -960 only 0.4 of the network probes are good (1 is all)" in out
    assert "0: no watchdog is armed there" in out


def test_every_penalty_and_every_zero_has_its_sentence() -> None:
    assert set(UNIVERSE["zero"]) <= set(ZEROES)
    assert set(UNIVERSE["penalty"]) <= set(PENALTIES)
    assert penalty("moon", "full") == "moon full"


# --- what is not known, or wrong --------------------------------------------------------------------------------------


def test_without_the_broker_from_the_volume(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HE_TIME_SCALE", raising=False)
    monkeypatch.setattr(sources, "_sanlock_hosts", lambda _lockspace: {1: HostLease.LIVE, 3: HostLease.DEAD})
    offset = time.time() - time.monotonic()
    now = int(time.monotonic())
    seen = [
        ours(1, why=NOT_RUNNING, ahead=LEASE, timestamp=now - 10),
        ours(2, why=NOT_RUNNING, ahead=[countdown("lease", 90.0)], timestamp=now - 20),
        up(3, timestamp=now - 30),
    ]
    for each in seen:
        host.slots[each.host_id] = slot.encode(each, offset)
    host.make_volume()
    ran = run("--why", "--json")
    found = hosts(ran.json)
    assert ran.status == 0
    assert ran.json["sources"]["slots"]["from"] == "volume"
    assert [found[host_id]["age_from"] for host_id in (1, 2, 3)] == ["own-clock", "wall-clock", "wall-clock"]
    assert 9 <= found[1]["age"] <= 14 and 19 <= found[2]["age"] <= 24
    assert (found[1]["live"], found[2]["live"], found[3]["live"]) == (True, None, None)
    assert found[3]["sanlock"] == "dead"
    assert ran.json["answer"]["code"] == "not-running" and ran.json["answer"]["host"] == 1
    assert 15 <= ran.json["next"][0]["in"] <= 21
    assert [problem["code"] for problem in ran.json["problems"]] == ["broker-no-socket", "read-directly"]
    out = run("--why")
    assert "not known to be live (sanlock: unknown); said" in out.out and "by that host's wall clock" in out.out
    assert "Is ovirt-ha-broker running?" in out.err


def test_a_broker_that_does_not_know_ages(world: World) -> None:
    world.publish(ours(2))
    world.slot_ages = {2: -5.0}
    found = run("--why", "--json").json
    assert found["hosts"][0]["age_from"] == "wall-clock"


def test_slots_that_cannot_be_read_and_hosts_of_another_make(world: World) -> None:
    world.publish(record(2, extra=(("state", "EngineUnexpectedlyDown"),)), record(4, extra=(("state", "Moon"),)))
    world.slots[3] = b"garbage".ljust(4096, b"\0")
    world.alive = [1, 2, 4]
    found = hosts(run("--why", "--json").json)
    assert found[2]["kind"] == "upstream" and "score is 0 for 10 minutes" in found[2]["does"]
    assert found[4]["does"] == "publishes no reasons"
    assert found[3]["kind"] == "unreadable" and found[3]["invalid"]["reason"]
    out = run("--why").out
    assert "Host 3: its slot is unreadable" in out and "oVirt's own agent: it gives the VM to others" in out


def test_nobody_has_published(world: World) -> None:
    ran = run("--why", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "no-hosts"
    assert "no host has published anything" in run("--why").out


def test_one_host_only(world: World) -> None:
    world.publish(up(1), ours(2))
    assert list(hosts(run("--why", "--json", "--host=2").json)) == [2]
    ran = run("--why", "--host=7")
    assert ran.status == 1 and "expected a host that has published (1, 2), found 7" in ran.err
    assert run("--why", "--host=0").status == 1


def test_not_deployed(host: World) -> None:
    host.configure(vmid="")
    ran = run("--why", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "not-deployed"


def test_maintenance_and_guard_are_told(world: World) -> None:
    extra = (
        ("maintenance_state", "error-in-preparing"),
        ("maintenance_why", "No host can take the VM"),
        ("maintenance_reason", "new disks"),
        ("fence.state", "threatened"),
        ("fence.why", "guard-gone"),
        ("fence.in", "4"),
    )
    world.publish(ours(2, "EngineUp", [reason("no-target")], [countdown("guard-kill", 4.0)], extra, engine=UP))
    world.slot_ages = {2: 1.0}
    found = run("--why", "--json").json
    assert found["hosts"][0]["fence"] == {"state": "threatened", "why": "guard-gone", "in": 3.0}
    told = {"state": "error-in-preparing", "why": "No host can take the VM", "reason": "new disks"}
    assert found["hosts"][0]["maintenance"] == {"local": False, "seen_global": False, **told}
    assert {step["action"]: step["in"] for step in found["next"]} == {"kill": 3.0, "move": None}
    out = run("--why").out
    assert "local maintenance, error in preparing: No host can take the VM; the VM keeps running" in out
    assert "(reason given: new disks)" in " ".join(out.split())
    assert "threatened guard-gone, killed in 3 s" in out


def test_plain_ascii_and_no_line_is_too_long(world: World) -> None:
    evil = record(1, hostname="a\x1b[31mb", extra=(("state", "Engine\x07Down"),))
    world.publish(evil, ours(2, why=[Reason("moon", {"a": "x" * 70}), *NOT_RUNNING] * 3, ahead=LEASE))
    out = run("--why").out
    assert out.isascii() and all(line.isprintable() and len(line) <= 120 for line in out.splitlines())


# --- the pure part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, known, text",
    [(12.4, True, "in 12 s"), (0.0, True, "in 0 s"), (-3.0, True, "overdue by 3 s"), (30.0, False, "within 30 s")],
)
def test_clock(seconds: float, known: bool, text: str) -> None:
    assert clock(seconds, known) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(-1.0, "0 s"), (119.0, "119 s"), (121.0, "2 min"), (7300.0, "2 h 1 min"), (200_000.0, "2 d 7 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


words = st.text(max_size=12)
values = st.dictionaries(words, words, max_size=3)
published = st.lists(st.builds(Reason, st.sampled_from(sorted(reasons.REASONS)) | words, values), max_size=4)
ahead = st.lists(
    st.builds(Countdown, st.sampled_from(sorted(reasons.COUNTDOWNS)) | words, st.floats(-50, 1e6)), max_size=4
)
states = st.sampled_from([each.value for each in State]) | words
texts = st.dictionaries(st.sampled_from(["since", "up.since", "fence.state", "fence.in", "phase"]), words, max_size=3)


@st.composite
def seen_hosts(draw: Any) -> HostSeen:
    host_id = draw(st.integers(1, 4))
    lines = (("state", draw(states)), *draw(texts).items(), *reasons.published(draw(published), draw(ahead), 0.0))
    engine = draw(st.sampled_from([UP, DOWN, None, EngineStatus(Vm.UP, Health.BAD, "Paused")]))
    found = record(host_id, extra=lines, extra_ok=draw(st.booleans()), engine=engine, stopped=draw(st.booleans()))
    return HostSeen(
        host_id,
        draw(st.just(found) | st.just(Invalid("crc"))),
        draw(st.none() | st.booleans()),
        draw(st.none() | st.floats(0, 1e5)),
        "broker",
        draw(st.sampled_from(["live", "dead", "unknown"])),
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(seen_hosts(), max_size=4, unique_by=lambda host: host.host_id),
    st.sampled_from([Reading.of(True), Reading.of(False), Reading.missing("garbage")]),
    st.none() | st.integers(0, 5),
)
def test_whatever_the_slots_say_there_is_an_answer_in_one_sentence(
    found: List[HostSeen], flag: "Reading[bool]", owner: Any
) -> None:
    reading: Reading[LeaseOwner] = Reading.missing("error") if owner is None else Reading.of(LeaseOwner(owner))
    answer = explain(Cluster(found, 1, flag, reading))
    json.dumps(answer)
    assert answer["answer"]["text"].endswith(".") and answer["answer"]["text"].startswith(("The ", "Host ", "Whether "))
    assert [host["host_id"] for host in answer["hosts"]] == [host.host_id for host in found]
    assert "in -" not in json.dumps(answer)
    for host in found:
        assert host.counts is False or host.record is not None
    list(why._lines({**answer, "problems": []}, Cluster(found, 1, flag, reading), 80))
