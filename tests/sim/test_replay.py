"""he-sim replay: the same decisions from the same inputs, and a name for everything that is not the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from ovirt_he_ha.agent.recorder import Recorder
from ovirt_he_ha.agent.ring import Ring
from ovirt_he_ha.config.recordings import load, segments
from ovirt_he_ha.core import recording, slot
from ovirt_he_ha.core.frames import HEADER, Packer, unpack
from ovirt_he_ha.core.model import ActionKind, Decision, Health, Record, Snapshot, State
from ovirt_he_ha.core.recording import RecordedCycle
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.sim import replay
from tests.core.world import World

LIMIT = 1 << 20
T = Timers()
BEGIN = 1_600_010_000  # the world's first second on the wall: 2020-09-13 15:13:20 UTC


def story(ring: Ring, timers: Timers = T) -> List[Tuple[Snapshot, Decision]]:
    """The VM is started here, runs, hangs and is told to stop: 60 cycles, 5 s apart. Slots are recorded as bytes."""
    recorder, world, done = Recorder(ring, LIMIT), World(), []
    for number in range(60):
        world.now += 5.0
        for host_id in (2, 3):
            world.edit(host_id, timestamp=world.slots[host_id].timestamp + 5)
        if number == 3:
            world.runs(Health.GOOD)
        if number == 30:
            world.runs(Health.BAD, bad_for=400.0, stalled_for=100.0)
        snapshot = world.snapshot()
        raw = {host_id: slot.encode(each, snapshot.wall_offset) for host_id, each in snapshot.slots.items()}
        snapshot = replace(snapshot, slots={host_id: slot.decode(host_id, each) for host_id, each in raw.items()})
        decision = decide(snapshot, timers)
        recorder.record(snapshot, decision, timers, raw)
        world.carried = decision.carried
        done.append((snapshot, decision))
    return done


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    directory = tmp_path / "recording"
    story(Ring(directory, LIMIT))
    return directory


def altered(path: Path, number: int, change: Any) -> None:
    """The recording again, with one cycle's decision as ``change`` makes it."""
    (_, segment), *_ = segments(path)
    encoder, packer = recording.Encoder(), Packer()
    data = segment.read_bytes()
    parts = [data[: next(chunk.offset for chunk in unpack(data))]]  # type: ignore[union-attr]
    for cycle in cycles(path):
        decision = change(cycle.decision) if cycle.number == number else cycle.decision
        key = len(parts) == 1
        arguments = (cycle.number, cycle.snapshot, decision)
        document = encoder.key(*arguments, cycle.timers, cycle.raw) if key else encoder.following(*arguments, cycle.raw)
        parts.append(packer.pack(document, key))
    segment.write_bytes(b"".join(parts))


def cycles(path: Path) -> List[RecordedCycle]:
    found = [item for _, item in load(path)]
    assert all(isinstance(item, RecordedCycle) for item in found)
    return found  # type: ignore[return-value]


def lines(capsys: pytest.CaptureFixture[str]) -> List[str]:
    return capsys.readouterr().out.splitlines()


def structs(capsys: pytest.CaptureFixture[str]) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


# --- the same, or not ------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_decided_again_to_the_last_bit(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(ring)]) == replay.EXIT_SAME
    assert lines(capsys) == ["60 cycles, 0 differences"]
    kinds = {cycle.decision.action.kind for cycle in cycles(ring) if cycle.decision.action is not None}
    assert {ActionKind.START, ActionKind.STOP} <= kinds


