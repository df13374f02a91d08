"""What a recording keeps of a cycle: everything, to the last bit, through the bytes of a file."""

import json
import zlib
from binascii import crc32
from dataclasses import fields, is_dataclass, replace
from typing import Union, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovirt_he_ha.core import frames, model, recording, slot, slot_text, timers
from ovirt_he_ha.core.frames import Damage, NotARecording
from ovirt_he_ha.core.model import (
    Carried,
    Decision,
    Empty,
    GuardReport,
    Invalid,
    LoadSample,
    Reading,
    Reason,
    Record,
    Snapshot,
)
from ovirt_he_ha.core.reasons import REASONS
from ovirt_he_ha.core.recording import Encoder, RecordedCycle
from ovirt_he_ha.core.shapes import SAME, ShapeError, noun_of, shape_of
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers
from tests.core.test_states_properties import slots, snapshots
from tests.core.world import World

T = Timers()
OTHER_TIMERS = replace(T, cycle=7.5, crash_backoff=(1.0, 2.0))

guards = st.builds(
    GuardReport,
    st.sampled_from(["", "guarded", "threatened"]),
    st.none()
    | st.builds(Reason, st.sampled_from(sorted(REASONS)), st.dictionaries(st.text(max_size=3), st.text(max_size=3))),
    st.none() | st.floats(allow_nan=False),
)
whole_snapshots = st.builds(lambda snapshot, guard: replace(snapshot, guard=guard), snapshots, guards)


def file_of(cycles, key_every=1000, raw=None, timers_=T):
    """The bytes of a file with these (snapshot, decision) pairs."""
    encoder, packer, parts = Encoder(), frames.Packer(), [frames.HEADER]
    for number, (snapshot, decision) in enumerate(cycles):
        known = {} if raw is None else raw[number]
        key = number % key_every == 0
        if key:
            document = encoder.key(number, snapshot, decision, timers_, known)
        else:
            document = encoder.following(number, snapshot, decision, known)
        parts.append(packer.pack(document, key))
    return b"".join(parts)


def cycles_of(data):
    found = list(recording.read(data))
    assert all(isinstance(item, RecordedCycle) for item in found), found
    return found


def exact(value):
    """A text that differs where ``==`` does not look: 0 and 0.0, -0.0, True and 1, the order of a mapping."""
    if is_dataclass(value):
        return [type(value).__name__, *((f.name, exact(getattr(value, f.name))) for f in fields(value))]
    if isinstance(value, tuple):
        return ["tuple", *map(exact, value)]
    if hasattr(value, "items"):
        return ["mapping", *((key, exact(item)) for key, item in value.items())]
    return type(value).__name__ + repr(value)


@settings(max_examples=200)
@given(st.lists(whole_snapshots, min_size=1, max_size=4), st.integers(1, 3))
def test_any_snapshots_and_their_decisions_come_back_exactly(found, key_every):
    cycles = [(snapshot, decide(snapshot)) for snapshot in found]
    read = cycles_of(file_of(cycles, key_every))
    assert [(cycle.snapshot, cycle.decision) for cycle in read] == cycles
    assert exact(tuple(cycle.snapshot for cycle in read)) == exact(tuple(found))
    assert exact(tuple(cycle.decision for cycle in read)) == exact(tuple(decision for _, decision in cycles))


@settings(max_examples=60)
@given(whole_snapshots, st.lists(st.tuples(st.floats(0.1, 30), slots(2), slots(3)), min_size=1, max_size=5))
def test_a_course_of_cycles_comes_back_exactly_with_its_bytes(snapshot, course):
    cycles, raw = [], []
    for after, *changed in course:
        data = {s.host_id: slot.encode(s, 1.6e9) for s in changed if isinstance(s, Record)}
        now = replace(
            snapshot,
            now=snapshot.now + after,
            slots={**snapshot.slots, **{host_id: slot.decode(host_id, each) for host_id, each in data.items()}},
        )
        decision = decide(now)
        cycles.append((now, decision))
        raw.append(data)
        snapshot = replace(now, carried=decision.carried)
    read = cycles_of(file_of(cycles, raw=raw))
    assert [(cycle.snapshot, cycle.decision) for cycle in read] == cycles
    assert [dict(cycle.raw) for cycle in read] == raw
    for cycle in read:
        assert cycle.published == recording.published_crc(cycle.snapshot, cycle.decision)


