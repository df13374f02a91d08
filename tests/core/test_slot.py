"""The slot format: oVirt's own bytes, total reading, strict writing."""

import hashlib
import json
import random
import re
from binascii import crc32
from dataclasses import replace
from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Empty, EngineStatus, Health, Invalid, Reading, Record, Vm
from ovirt_he_ha.core.slot import (
    SlotError,
    decode,
    decode_engine,
    decode_global,
    encode,
    encode_engine,
    encode_global,
    wall_time,
)

OFFSET = 1_700_000_000 - 86_400
UP = EngineStatus(Vm.UP, Health.GOOD, "Up")
DOWN = EngineStatus(Vm.DOWN, Health.BAD, "unknown", "n/a")


def record(**changes):
    base = Record(1, 86400, 3400, UP, "host1.example.com", local_conf_timestamp=86399, extra=(("state", "EngineUp"),))
    return replace(base, **changes)


def state(name):
    return (("state", name),)


V1 = record()
V2 = record(host_id=2, timestamp=4242, score=2884, engine=DOWN, hostname="host2", extra=state("EngineDown"))
V3 = record(
    host_id=3, timestamp=99, score=0, engine=DOWN, hostname="host3", maintenance=True, extra=state("LocalMaintenance")
)
V4 = replace(V3, timestamp=100, maintenance=False, stopped=True, extra=state("AgentStopped"))
V5 = record(
    host_id=4,
    timestamp=1,
    score=0,
    engine=None,
    hostname="h4",
    conf_on_shared_storage=False,
    extra=state("EngineDown"),
)

GOLDEN = [
    (V1, "289f820c", "816e49c8975127d0a4864a095f5bb8cbf0535b18077ac16cf86cf23bf0f6ca0b"),
    (V2, "ee70d867", "55e98b05136deeb8c4b9617a933b4ddbf38bb010070eecdb14532f83e73da75a"),
    (V3, "0b2ddc15", "f4ab84f170188d600709e4d7bf839a7093a80fc38e0ae58ffa2a16c6ba970c96"),
    (V4, "7ab9fb3f", "2bc66b85cec13c6809bffb411bcca2401bc52ae749ce9a2c6514abb11c9d314a"),
    (V5, "f93c39d4", "82b33e3596c0795d23c2d437d56d36394173aa28c8d749177fcea2a791a4c310"),
]


def write(rec, offset=OFFSET, tz=timezone.utc):
    return encode(rec, offset, tz)


def line(*fields):
    """A host line with a right CRC, whatever its fields are."""
    parts = [field if isinstance(field, bytes) else str(field).encode() for field in fields]
    if len(parts) > 9:
        blanked = [*parts[:9], b"00000000", *parts[10:]]
        parts[9] = b"%08x" % crc32(b"|".join(blanked))
    return b"|".join(parts).ljust(512, b"\0").ljust(4096, b"\0")


def fields_with(**changes):
    names = ["parse", "feature", "ts", "id", "score", "engine", "name", "maint", "stopped", "crc", "shared", "conf"]
    values = dict(zip(names, [1, 1, 5, 2, 3400, "null", "h2", 0, 0, "", 1, 7]))
    values.update(changes)
    return [values[name] for name in names]


# --- oVirt's bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rec", "crc", "digest"), GOLDEN)
def test_golden_slots(rec, crc, digest):
    data = write(rec)
    assert hashlib.sha256(data).hexdigest() == digest
    assert decode(rec.host_id, data) == replace(rec, crc32=crc)


def test_the_first_golden_slot_byte_for_byte():
    data = write(V1)
    assert data[:512].rstrip(b"\0") == (
        b'1|1|86400|1|3400|{"vm": "up", "health": "good", "detail": "Up"}|host1.example.com|0|0|289f820c|1|86399'
    )
    assert data[512:].rstrip(b"\0") == (
        b"metadata_parse_version=1\nmetadata_feature_version=1\ntimestamp=86400 (Tue Nov 14 22:13:20 2023)\nhost-id=1\n"
        b"score=3400\nvm_conf_refresh_time=86399 (Tue Nov 14 22:13:19 2023)\nconf_on_shared_storage=True\n"
        b"maintenance=False\nstate=EngineUp\nstopped=False\n"
    )


