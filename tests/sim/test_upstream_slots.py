"""The second opinion on the bytes: what upstream's own readers accept, refuse, and die of."""

import hashlib
import json
from dataclasses import replace
from datetime import timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core import slot as ours
from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.sim.upstream_slots import (
    SIZE,
    AgentDies,
    BrokerDies,
    Peer,
    Published,
    TooNew,
    engine_rank,
    is_valid_for_upstream,
    line_crc,
    parse_flags,
    parse_host,
    parse_status,
    read_area,
    status_fault,
    write_flags,
    write_host,
)

OFFSET = 1_700_000_000 - 86_400
UP = {"vm": "up", "health": "good", "detail": "Up"}
DOWN = {"vm": "down", "health": "bad", "detail": "unknown", "reason": "n/a"}

V1 = Published(1, 86400, 3400, UP, "host1.example.com", "EngineUp", conf_timestamp=86399, wall_offset=OFFSET)
V2 = replace(V1, host_id=2, timestamp=4242, score=2884, status=DOWN, hostname="host2", state="EngineDown")
V3 = replace(V2, host_id=3, timestamp=99, score=0, hostname="host3", state="LocalMaintenance", maintenance=True)
V4 = replace(V3, timestamp=100, maintenance=False, stopped=True, state="AgentStopped")
V5 = replace(V1, host_id=4, timestamp=1, score=0, status=None, hostname="h4", state="EngineDown", conf_shared=False)
GOLDEN = {
    "V1": (V1, "816e49c8975127d0a4864a095f5bb8cbf0535b18077ac16cf86cf23bf0f6ca0b"),
    "V2": (V2, "55e98b05136deeb8c4b9617a933b4ddbf38bb010070eecdb14532f83e73da75a"),
    "V3": (V3, "f4ab84f170188d600709e4d7bf839a7093a80fc38e0ae58ffa2a16c6ba970c96"),
    "V4": (V4, "2bc66b85cec13c6809bffb411bcca2401bc52ae749ce9a2c6514abb11c9d314a"),
    "V5": (V5, "82b33e3596c0795d23c2d437d56d36394173aa28c8d749177fcea2a791a4c310"),
}


def slot_with(*fields, crc=True, text=b""):
    parts = [str(field) for field in fields]
    if crc and len(parts) > 9:
        parts[9] = line_crc(parts)
    return "|".join(parts).encode().ljust(512, b"\0") + text.ljust(3584, b"\0")


def fields_with(**changes):
    names = ["parse", "feature", "ts", "id", "score", "engine", "name", "maint", "stopped", "crc", "shared", "conf"]
    values = dict(zip(names, [1, 1, 5, 2, 3400, "null", "h2", 0, 0, "", 1, 7]))
    values.update(changes)
    return [values[name] for name in names]


def parsed(data, slot=2):
    return parse_host(slot, data.decode())


# --- the writer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_the_model_writes_upstreams_bytes(name):
    published, digest = GOLDEN[name]
    data = write_host(published)
    assert hashlib.sha256(data).hexdigest() == digest
    assert is_valid_for_upstream(data, published.host_id) is None


def test_flags_have_upstreams_bytes():
    assert [hashlib.sha256(write_flags(flag)).hexdigest() for flag in (True, False)] == [
        "cf004d2800a04853ce95548dcff1890ddc418e95beeff605db7e506dee253398",
        "aaf2118977c3a13d36ddbafb98e7ce2c57fa44c4e12845eb38eef17de9237b85",
    ]
    for flag in (True, False):
        assert parse_flags(write_flags(flag).decode()) == {"maintenance": flag}
        assert ours.decode_global(write_flags(flag)).value is flag


def test_a_timeout_is_shown_in_1970():
    data = write_host(replace(V1, state="EngineStop", timeout=86700))
    assert b"timeout=Fri Jan  2 00:05:00 1970\n" in data
    assert isinstance(ours.decode(1, data), Record)


def test_a_line_that_is_too_long_ends_the_agent():
    with pytest.raises(AgentDies):
        write_host(replace(V1, hostname="h" * 500))


# --- ours, read by theirs -------------------------------------------------------------------------------------------

texts = st.text(max_size=600)
records = st.builds(
    Record,
    host_id=st.integers(1, 2000),
    timestamp=st.integers(0, 10**12 - 1),
    score=st.integers(0, 10**9 - 1),
    engine=st.none() | st.builds(EngineStatus, st.sampled_from(Vm), st.sampled_from(Health), texts, texts),
    hostname=texts,
    maintenance=st.booleans(),
    stopped=st.booleans(),
    conf_on_shared_storage=st.booleans(),
    local_conf_timestamp=st.integers(0, 10**12 - 1),
    extra=st.lists(
        st.tuples(st.sampled_from(["state", "timeout", "mig", "why.1", "lease", "problem"]), texts), max_size=8
    ).map(tuple),
)