@pytest.mark.parametrize(
    "change",
    [{"past": ("other",)}, {"past": ()}, {"since": 1.0}, {"changed_at": 1.0}, {"token": "other"}, {}],
)
def test_what_was_seen_of_a_host_comes_back_also_where_it_does_not_follow_from_its_slot(change):
    world = World()
    first = world.snapshot()
    world.carried = decide(first).carried
    world.now += 5.0
    world.edit(2, timestamp=105)
    second = world.snapshot()
    decision = decide(second)
    seen = decision.carried.seen
    other = replace(decision.carried, seen={**seen, 2: replace(seen[2], **change)})
    cycles = [(first, decide(first)), (second, replace(decision, carried=other))]
    assert [(cycle.snapshot, cycle.decision) for cycle in cycles_of(file_of(cycles))] == cycles


@given(st.floats(), st.floats())
def test_floats_keep_every_bit(one, other):
    shape = shape_of(LoadSample)
    for value in (LoadSample(one, other), LoadSample(other, None)):
        stored = json.loads(json.dumps(shape.plain(value)))
        assert repr(shape.value(stored, "x")) == repr(value)
        change = shape.patch(LoadSample(one, one), value)
        if change is not SAME:
            patched = shape.patched(LoadSample(one, one), json.loads(json.dumps(change)), "x")
            assert repr(patched) == repr(value)


@pytest.mark.parametrize("old, new", [(0.0, -0.0), (0, 0.0), (1, True), (0.0, False)])
def test_equal_is_not_the_same(old, new):
    shape = shape_of(LoadSample)
    change = shape.patch(LoadSample(old, None), LoadSample(new, None))
    assert repr(shape.patched(LoadSample(old, None), json.loads(json.dumps(change)), "x").at) == repr(new)


rows = st.lists(st.sampled_from([LoadSample(float(n), None) for n in range(6)]), max_size=8).map(tuple)


@given(rows, rows)
def test_any_row_can_follow_any_other(old, new):
    shape = shape_of(Carried).shapes["loads"]
    change = shape.patch(old, new)
    assert (change is SAME) == (old == new)
    if change is not SAME:
        assert shape.patched(old, json.loads(json.dumps(change)), "x") == new


tables = st.lists(st.tuples(st.integers(0, 5), st.floats(allow_nan=False)), max_size=5).map(
    lambda items: {str(key): value for key, value in items}
)


@given(tables, tables)
def test_any_table_can_follow_any_other_in_its_order(old, new):
    shape = shape_of(Carried).shapes["notes"]
    change = shape.patch(old, new)
    patched = old if change is SAME else shape.patched(old, json.loads(json.dumps(change)), "x")
    assert list(patched.items()) == list(new.items())
    assert exact(dict(patched)) == exact(new)


def test_the_timers_in_force_are_in_the_recording():
    world = World()
    snapshot = world.snapshot()
    read = cycles_of(file_of([(snapshot, decide(snapshot, OTHER_TIMERS))] * 2, timers_=OTHER_TIMERS))
    assert [cycle.timers for cycle in read] == [OTHER_TIMERS] * 2


def test_a_field_that_an_older_version_did_not_record_has_its_default():
    shape = noun_of(Snapshot)
    stored = shape.plain(World().snapshot())
    del stored["storage_problem"]
    assert shape.value(stored, "snapshot").storage_problem == ""


