"""Reasons and countdowns: sentences, and the lines in which they travel."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core import reasons
from ovirt_he_ha.core.model import Countdown, Reason, Record
from ovirt_he_ha.core.reasons import (
    COUNTDOWNS,
    REASONS,
    countdown,
    decode_countdown,
    decode_reason,
    describe,
    describe_countdown,
    encode_countdown,
    encode_reason,
    from_record,
    published,
    reason,
)


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_code_has_a_sentence_that_needs_no_value(code):
    sentence = describe(Reason(code))
    assert sentence
    assert "\n" not in sentence
    assert re.fullmatch(r"[a-z0-9-]+", code)


@pytest.mark.parametrize("event", sorted(COUNTDOWNS))
def test_every_event_has_a_text(event):
    assert describe_countdown(Countdown(event, 10.0), 0.0).startswith("in 10 s: ")


def test_values_fill_the_sentence():
    fields = {name for _, name, _, _ in string.Formatter().parse(REASONS["lease-held"]) if name}
    assert fields == {"host", "flag"}
    assert describe(reason("lease-held", host=3, flag="live")) == (
        "The VM's lease belongs to host 3, which is live for sanlock"
    )


def test_a_missing_value_shows_as_a_question_mark():
    assert "?" in describe(Reason("lease-held", {"host": "3"}))


def test_a_code_of_a_newer_host_is_shown_as_it_is():
    assert describe(Reason("moon-phase", {"is": "full"})) == "moon-phase is=full"
    assert describe_countdown(Countdown("eclipse", 5.0), 0.0) == "in 5 s: eclipse"


@pytest.mark.parametrize("build", [lambda: reason("nonsense"), lambda: countdown("nonsense", 1.0)])
def test_an_unregistered_code_is_a_mistake_in_the_program(build):
    with pytest.raises(KeyError):
        build()


@pytest.mark.parametrize("left, said", [(0.1, 1), (1.0, 1), (59.2, 60), (0.0, 0), (-5.0, 0)])
def test_seconds_are_rounded_up_and_never_negative(left, said):
    assert describe_countdown(Countdown("rank", 100.0 + left), 100.0).startswith(f"in {said} s")


texts = st.text(max_size=60)


@given(st.sampled_from(sorted(REASONS)), st.dictionaries(st.text("abcdef", min_size=1), texts, max_size=4))
def test_reasons_survive_the_way_through_a_slot(code, values):
    line = encode_reason(Reason(code, values))
    assert line.isascii()
    assert not set("\n\0|") & set(line)
    found = decode_reason(line)
    assert found.code == code
    replaced = {key: value.encode("utf-8", "replace").decode() for key, value in values.items()}
    assert dict(found.values) == replaced


@given(st.sampled_from(sorted(COUNTDOWNS)), st.floats(0, 10**6), st.floats(0, 10**6))
def test_countdowns_travel_as_seconds_left(event, at, now):
    found = decode_countdown(encode_countdown(Countdown(event, at, {"host": "2"}), now), 50.0)
    assert found.event == event
    assert found.at == pytest.approx(50.0 + max(0.0, at - now), abs=0.51)
    assert dict(found.values) == {"host": "2"}


@given(st.text(max_size=300), st.text(max_size=300))
def test_lines_of_a_strange_host_never_raise(key, value):
    record = Record(2, 1, 0, None, "h", extra=(("why." + key, value), ("why.next." + key, value), (key, value)))
    why, what = from_record(record, 1.0)
    for found in why:
        assert describe(found)
    for ahead in what:
        assert describe_countdown(ahead, 1.0)


@pytest.mark.parametrize("text", ["", ";a=b", "rank", "rank;in=", "rank;in=-3", "rank;in=1e3", "rank;in=²"])
def test_what_is_no_countdown(text):
    assert decode_countdown(text, 0.0) is None


def test_what_is_no_reason():
    assert decode_reason("") is None
    assert decode_reason(";host=2") is None
    assert dict(decode_reason("rank;=3;host;count=1").values) == {"count": "1"}


def test_lines_are_numbered_and_limited():
    why = [reason("rank", count=n) for n in range(30)]
    what = [countdown("rank", 5.0 + n) for n in range(30)]
    lines = published(why, what, 0.0)
    assert lines[0] == ("why.0", "rank;count=0")
    assert lines[12] == ("why.next.0", "rank;in=5")
    assert len(lines) == 24


def test_long_values_are_cut():
    assert len(encode_reason(reason("start-failed", detail="x" * 1000))) < 120
    assert reasons.WHY == "why."