def test_global_slots():
    digests = [hashlib.sha256(encode_global(flag)).hexdigest() for flag in (True, False)]
    assert digests == [
        "cf004d2800a04853ce95548dcff1890ddc418e95beeff605db7e506dee253398",
        "aaf2118977c3a13d36ddbafb98e7ce2c57fa44c4e12845eb38eef17de9237b85",
    ]
    assert decode_global(encode_global(True)) == Reading.of(True)
    assert decode_global(encode_global(False)) == Reading.of(False)


# --- the free text --------------------------------------------------------------------------------------------------


def text_of(data):
    return data[512:].rstrip(b"\0").decode().splitlines()


def test_our_pairs_come_last_with_their_own_crc():
    extra = (("state", "EngineUp"), ("mig", "1"), ("lease", "a:b|c=d"), ("why.1", ""))
    data = write(record(extra=extra))
    lines = text_of(data)
    assert lines[9:13] == ["stopped=False", "mig=1", "lease=a:b|c=d", "why.1="]
    body, last = data[512:].rstrip(b"\0").rsplit(b"crc=", 1)
    assert last == b"%08x\n" % crc32(body)
    found = decode(1, data)
    assert found.extra == extra
    assert found.extra_ok
    assert found.get("lease") == "a:b|c=d"


def test_timeout_is_a_real_wall_time():
    data = write(record(extra=(("state", "EngineStop"), ("timeout", "86700.5"))))
    assert text_of(data)[-2:] == ["stopped=False", "timeout=Tue Nov 14 22:18:20 2023"]
    found = decode(1, data)
    assert found.extra == (("state", "EngineStop"), ("timeout", "Tue Nov 14 22:18:20 2023"))
    assert decode(1, write(found)) == found
    assert not found.extra_ok  # as an upstream peer publishes it: no crc


def test_times_are_in_the_given_zone():
    assert wall_time(86400, OFFSET, timezone(timedelta(hours=2))) == "Wed Nov 15 00:13:20 2023"
    assert wall_time(86400, OFFSET - 5 * 86400, timezone.utc) == "Thu Nov  9 22:13:20 2023"
    assert len(wall_time(86400, OFFSET)) == 24


def test_a_wall_clock_out_of_this_world_does_not_stop_publishing():
    for offset in (-1e6, 1e13):
        data = write(record(), offset=offset)
        assert "timestamp=86400 (unknown)" in text_of(data)
        assert isinstance(decode(1, data), Record)


@pytest.mark.parametrize("at", [520, 700, 800])
def test_a_changed_free_text_is_told_but_does_not_invalidate_the_host(at):
    data = bytearray(write(record(extra=(("state", "EngineUp"), ("mig", "1"), ("note", "x" * 200)))))
    data[at] ^= 1
    found = decode(1, bytes(data))
    assert isinstance(found, Record)
    assert not found.extra_ok


def test_junk_behind_the_free_text_is_told():
    data = bytearray(write(record(extra=(("mig", "1"),))))
    assert decode(1, bytes(data)).extra_ok
    data[-1] = 1
    found = decode(1, bytes(data))
    assert not found.extra_ok
    assert found.extra == (("mig", "1"),)


def test_free_text_of_any_bytes():
    free = b"no pair\n=no key\nkey=a=b\nscore=9\ncrc=1\nbell=\x07\nhigh=\xff\n"
    data = write(record())[:512] + free.ljust(3584, b"\0")
    assert decode(1, data).extra == (("key", "a=b"), ("bell", "?"), ("high", "\ufffd"))
    assert decode(1, data[:512]).extra == ()


def test_a_checksum_that_ends_another_line_is_part_of_it():
    for body in (b"a=1\nkey=b", b"a=1", b""):
        free = body + b"crc=%08x\n" % crc32(body)
        data = write(record())[:512] + free.ljust(3584, b"\0")
        found = decode(1, data)
        assert found.extra_ok
        pairs = [line.split("=", 1) for line in free.decode().splitlines()]
        assert found.extra == tuple((key, value) for key, value in pairs if key != "crc")