def test_a_field_of_a_newer_version_is_refused_by_name():
    shape = noun_of(Snapshot)
    stored = shape.plain(World().snapshot())
    stored["host"]["surprise"] = 1
    with pytest.raises(ShapeError, match=r"snapshot\.host\.surprise"):
        shape.value(stored, "snapshot")


def test_only_facts_of_the_policy_are_recorded():
    """No configuration object, hence no password: all that a snapshot, a decision or the timers reach is defined in
    core/model.py and core/timers.py, and nothing there is named like a secret."""
    seen, names, todo = set(), set(), [Snapshot, Decision, Timers]
    while todo:
        kind = todo.pop()
        kinds = [each for each in get_args(kind) if isinstance(each, type) or get_args(each)]
        todo += [each for each in kinds if each not in seen]
        kind = getattr(kind, "__origin__", kind)
        if is_dataclass(kind) and kind not in seen:
            assert kind.__module__ in (model.__name__, timers.__name__)
            names |= {f.name for f in fields(kind)}
            todo += [hint for hint in get_type_hints(kind).values()]
        seen.add(kind)
    assert {Snapshot, Carried, Record, Reading, Decision} <= seen
    assert not [name for name in names if any(word in name for word in ("pass", "secret", "ticket", "xml", "user"))]


# --- a slot's text ---------------------------------------------------------------------------------------------------

blobs = st.one_of(
    st.binary(max_size=600).map(lambda data: data.ljust(4096, b"\0")),
    st.lists(st.sampled_from([b"\0", b"|", b"\n", b"a=1\n", b"x" * 300, b"\xff"]), max_size=20).map(
        lambda parts: b"".join(parts)[:4096].ljust(4096, b"\0")
    ),
    st.tuples(st.text("ab|\xe9", max_size=20), st.text("xy=\n", max_size=40)).map(
        lambda pair: pair[0].encode("latin-1").ljust(512, b"\0") + pair[1].encode("latin-1").ljust(3584, b"\0")
    ),
    st.binary(max_size=20),
)


@given(blobs)
def test_bytes_become_a_text_only_where_they_come_back(data):
    text = slot_text.text_of(data)
    if text is not None:
        assert slot_text.bytes_of(text) == data


def test_a_full_slot_becomes_a_text():
    data = b"h" * 512 + b"t" * 3584
    assert slot_text.bytes_of(slot_text.text_of(data)) == data
    assert slot_text.text_of(b"line\nline".ljust(4096, b"\0")) is None
    assert slot_text.text_of(b"line".ljust(510, b"\0") + b"x" + bytes(3585)) is None


KEYS = ["state", "mem", "why.1", "why.2", "crc", "fence.state"]
values = st.text("ab=|;1", max_size=4)
published = st.builds(
    lambda second, engine, name, extra, whole: (second, engine, name, extra, whole),
    st.integers(1, 12),
    st.sampled_from(["null", '{"vm": "up", "health": "good", "detail": "Up"}']),
    st.text("h0|", max_size=3),
    st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=5),
    st.sampled_from(["sealed", "sealed", "sealed", "upstream", "bad-crc", "bad-line", "garbage"]),
)


def slot_like(second, engine, name, extra, whole):
    """A slot as ours, as oVirt's, or with something wrong."""
    line = f"1|1|{second}|2|3400|{engine}|{name}|0|0|00000000|1|0"
    fields = line.split("|")
    fields[9] = f"{crc32(line.encode()):08x}" if len(fields) == 12 and whole != "bad-line" else fields[9]
    text = f"timestamp={second} (today)\n" + "".join(f"{key}={value}\n" for key, value in extra)
    if whole == "sealed":
        text += f"crc={crc32(text.encode()):08x}\n"
    if whole == "bad-crc":
        text += "crc=0badc0de\n"
    data = "|".join(fields).encode().ljust(512, b"\0") + text.encode().ljust(3584, b"\0")
    return data[:2000] + b"x" + data[2001:] if whole == "garbage" else data