@given(records, st.floats(-1e13, 1e13))
def test_whatever_ours_writes_theirs_reads(record, offset):
    data = ours.encode(record, offset, timezone.utc)
    assert is_valid_for_upstream(data, record.host_id) is None
    # And upstream's own reader takes it without dying, in the broker, in the agent, and where engines are compared.
    text = read_area({record.host_id: data})[record.host_id]
    found = parse_host(record.host_id, text)
    assert isinstance(found, Peer)
    assert (found.timestamp, found.score) == (record.timestamp, record.score)
    assert (found.maintenance, found.stopped) == (record.maintenance, record.stopped)
    assert 0 <= engine_rank(found.status) <= 4


@given(st.booleans())
def test_our_flags_are_valid(flag):
    assert is_valid_for_upstream(ours.encode_global(flag), 0) is None


@given(records, st.integers(0, 4095), st.integers(1, 255))
def test_a_changed_byte_of_the_line_is_noticed_by_both(record, at, change):
    data = bytearray(ours.encode(record, 0.0, timezone.utc))
    data[at] ^= change
    tampered = bytes(data)
    fault = is_valid_for_upstream(tampered, record.host_id)
    if at < 512:
        assert fault is not None
    if data[at] > 127:
        assert fault == f"byte {at} is not ASCII"


@given(st.binary(min_size=1, max_size=600), st.integers(0, 2000))
def test_noise_is_never_valid_and_never_raises(noise, slot):
    data = noise.ljust(SIZE, b"\0")
    assert is_valid_for_upstream(data, slot) is not None or data == bytes(SIZE)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"1|1", "3 bytes instead of 4096"),
        (slot_with(*fields_with(engine='{"vm": "\u00fcp"}')), "byte 21 is not ASCII"),
        (slot_with(*fields_with()[:11]), "11 fields instead of 12"),
        (slot_with(*fields_with(), 13), "13 fields instead of 12"),
        (slot_with(*fields_with(name="a|b")), "13 fields instead of 12"),
        (slot_with(*fields_with(name="a\0b")), "NUL inside the host line"),
        (slot_with(*fields_with(name="a\nb")), "control character in the host line"),
        (slot_with(*fields_with(ts="x")), "host timestamp is no whole number"),
        (slot_with(*fields_with(ts="1.5")), "host timestamp is no whole number"),
        (slot_with(*fields_with(score="-1")), "score is no whole number"),
        (slot_with(*fields_with(maint="no")), "local maintenance is no whole number"),
        (slot_with(*fields_with(stopped=2)), "stopped is neither 0 nor 1"),
        (slot_with(*fields_with(conf="")), "local conf timestamp is no whole number"),
        (slot_with(*fields_with(parse=2)), "parse version is not 1"),
        (slot_with(*fields_with(feature=0)), "feature version is below 1"),
        (slot_with(*fields_with(id=3)), "host id is not the slot's"),
        (slot_with(*fields_with(crc="00000000"), crc=False), "crc32 does not fit the line"),
        (slot_with(*fields_with(), text=b"state=EngineUp"), "the free text does not end with a line"),
        (slot_with(*fields_with(), text=b"state=EngineUp\nnoise\n"), "line of the free text: 'noise'"),
        (slot_with(*fields_with(), text=b"state=\x07\n"), "line of the free text: 'state=\\x07'"),
        (slot_with(*fields_with(), text=b"a=1\n\0b=1\n"), "NUL inside the free text"),
        (slot_with(*fields_with(engine="{")), "engine status is no JSON"),
        (slot_with(*fields_with(engine="[]")), "engine status is no object"),
    ],
)
def test_what_must_not_be_published(data, fault):
    assert is_valid_for_upstream(data, 2) == fault


@pytest.mark.parametrize("data", [b"maintenance=2", b"maintenance=1\nmaintenance=0", b"maintenance=true", b"x"])
def test_slot_0_holds_one_flag_and_nothing_else(data):
    assert is_valid_for_upstream(data.ljust(SIZE, b"\0"), 0) is not None


def test_blank_slots_are_valid():
    assert is_valid_for_upstream(bytes(SIZE), 7) is None
    assert is_valid_for_upstream(bytes(SIZE), 0) is None


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        ({}, "engine status without vm"),
        ({"vm": "up", "health": "good"}, "engine status without detail"),
        ({"vm": "up", "health": "unknown", "detail": "Up"}, "cannot be ranked: up, unknown"),
        ({"vm": "migrating", "health": "starting", "detail": "x"}, "cannot be ranked: migrating, starting"),
        ({"vm": "up", "health": "unknown", "detail": "Paused"}, None),
        ({"vm": "unknown", "health": "unknown", "detail": "unknown"}, None),
        ({"vm": "down_missing", "health": "x", "detail": "x"}, None),
        ({"vm": "up", "health": True, "detail": "Up"}, "value that is no text"),
    ],
)
def test_engine_statuses_that_peers_die_of(status, fault):
    found = status_fault(json.dumps(status))
    assert (found is None) if fault is None else (fault in found)
    if fault is not None and "text" not in fault:
        with pytest.raises(AgentDies):
            engine_rank(parse_status(json.dumps(status)))