def test_reasons_are_dropped_first_and_from_the_end():
    why = [(f"why.{n}", "w" * 300) for n in range(12)]
    extra = (("state", "EngineDown"), *why[:6], ("mig", "1"), *why[6:], ("lease", "l"))
    found = decode(1, write(record(extra=extra)))
    assert found.extra_ok
    kept = [key for key, _ in found.extra]
    assert kept == ["state", *(f"why.{n}" for n in range(6)), "mig", "why.6", "why.7", "why.8", "why.9", "lease"]


def test_then_the_last_pairs_are_dropped():
    extra = (("why.1", "w"), ("state", "EngineDown"), ("a", "1"), ("b", "2" * 3000), ("c", "3" * 3000))
    found = decode(1, write(record(extra=extra)))
    assert [key for key, _ in found.extra] == ["state", "a", "b"]
    found = decode(1, write(record(extra=(("a", "1" * 4000),))))
    assert (found.extra, found.extra_ok) == ((), False)


def test_the_free_text_may_be_full_to_the_last_byte():
    head = len(write(record(extra=(("k", ""),)))[512:].rstrip(b"\0"))
    full = record(extra=(("k", "x" * (3584 - head)),))
    assert write(full)[-1:] == b"\n"
    assert decode(1, write(full)).extra_ok
    assert decode(1, write(record(extra=(("k", "x" * (3585 - head)),)))).extra == ()


# --- writing --------------------------------------------------------------------------------------------------------


def test_nothing_can_be_injected():
    evil = "a|b\nc\0d\u00e9\x7f"
    rec = record(
        hostname=evil,
        engine=EngineStatus(Vm.UP, Health.GOOD, evil, evil),
        extra=(("state", evil), ("timeout", evil), ("note", evil)),
    )
    data = write(rec)
    assert data.isascii()
    found = decode(1, data)
    assert found.hostname == "a?b?c?d??"
    assert found.engine == EngineStatus(Vm.UP, Health.GOOD, "a?b?c?d??", "a?b\nc\0d\u00e9\x7f")
    assert found.extra == (("state", "a|b?c?d??"), ("timeout", "a|b?c?d??"), ("note", "a|b?c?d??"))
    assert found.extra_ok


def test_half_a_character_is_replaced():
    assert decode_engine(encode_engine(replace(DOWN, reason="\ud800"))).reason == "?"
    assert decode_engine('{"vm": "down", "health": "bad", "detail": "\\ud800"}').detail == "?"


def test_a_long_line_loses_its_reason_then_its_name():
    found = decode(1, write(record(engine=replace(DOWN, reason="r" * 600))))
    assert found.hostname == "host1.example.com"
    assert 300 < len(found.engine.reason) < 512
    found = decode(
        1, write(record(engine=replace(DOWN, reason="\U0001f600" * 600, detail='"' * 600), hostname="n" * 9999))
    )
    assert found.engine.reason == ""
    assert 200 < len(found.hostname) < 512
    assert found.engine.detail == '"' * 64


def test_the_fullest_line_fits():
    rec = record(host_id=2000, timestamp=10**12 - 1, score=10**9 - 1, local_conf_timestamp=10**12 - 1)
    rec = replace(rec, engine=EngineStatus(Vm.DOWN_UNEXPECTED, Health.UNKNOWN, "\\" * 99), hostname="")
    assert isinstance(decode(2000, write(rec)), Record)


def test_up_with_unknown_health_is_written_as_bad():
    assert decode_engine(encode_engine(EngineStatus(Vm.UP, Health.UNKNOWN, "Up"))).health is Health.BAD
    assert decode_engine(encode_engine(EngineStatus(Vm.UNKNOWN, Health.UNKNOWN))).health is Health.UNKNOWN