@settings(max_examples=400)
@given(st.lists(published, min_size=1, max_size=8))
def test_any_slot_can_follow_any_other(course):
    base = World().snapshot()
    cycles, raw = [], []
    for shape in course:
        data = {2: slot_like(*shape)}
        snapshot = replace(base, slots={2: slot.decode(2, data[2])})
        cycles.append((snapshot, decide(snapshot)))
        raw.append(data)
    read = cycles_of(file_of(cycles, raw=raw))
    assert [dict(cycle.raw) for cycle in read] == raw
    assert [cycle.snapshot.slots for cycle in read] == [snapshot.slots for snapshot, _ in cycles]


def of_second(second, more=""):
    extra = [("state", "EngineDown"), *([("phase", more)] if more else []), ("mem", "1"), ("why.0", f"in;{second}")]
    return slot_like(second, "null", "host2", extra, "sealed")


def followed(follower, data):
    return follower.follow(data, True)


def test_what_changes_in_a_slot_in_every_cycle_is_all_that_is_kept():
    follower = slot_text.Follower(of_second(1000), slot_text.text_of(of_second(1000)), True)
    for second in (1010, 1020):
        difference = followed(follower, of_second(second))
        assert difference[2::3] == [f"{second}|", f"timestamp={second} (today)\n", f"why.0=in;{second}\n"]


def test_a_line_that_comes_or_goes_does_not_cost_the_others():
    follower = slot_text.Follower(of_second(1000), slot_text.text_of(of_second(1000)), True)
    assert "phase=up\n" in followed(follower, of_second(1000, "up"))[2::3]
    assert len("".join(followed(follower, of_second(1010))[2::3])) < 60


def upstream(second):
    return slot_like(second, "null", "host2", [("state", "EngineDown")], "upstream")


@pytest.mark.parametrize("make", [of_second, upstream])
def test_a_slot_that_changed_is_kept_as_a_difference(make):
    raw = [{2: make(second)} for second in (1000, 1010, 1020)]
    snapshots_ = [replace(World().snapshot(), slots={2: slot.decode(2, data[2])}) for data in raw]
    encoder = Encoder()
    encoder.key(0, snapshots_[0], decide(snapshots_[0]), T, raw[0])
    for number in (1, 2):
        document = encoder.following(number, snapshots_[number], decide(snapshots_[number]), raw[number])
        assert isinstance(document["x"]["+"]["2"], list)


def test_every_form_of_a_slot_comes_back():
    world = World()
    data = {1: bytes(4096), 2: b"\xff" * 4096, 3: b"1|1".ljust(4096, b"\0"), 5: slot.encode(world.slots[2], 1.6e9)}
    decoded = {host_id: slot.decode(host_id, each) for host_id, each in data.items()}
    snapshot = replace(world.snapshot(), slots={**decoded, 7: Empty(), 8: Invalid("crc", "x")})
    read = cycles_of(file_of([(snapshot, decide(snapshot))] * 2, raw=[data, data]))
    assert all(cycle.snapshot.slots == snapshot.slots and dict(cycle.raw) == data for cycle in read)


# --- files that are damaged ------------------------------------------------------------------------------------------


def six_cycles(key_every):
    world = World()
    cycles = []
    for _ in range(6):
        before = world.carried
        decision = world.step(5.0)
        cycles.append((replace(world.snapshot(), carried=before), decision))
    return file_of(cycles, key_every)


def offsets(data):
    return [chunk.offset for chunk in frames.unpack(data)]


def test_a_torn_end_costs_the_last_cycle_only():
    data = six_cycles(3)
    last = offsets(data)[-1]
    for end in range(last + 1, len(data)):
        *cycles, damage = recording.read(data[:end])
        assert [cycle.number for cycle in cycles] == [0, 1, 2, 3, 4]
        assert isinstance(damage, Damage) and damage.offset == last and damage.skipped == end - last