def test_the_slots_go_through_the_decoder_again(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in reading slots is found, too."""
    genuine = slot.decode

    def poorer(host_id: int, data: bytes) -> Any:
        found = genuine(host_id, data)
        return replace(found, score=0) if isinstance(found, Record) else found

    monkeypatch.setattr(slot, "decode", poorer)
    assert replay.main([str(ring)]) == replay.EXIT_DIFFERENT


@pytest.mark.parametrize(
    "field, change",
    [
        ("state", lambda d: replace(d, state=State.ENGINE_STOP)),
        ("score.score", lambda d: replace(d, score=replace(d.score, score=1))),
        ("wake_at", lambda d: replace(d, wake_at=d.wake_at + 1e-9)),
        ("record.score", lambda d: replace(d, record=replace(d.record, score=1))),
        ("alive[0]", lambda d: replace(d, alive=d.alive[::-1])),
        ("reasons", lambda d: replace(d, reasons=())),
        ("carried.entered_at", lambda d: replace(d, carried=replace(d.carried, entered_at=-0.0))),
        ("carried.seen.2.token", lambda d: replace(d, carried=with_token(d.carried))),
        ("abort_migration", lambda d: replace(d, abort_migration=True)),
    ],
)
def test_each_field_that_differs_is_named_with_both_values(
    ring: Path, capsys: pytest.CaptureFixture[str], field: str, change: Any
) -> None:
    altered(ring, 12, change)
    assert replay.main(["--json", str(ring)]) == replay.EXIT_DIFFERENT
    *found, total = structs(capsys)
    assert total["cycles"] == 60
    first = found[0]
    assert first["cycle"] == 12
    named = {each["field"]: (each["recorded"], each["now"]) for each in first["differences"]}
    assert field in named
    assert json.dumps(named[field][0]) != json.dumps(named[field][1])


def with_token(carried: Any) -> Any:
    return replace(carried, seen={**carried.seen, 2: replace(carried.seen[2], token="other")})


def test_a_difference_is_shown_where_it_is_and_counted_once(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered(ring, 12, lambda decision: replace(decision, wake_at=1.0))
    assert replay.main(["--utc", str(ring)]) == replay.EXIT_DIFFERENT
    head, difference, total = lines(capsys)
    assert head.startswith("2020-09-13 15:14:20.000  cycle 12  ")
    assert difference.split(": ")[0].strip() == "wake_at"
    assert total == "60 cycles, 1 differences"


def test_the_bytes_that_would_be_published_are_compared(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = slot.encode
    monkeypatch.setattr(slot, "encode", lambda *arguments: genuine(*arguments).replace(b"state=", b"STATE="))
    (found,) = replay.differences(cycles(ring)[5])
    assert "bytes" in found.field


def test_a_policy_that_raises_is_a_difference(ring: Path) -> None:
    def broken(snapshot: Snapshot, timers: Timers) -> Decision:
        raise KeyError("surprise")

    (found,) = replay.differences(cycles(ring)[0], policy=broken)
    assert found.field == "exception" and "surprise" in found.now


def test_the_recorded_timers_decide_unless_told_otherwise(tmp_path: Path) -> None:
    story(Ring(tmp_path, LIMIT), replace(T, cycle=7.0))
    assert replay.main([str(tmp_path)]) == replay.EXIT_SAME
    assert replay.main(["--own-timers", str(tmp_path)]) == replay.EXIT_DIFFERENT


# --- which part ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, count",
    [
        (["--since", "15:14"], 53),
        (["--until", "15:14"], 8),
        (["--since", "15:14", "--until", "15:15"], 13),
        (["--since", "2020-09-13T15:14:30", "--until", "2020-09-13T15:14:35"], 2),
        (["--since", "15:13"], 0),  # of the next day
        (["--since", "2020-09-12"], 60),
    ],
)
def test_a_part_of_the_night(ring: Path, capsys: pytest.CaptureFixture[str], options: List[str], count: int) -> None:
    assert replay.main(["--utc", *options, str(ring)]) == replay.EXIT_SAME
    assert lines(capsys) == [f"{count} cycles, 0 differences"]


@pytest.mark.parametrize("words", [["--since", "soon", "x"], ["--until", "25:00", "x"], []])
def test_a_wrong_command_line_is_status_2(words: List[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        replay.main(words)
    assert caught.value.code == 2


# --- the timeline ----------------------------------------------------------------------------------------------------


def test_the_timeline_has_each_state_and_order_once(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--show", "--json", str(ring)]) == replay.EXIT_SAME
    shown = structs(capsys)
    recorded = [cycle.decision for cycle in cycles(ring)]
    states = once([decision.state.value for decision in recorded])
    assert {"EngineStart", "EngineUp", "EngineStop"} <= set(states)
    assert once([entry["state"] for entry in shown]) == states
    orders = [done for entry in shown for done in entry["done"] if done.startswith("ORDER")]
    assert orders == [f"ORDER {decision.action.kind.value}" for decision in recorded if decision.action is not None]
    assert len(shown) < 40
    assert all(entry["reasons"] for entry in shown)


def once(states: List[str]) -> List[str]:
    return [state for number, state in enumerate(states) if number == 0 or states[number - 1] != state]


def test_the_timeline_tells_gaps_and_restarts(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, segment), *_ = segments(ring)
    data = bytearray(segment.read_bytes())
    whole = [chunk.offset for chunk in unpack(bytes(data))]  # type: ignore[union-attr]
    data[whole[40] + 20] ^= 1
    segment.write_bytes(bytes(data))
    story(Ring(ring, LIMIT))
    assert replay.main(["--show", str(ring)]) == replay.EXIT_SAME
    told = [line for line in lines(capsys) if line.startswith("---")]
    assert len(told) == 1 and "again" in told[0]


# --- bad files -------------------------------------------------------------------------------------------------------


def bad(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert replay.main(list(words)) == replay.EXIT_BAD_FILE
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@pytest.mark.parametrize("show", [[], ["--show"]])
@pytest.mark.parametrize(
    "data, expected",
    [
        (b"he-cycles 2\nxx", "offset 10: expected format version 1, found 2"),
        (b"#!/bin/sh\nexit\n", "offset 0: expected a recording"),
        (b"", "offset 0: expected a recording"),
        (b"he-cycles 1\n", "expected at least one cycle"),
        (b"he-cycles 1\ngarbage", "offset 12: expected the head of a chunk"),
    ],
)
def test_a_bad_file_is_one_line_with_file_offset_and_expectation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], show: List[str], data: bytes, expected: str
) -> None:
    path = tmp_path / "night.rec"
    path.write_bytes(data)
    said = bad(capsys, *show, str(path))
    assert str(path) in said and expected in said


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "none") in bad(capsys, str(tmp_path / "none"))


def test_a_torn_end_is_said_and_the_rest_is_replayed(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, segment), *_ = segments(ring)
    segment.write_bytes(segment.read_bytes()[:-5])
    assert replay.main([str(ring)]) == replay.EXIT_SAME
    said = capsys.readouterr()
    assert said.out == "59 cycles, 0 differences\n"
    assert str(segment) in said.err and len(said.err.splitlines()) == 1


def rewritten(path: Path, change: Any) -> None:
    """The first document as ``change`` leaves it, with the checksum that belongs to it."""
    (_, segment), *_ = segments(path)
    documents = [(each.document, each.key) for each in unpack(segment.read_bytes())]  # type: ignore[union-attr]
    change(documents[0][0])
    packer = Packer()
    segment.write_bytes(HEADER + b"".join(packer.pack(document, key) for document, key in documents))


@pytest.mark.parametrize("show", [[], ["--show"], ["--json"]])
@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["s"][0].update(now="noon"),
        lambda document: document["s"][0].update(now=10**400),
        lambda document: document["s"][0].update(wall_offset=float("nan")),
        lambda document: document["s"][0].update(wall_offset=None),
        lambda document: document["s"][0].update(slots_age="young"),
    ],
)
def test_a_time_that_is_none_is_damage(
    ring: Path, capsys: pytest.CaptureFixture[str], show: List[str], change: Any
) -> None:
    rewritten(ring, change)
    assert "to be seconds, found" in bad(capsys, *show, str(ring))


def test_a_list_in_the_place_of_a_host_is_damage(ring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewritten(ring, lambda document: document.update(p=[[1]]))
    assert "expected p to be hosts" in bad(capsys, str(ring))


@pytest.mark.parametrize("show", [[], ["--show"], ["--json"], ["--json", "--show"]])
@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["s"][0]["host"].update(hostname=1e308),
        lambda document: document["s"][0]["host"].update(host_id=None),
        lambda document: document["d"][0]["reasons"][0].update(code=True),
        lambda document: document["d"][0]["score"].update(score=[]),
        lambda document: document["s"][0]["monitors"]["engine"]["value"].update(status=None),
    ],
)
def test_values_of_other_types_end_nothing(
    ring: Path, capsys: pytest.CaptureFixture[str], show: List[str], change: Any
) -> None:
    """No agent writes them, and a checksum that fits says nothing about that."""
    rewritten(ring, change)
    assert replay.main([*show, str(ring)]) in (replay.EXIT_SAME, replay.EXIT_DIFFERENT, replay.EXIT_BAD_FILE)
    said = capsys.readouterr()
    assert said.out or said.err
    assert all(str(ring) in line for line in said.err.splitlines())