def test_status_text_as_other_tools_search_for_it():
    assert encode_engine(DOWN) == '{"vm": "down", "health": "bad", "detail": "unknown", "reason": "n/a"}'
    assert encode_engine(DOWN, reason="") == '{"vm": "down", "health": "bad", "detail": "unknown"}'
    assert encode_engine(None) == "null"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"host_id": 0}, "host id"),
        ({"host_id": 2001}, "host id"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 10**12}, "timestamp"),
        ({"score": -1}, "score"),
        ({"score": 10**9}, "score"),
        ({"local_conf_timestamp": -1}, "local conf timestamp"),
        ({"extra": (("score", "1"),)}, "key of the free text"),
        ({"extra": (("crc", "1"),)}, "key of the free text"),
        ({"extra": (("", "1"),)}, "key of the free text"),
        ({"extra": (("a=b", "1"),)}, "key of the free text"),
        ({"extra": (("a\nmaintenance", "True"),)}, "key of the free text"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(changes, field):
    with pytest.raises(SlotError) as caught:
        write(record(**changes))
    assert caught.value.field == field
    assert field in str(caught.value)


# --- reading --------------------------------------------------------------------------------------------------------


def test_empty_and_short():
    assert decode(1, bytes(4096)) == Empty()
    assert decode(1, b"") == Invalid("size", "0 bytes")
    assert decode(1, write(V1)[:511]).reason == "size"
    assert decode(1, memoryview(write(V1))) == decode(1, write(V1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (line("x", 1, 5, 2), "no-version"),
        (line("", 1, 5, 2), "no-version"),
        (line("garbage"), "no-version"),
        (line("1"), "no-version"),
        (line(0, 1, 5, 2, 3400, "null", "h2"), "no-version"),
        (line(2, 1), "too-new"),
        (line(2, 1, "a", "new", "layout"), "too-new"),
        (line(99999, 1, 5, 2), "no-version"),
        (line(7, "noise"), "feature-version"),
        (line(*fields_with(feature="x")), "feature-version"),
        (line(*fields_with(feature=0)), "feature-version"),
        (line(*fields_with()[:6]), "short-line"),
        (line(*fields_with(ts="x")), "integer"),
        (line(*fields_with(ts="")), "integer"),
        (line(*fields_with(ts="-1")), "integer"),
        (line(*fields_with(ts="1_0")), "integer"),
        (line(*fields_with(ts="\u0663".encode())), "integer"),
        (line(*fields_with(ts="9" * 13)), "integer"),
        (line(*fields_with(score="1.5")), "integer"),
        (line(*fields_with(maint="True")), "integer"),
        (line(*fields_with(stopped="")), "integer"),
        (line(*fields_with(shared="x")), "integer"),
        (line(*fields_with(conf="x")), "integer"),
        (line(*fields_with(id=3)), "foreign-id"),
        (line(*fields_with(name=b"\xff")), "encoding"),
        (line(*fields_with(engine=b'"\xff"')), "encoding"),
        (line(*fields_with()).replace(b"h2", b"h3"), "crc"),
        (line(*fields_with())[:511] + b"x" + bytes(3584), "padding"),
    ],
)
def test_invalid_slots(data, reason):
    found = decode(2, data)
    assert isinstance(found, Invalid)
    assert found.reason == reason


def test_the_crc_is_checked_before_the_fields():
    data = line(*fields_with(id=3, ts="x", name=b"\xff"))
    assert decode(2, data.replace(b"3400", b"3401")).reason == "crc"


def test_an_upper_case_crc_is_not_ours_to_accept():
    data = write(V5)
    assert decode(4, data.replace(b"f93c39d4", b"F93C39D4")).reason == "crc"


def test_older_and_longer_lines():
    short = line(*fields_with()[:7])
    assert decode(2, short) == Record(2, 5, 3400, None, "h2")
    assert decode(2, line(*fields_with(maint=7)[:8])).maintenance
    assert decode(2, line(*fields_with(stopped=1)[:9])).stopped
    assert decode(2, line(*fields_with(shared=0)[:11])).conf_on_shared_storage
    longer = decode(2, line(*fields_with(feature=9, shared=0), "more"))
    assert (longer.feature_version, longer.conf_on_shared_storage, longer.local_conf_timestamp) == (9, False, 7)
    assert longer.crc32
    assert decode(2, line(*fields_with(name="h\u00f6st\u0085".encode()))).hostname == "h\u00f6st?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '"up"',
        "{}",
        "NaN",
        '{"vm": "up", "health": "good"}',
        '{"vm": "up", "health": "good", "detail": null}',
        '{"vm": "migrating", "health": "good", "detail": "Up"}',
        '{"vm": "up", "health": "starting", "detail": "Up"}',
        '{"vm": ["up"], "health": "good", "detail": "Up"}',
        '{"vm": "up", "health": "good", "detail": "Up", "reason": 1}',
        "[" * 100_000,
    ],
)
def test_unparsable_status(text):
    assert decode_engine(text) == EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "unparsable")