def test_a_damaged_chunk_costs_the_cycles_up_to_the_next_that_stands_by_itself():
    data = bytearray(six_cycles(3))
    place = offsets(bytes(data))[1]
    for change in (0, 2, 5, 9, 14):
        broken = bytearray(data)
        broken[place + change] ^= 0x40
        numbers = [getattr(item, "number", "damage") for item in recording.read(bytes(broken))]
        assert numbers == [0, "damage", 3, 4, 5]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=5))
def test_no_damage_raises_anything_else(changes):
    data = bytearray(DAMAGEABLE)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = list(recording.read(bytes(data)))
    except NotARecording:
        return
    assert found


DAMAGEABLE = six_cycles(2)


@pytest.mark.parametrize(
    "data, offset",
    [(b"he-cycles 2\n" + b"x" * 99, 10), (b"#!/bin/sh\n", 0), (b"he-cycles x\n", 0), (b"", 0), (b"\0" * 4096, 0)],
)
def test_another_version_and_other_files_are_named_with_the_offset(data, offset):
    with pytest.raises(NotARecording) as caught:
        list(recording.read(data))
    assert caught.value.offset == offset
    assert str(frames.FORMAT_VERSION) in caught.value.expected or offset == 0


@pytest.mark.parametrize("torn", [b"he", frames.HEADER[:-1], frames.HEADER])
def test_a_file_that_was_only_begun_is_empty(torn):
    assert list(recording.read(torn)) == []


def documents(*made):
    packer = frames.Packer()
    return frames.HEADER + b"".join(packer.pack(document, number == 0) for number, document in enumerate(made))


def good_key():
    snapshot = World().snapshot()
    return Encoder().key(0, snapshot, decide(snapshot), T, {})


@pytest.mark.parametrize(
    "change",
    [
        {"n": "x"},
        {"s": {}},
        {"s": [[]]},
        {"x": []},
        {"x": {"=": {"one": {"empty": {}}}}},
        {"x": {"=": {"1": 7}}},
        {"x": {"=": {"1": [0, 1, "x"]}}},
        {"x": {"=": {"1": {"hex": "zz"}}}},
        {"x": {"=": {"1": "no newline"}}},
        {"c": {}},
        {"c": [{"state": "NoSuchState"}]},
        {"c": [{"seen": {"2": {"token": []}}}]},
        {"d": [{}]},
        {"p": [2000]},
        {"p": 3},
        {"a": {"loads": {"at": 5, "take": 1, "add": []}}},
        {"a": {"loads": {"drop": -1, "add": []}}},
        {"a": {"notes": {"+": 1}}},
        {"t": None},
        {"t": {"crash_backoff": None}},
        {"x": {"=": {"2": {"record": {}, "empty": {}}}}},
        {"x": {"=": {"2": {"record": None}}}},
        {"x": {"=": {"2": {"record": {"extra": [["a"]]}}}}},
        {"x": {"=": {"2": {"record": {"extra": 7}}}}},
        {"a": {"notes": 3}},
        {"a": {"notes": {"+": {"new": 1.0}}}},
        {"a": {"notes": [[1]]}},
        {"a": {"seen": {"+": {"two": [{"token": "x", "since": 1.0}]}}}},
        {"a": {"migration": {"kind": "start"}}},
    ],
)
def test_a_document_that_is_no_cycle_is_damage(change):
    (found,) = recording.read(documents({**good_key(), **change}))
    assert isinstance(found, Damage) and found.offset == len(frames.HEADER)


@pytest.mark.parametrize(
    "following",
    [
        7,
        {},
        {"n": 1, "x": {"+": {"2": [9999, 1, "x"]}}},
        {"n": 1, "s": {"now": {}}},
        {"n": 1, "d": [1]},
        {"n": 1, "s": {"leases": {"hosts": {"value": {"+": {"x": [1]}}}}}},
        {"n": 1, "s": {"host": 1}},
    ],
)
def test_what_follows_and_makes_no_sense_is_damage(following):
    good, damage = recording.read(documents(good_key(), following))
    assert isinstance(good, RecordedCycle) and isinstance(damage, Damage)