# --- upstream's reader ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (slot_with("x", *fields_with()[1:]), Peer(2)),
        (slot_with(*fields_with(parse=2)), TooNew(2)),
        (slot_with(*fields_with()[:6]), Peer(2)),
        (slot_with(*fields_with(feature="x")), Peer(2)),
        (slot_with(*fields_with(feature=0)), Peer(2)),
        (slot_with(*fields_with(crc="deadbeef"), crc=False), Peer(2)),
    ],
)
def test_malformed_slots_are_empty_records(data, found):
    assert parsed(data) == found


@pytest.mark.parametrize(
    ("data", "maintenance", "stopped"),
    [
        (slot_with(*fields_with()[:7]), False, False),
        (slot_with(*fields_with(feature=9)), False, False),
        (slot_with(*fields_with(maint=1)[:8]), True, False),
        (slot_with(*fields_with(maint=0, stopped=5)[:9]), False, True),
        (slot_with(*fields_with()[:10]), False, False),
        (slot_with(*fields_with(shared="x")[:11]), False, False),
        (slot_with(*fields_with(), 13), False, False),
        (slot_with(*fields_with(id=3)), False, False),
    ],
)
def test_slots_that_upstream_accepts(data, maintenance, stopped):
    found = parsed(data)
    assert (found.timestamp, found.score, found.status["vm"]) == (5, 3400, "unknown")
    assert (found.maintenance, found.stopped) == (maintenance, stopped)


@pytest.mark.parametrize("name", ["ts", "score", "maint", "stopped", "shared", "conf"])
def test_w16_one_number_that_is_none_ends_the_reading_agent_before_the_crc_is_looked_at(name):
    data = slot_with(*fields_with(**{name: "x", "crc": "deadbeef"}), crc=False)
    with pytest.raises(AgentDies):
        parsed(data)
    assert not isinstance(ours.decode(2, data), Record)  # for us it is one bad host


@pytest.mark.parametrize("value", ["", "on", "x"])
def test_w16_a_flag_that_is_no_truth_ends_the_reading_agent(value):
    with pytest.raises(AgentDies):
        parse_flags(f"maintenance={value}".ljust(SIZE, "\0"))


def test_other_lines_of_slot_0_are_skipped():
    assert parse_flags("noise\nother=1\nmaintenance=Yes\n".ljust(SIZE, "\0")) == {"maintenance": True}
    assert parse_flags("maintenance=1") == {}  # shorter than a slot


def test_w14_one_byte_that_is_no_utf8_ends_the_broker():
    good, bad = write_host(V1), bytearray(write_host(V2))
    bad[3000] = 0xFF
    with pytest.raises(BrokerDies):
        read_area({1: good, 2: bytes(bad)})
    assert isinstance(ours.decode(2, bytes(bad)), Record)


def test_w15_a_character_of_two_bytes_shifts_the_slots_behind_it():
    before, at, behind = write_host(V2), bytearray(write_host(V3)), write_host(replace(V2, host_id=6))
    at[3000:3002] = "\u00e9".encode()
    found = read_area({2: before, 3: bytes(at), 6: behind})
    assert parse_host(2, found[2]).score == 2884
    assert parse_host(3, found[3]).timestamp == 99
    assert parse_host(6, found[6]) == Peer(6)


def test_a_character_that_stands_across_two_slots_is_one_character():
    first, second = bytearray(write_host(V2)), bytearray(write_host(V3))
    first[-1], second[0] = "\u00e9".encode()
    assert set(read_area({2: bytes(first), 3: bytes(second)})) == {2, 3}
    with pytest.raises(BrokerDies):
        read_area({2: bytes(first)})


def test_absent_slots_are_left_out():
    assert read_area({}) == {}
    assert set(read_area({4: write_host(V1), 5: b"\0" + write_host(V1)[1:]})) == {4}


def test_unparsable_statuses_are_unknown():
    for text in ("null", "[]", "{", "3"):
        assert engine_rank(parse_status(text)) == 0


@pytest.mark.parametrize(
    ("status", "rank"),
    [
        (UP, 4),
        ({"vm": "up", "health": "bad", "detail": "Up"}, 3),
        ({"vm": "up", "health": "bad", "detail": "Paused"}, 2),
        ({"vm": "down_unexpected", "health": "bad", "detail": "Down"}, 1),
        (DOWN, 1),
        ({"vm": "unknown", "health": "unknown", "detail": "unknown"}, 0),
    ],
)
def test_ranks(status, rank):
    assert engine_rank(status) == rank