def test_status_words():
    for vm in Vm:
        for health in Health:
            text = json.dumps({"more": 1, "vm": vm.value, "health": health.value, "detail": "d"})
            assert decode_engine(text) == EngineStatus(vm, health, "d")
    assert decode_engine("null") is None


@pytest.mark.parametrize(
    ("content", "value", "unknown"),
    [
        (b"", False, ""),
        (b"maintenance=1", True, ""),
        (b"maintenance=0\n", False, ""),
        (b"maintenance=True", True, ""),
        (b"maintenance=yes", True, ""),
        (b"maintenance=No", False, ""),
        (b"other=1\nnoise\nmaintenance=1", True, ""),
        (b"maintenance=1\nmaintenance=0", False, ""),
        (b"maintenance=on", None, "maintenance-value"),
        (b"maintenance=", None, "maintenance-value"),
        (b"maintenance", None, "no-maintenance"),
        (b"garbage", None, "no-maintenance"),
        (b" maintenance=1", None, "no-maintenance"),
        (b"maintenance=1\0x", None, "garbage"),
        (b"\0maintenance=1", None, "garbage"),
        (b"maintenance=1\xff", None, "garbage"),
    ],
)
def test_global_maintenance(content, value, unknown):
    found = decode_global(content.ljust(4096, b"\0"))
    assert (found.value, found.unknown) == (value, unknown)


@pytest.mark.parametrize("size", [0, 512, 4095, 4097])
def test_a_global_slot_of_another_size_is_unknown(size):
    assert decode_global(bytes(size)).unknown == "size"


# --- properties -----------------------------------------------------------------------------------------------------

texts = st.text(max_size=40)
words = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
names = words.map(lambda text: text.replace("|", "/"))
keys = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(
    lambda key: key not in ("score", "crc", "timestamp", "state", "timeout", "maintenance", "stopped", "host-id")
)
reasons = texts.map(lambda text: text.replace("|", "/"))
engines = st.one_of(
    st.none(),
    st.builds(EngineStatus, st.sampled_from(Vm), st.sampled_from([Health.GOOD, Health.BAD]), names, reasons),
)
records = st.builds(
    lambda engine, name, ts, score, flags, conf, pairs: Record(
        2, ts, score, engine, name, *flags, local_conf_timestamp=conf, extra=(("state", "EngineDown"), *pairs)
    ),
    engines,
    names,
    st.integers(0, 10**12 - 1),
    st.integers(0, 10**9 - 1),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(0, 10**12 - 1),
    st.lists(st.tuples(keys, words), min_size=1, max_size=6),
)
noise = st.one_of(
    st.binary(max_size=64), st.sampled_from([b"|", b"1|1|", b"2|1|", b"{", b"\0", b"\xff", b"crc=", b"=\n"])
)


@given(records)
def test_what_is_written_is_read_back(rec):
    data = encode(rec, OFFSET, timezone.utc)
    assert len(data) == 4096
    assert data.isascii()
    found = decode(2, data)
    assert found == replace(rec, crc32=found.crc32, extra_ok=True)


@given(st.integers(0), st.integers(0, 2000), st.sampled_from([b"", b"1|", b"1|1|", b"1|1|5|1|", b"2|1|"]))
def test_any_bytes_are_a_slot(seed, slot_id, start):
    data = start + random.Random(seed).randbytes(4096 - len(start))
    assert isinstance(decode(slot_id, data), (Record, Invalid, Empty))
    assert isinstance(decode_global(data), Reading)