@pytest.mark.parametrize("difference", [["x", 1, "y"], [0, 1, 2], [5, 1, "x"], [1, 1, "a", 0, 1, "b"], [-1, 1, "x"]])
def test_a_difference_that_does_not_belong_to_a_slot_is_damage(difference):
    snapshot = replace(World().snapshot(), slots={2: slot.decode(2, b"1|1".ljust(4096, b"\0"))})
    key = Encoder().key(0, snapshot, decide(snapshot), T, {2: b"1|1".ljust(4096, b"\0")})
    _, damage = recording.read(documents(key, {"n": 1, "x": {"+": {"2": difference}}}))
    assert isinstance(damage, Damage) and "slots[2]" in damage.expected


def chunk(kind, payload):
    checksum = crc32(payload, crc32(kind + len(payload).to_bytes(4, "big")))
    return b"\xc7\x0e" + kind + b"\0" + len(payload).to_bytes(4, "big") + checksum.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "payload",
    [
        b"not compressed",
        zlib.compress(b"not JSON"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b"\xff"),
        zlib.compress(b" " * 5000),
    ],
)
def test_a_chunk_whose_checksum_is_right_and_content_is_not_is_damage(payload, monkeypatch):
    monkeypatch.setattr(frames, "_LARGEST", 200_000)
    found = list(frames.unpack(frames.HEADER + chunk(b"K", payload) + chunk(b"C", b"")))
    assert all(isinstance(item, Damage) for item in found) and len(found) == 1


def test_a_document_of_any_size_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(frames, "_LARGEST", 1000)
    (damage,) = frames.unpack(frames.HEADER + chunk(b"K", zlib.compress(b" " * 5000 + b"1")))
    assert "1000" in damage.found


def test_what_continues_a_stream_that_is_not_there_is_damage():
    (damage,) = frames.unpack(frames.HEADER + chunk(b"C", zlib.compress(b"1")))
    assert isinstance(damage, Damage) and damage.offset == len(frames.HEADER)


def test_what_follows_a_cycle_that_made_no_sense_is_left_out_until_the_next_whole_one():
    packer = frames.Packer()
    made = [(good_key(), True), ({"n": "x"}, False), ({"n": 2}, False), (good_key(), True)]
    data = frames.HEADER + b"".join(packer.pack(document, key) for document, key in made)
    assert [type(item) for item in recording.read(data)] == [RecordedCycle, Damage, RecordedCycle]


@pytest.mark.parametrize("hint", [bytes, Union[int, str], object])
def test_what_has_no_plain_form_is_a_mistake_in_the_program(hint):
    with pytest.raises(TypeError):
        shape_of(hint)


def test_a_record_that_no_slot_can_hold_is_not_made_into_bytes():
    snapshot = World().snapshot()
    decision = decide(snapshot)
    assert recording.published_crc(snapshot, replace(decision, record=replace(decision.record, score=-1))) is None


def test_the_first_document_must_stand_by_itself():
    world = World()
    snapshot = world.snapshot()
    encoder = Encoder()
    encoder.key(0, snapshot, decide(snapshot), T, {})
    (damage,) = recording.read(documents(encoder.following(1, snapshot, decide(snapshot), {})))
    assert isinstance(damage, Damage)


def test_a_value_that_is_none_of_its_field_is_damage():
    """A null among what was seen of the hosts, which the shapes let pass."""
    key = good_key()
    key["c"][0]["seen"] = {"2": None}
    (damage,) = recording.read(documents(key))
    assert isinstance(damage, Damage) and damage.expected == "the values of a cycle"


def test_a_time_that_is_none_is_damage():
    for name, value in (
        ("now", "x"),
        ("now", float("nan")),
        ("wall_offset", None),
        ("slots_age", "x"),
        ("now", 10**400),
    ):
        document = good_key()
        document["s"][0][name] = value
        (damage,) = recording.read(documents(document))
        assert isinstance(damage, Damage) and name in damage.expected