@given(st.lists(noise, max_size=200).map(b"".join))
def test_any_noise_is_a_slot(data):
    padded = data[:4096].ljust(4096, b"\0")
    assert isinstance(decode(1, padded), (Record, Invalid, Empty))
    assert isinstance(decode(1, data), (Record, Invalid, Empty))
    assert isinstance(decode_global(padded), Reading)


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.integers().map(lambda n: str(n).encode())), min_size=12, max_size=14)
)
def test_any_fields_with_a_right_crc_are_a_slot(fields):
    fields[0] = fields[1] = b"1"
    data = line(*(field.replace(b"|", b"").replace(b"\0", b"") for field in fields))
    found = decode(1, data[:4096])
    assert isinstance(found, (Record, Invalid))
    assert found != Invalid("crc") or len(data) > 4096


@given(st.text(max_size=200))
def test_any_status_text_is_a_status(text):
    found = decode_engine(text)
    assert found is None or isinstance(found, EngineStatus)


@given(
    st.text(max_size=600), st.text(max_size=600), st.text(max_size=600), st.sampled_from(Vm), st.sampled_from(Health)
)
def test_whatever_the_texts_are_the_slot_is_within_the_rules(name, detail, reason, vm, health):
    rec = record(hostname=name, engine=EngineStatus(vm, health, detail, reason), extra=(("state", name), ("x", reason)))
    data = write(rec)
    assert len(data) == 4096
    assert data.isascii()
    fields = data[:512].rstrip(b"\0").split(b"|")
    assert len(fields) == 12
    status = json.loads(fields[5])
    assert {"vm", "health", "detail"} <= set(status)
    assert status["vm"] != "up" or status["health"] in ("good", "bad")
    found = decode(1, data)
    assert isinstance(found, Record)
    assert found.extra_ok or ("x", "") not in found.extra


@pytest.mark.parametrize("rec", [V1, V5])
def test_every_changed_byte_of_the_line_is_noticed(rec):
    data = write(rec)
    for at in range(512):
        for value in (0, data[at] ^ 1, data[at] ^ 0x80, ord("|"), ord("0")):
            changed = bytearray(data)
            changed[at] = value
            if bytes(changed) != data:
                assert not isinstance(decode(rec.host_id, bytes(changed)), Record), (at, value)


@given(records, st.integers(0, 511), st.integers(1, 255))
def test_a_changed_byte_of_any_line_is_noticed(rec, at, flip):
    data = bytearray(write(rec))
    data[at] ^= flip
    assert isinstance(decode(2, bytes(data)), (Invalid, Empty))


@given(st.data())
def test_the_short_way_and_the_long_way_are_one(data):
    """A line with all twelve fields as every writer writes them is read in one step; with anything else, in many."""
    engine = data.draw(
        st.sampled_from([None, EngineStatus(Vm.UP, Health.GOOD, "Up"), EngineStatus(Vm.DOWN, Health.BAD)])
    )
    record = Record(7, data.draw(st.integers(0, 10**12 - 1)), 3400, engine, data.draw(st.text(max_size=9)))
    block = bytearray(encode(record, 0.0))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, block.index(0)))
        block[place : place + 1] = data.draw(st.sampled_from([b"|", b"0", b"7", b"x", b"\xff", b"\x01", b"00", b""]))
    if data.draw(st.booleans()):
        fields = bytes(block[:512]).partition(b"\0")[0].split(b"|")
        if len(fields) > 9:
            fields[9] = b"00000000"
            fields[9] = b"%08x" % crc32(b"|".join(fields))
            block = bytearray(b"|".join(fields))
    block = bytes(block[:512].ljust(512, b"\0")) + bytes(3584)
    slot_id = data.draw(st.sampled_from([7, 70]))
    short = decode(slot_id, block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot, "_USUAL", re.compile(rb"never"))
        assert decode(slot_id, block) == short
