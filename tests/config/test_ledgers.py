"""Ledgers on disk: whatever lies there is a host's lines, or is named."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.config import ledgers
from ovirt_he_ha.config.ledgers import LedgerProblem, by_host, older, read_given, read_own
from ovirt_he_ha.core.ledger import LONGEST, Entry, Look, encode
from tests.own_time import OwnTime


def entry(number, host_id=1, **changes):
    values = {"kind": "lease", "boot_id": "b", "at": 10.0 * number, "wall": 1e9, "look": Look(1, 2, 3, 4, 9.0)}
    return Entry(**{**values, "host_id": host_id, "number": number, **changes})


def write(path, *entries):
    path.write_bytes(b"".join(each if isinstance(each, bytes) else encode(each) for each in entries))
    return path


def test_both_files_of_a_ledger_the_older_first(tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert read_own(path) == ([], [])
    write(path, entry(3), entry(4))
    assert [each.number for each in read_own(path).entries] == [3, 4]
    write(older(path), entry(1), entry(2))
    assert [each.number for each in read_own(path).entries] == [1, 2, 3, 4]
    path.unlink()  # between the two renames of a rotation
    assert [each.number for each in read_own(path).entries] == [1, 2]


def test_a_directory_is_a_copy_of_both_files(tmp_path):
    write(tmp_path / "ledger.jsonl", entry(2))
    write(tmp_path / "ledger.1.jsonl", entry(1))
    assert [each.number for each in read_given([tmp_path]).entries] == [1, 2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "torn"),
        (b"\xff\xfe\n", "torn"),
        (b"[1]\n", "object"),
        (encode(entry(5)).replace(b'"lease"', b'"omen"'), "kind"),
        (encode(entry(5)).replace(b'"h":1', b'"h":2001'), "2000"),
        (encode(entry(5)).replace(b'"n":5', b'"n":-5'), "whole number"),
        (encode(entry(5)).replace(b'"n":5', b'"n":true'), "whole number"),
        (encode(entry(5)).replace(b'"t":50.0', b'"t":NaN'), "seconds"),
        (encode(entry(5)).replace(b'"l":[1,', b'"l":['), "five"),
        (b"[" * 4000 + b"\n", "torn"),
        (b" " * LONGEST + encode(entry(5)), "longer"),
    ],
)
def test_a_line_that_is_none_costs_itself_and_is_named(tmp_path, line, why):
    path = write(tmp_path / "ledger.jsonl", entry(1), line, b"\n", entry(2))
    read = read_own(path)
    assert [each.number for each in read.entries] == [1, 2]
    ((at, number, said, more),) = read.skipped
    assert (at, number, more) == (str(path), 2, 0) and why in said


def test_what_a_later_version_adds_to_a_line_is_left_aside(tmp_path):
    line = encode(entry(1))[:-2] + b',"new":{"deep":[1]}}\n'
    assert read_own(write(tmp_path / "ledger.jsonl", line)).entries == [entry(1)]


def test_a_file_of_noise_names_some_lines_and_counts_the_others(tmp_path):
    path = write(tmp_path / "copy", entry(1), *[b"x\n"] * 5000)
    read = read_given([path])
    assert len(read.skipped) == 100 and sum(1 + each.more for each in read.skipped) == 5000


def test_a_file_of_several_hosts_is_as_good_as_several(tmp_path):
    path = write(tmp_path / "all", entry(2, 3), entry(1, 2), entry(1, 3))
    found = by_host(read_given([path]).entries)
    assert {host_id: [each.number for each in lines] for host_id, lines in found.items()} == {2: [1], 3: [1, 2]}


def test_copies_of_different_age_are_one_ledger(tmp_path):
    """The copy that was made before the rotation, and the one after it."""
    early, late = write(tmp_path / "early", *map(entry, (1, 2, 3))), write(tmp_path / "late", *map(entry, (2, 3, 4)))
    for paths in ([early, late], [late, early], [late, late, early]):
        found = by_host(read_given(paths).entries)
        assert [each.number for each in found[1]] == [1, 2, 3, 4]


@pytest.mark.parametrize("changes", [{"at": 11.0}, {"boot_id": "c"}, {"look": None}, {"wall": 2e9}])
def test_two_ledgers_under_one_host_id_are_refused(tmp_path, changes):
    """A host that was installed anew counts from 1 again."""
    paths = [write(tmp_path / "old", entry(1)), write(tmp_path / "new", replace(entry(1), **changes))]
    with pytest.raises(LedgerProblem) as caught:
        by_host(read_given(paths).entries)
    assert "host 1" in str(caught.value) and "number 1" in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "empty", "noise", "directory", "pipe", "device", "link", "long", "big"])
def test_a_file_that_is_no_ledger_is_one_line_and_never_a_wait(tmp_path, what, monkeypatch):
    path = tmp_path / "given"
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path = "/dev/zero"
    elif what == "link":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "long":
        path = tmp_path / ("x" * 300)
    elif what == "big":
        monkeypatch.setattr(ledgers, "_MOST", 1000)
        write(path, *[entry(number) for number in range(1, 20)])
    elif what != "missing":
        path.write_bytes(b"" if what == "empty" else b"\0\xff\n" * 50)
    took = OwnTime()
    with pytest.raises(LedgerProblem) as caught:
        read_given([path])
    assert took.seconds < 1.0
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_a_ledger_at_its_bound_is_read_whole(tmp_path):
    """Both files full of the longest lines."""
    path = tmp_path / "ledger.jsonl"
    text = {f"key{number}": "x" * 300 for number in range(13)}
    lines = [entry(number, kind="maintenance", values=text) for number in range(1, 2 * ledgers.SHARE // LONGEST + 1)]
    half = len(lines) // 2
    write(older(path), *lines[:half])
    write(path, *lines[half:])
    assert max(older(path).stat().st_size, path.stat().st_size) <= ledgers.SHARE
    read = read_own(path)
    assert [each.number for each in read.entries] == list(range(1, len(lines) + 1)) and read.skipped == []


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_are_lines_or_skipped(tmp_path_factory, parts):
    path = write(tmp_path_factory.mktemp("any") / "ledger.jsonl", entry(1), b"\n".join(parts))
    read = read_own(path)
    assert read.entries[:1] == [entry(1)]
    written = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    assert len(read.entries) + sum(1 + each.more for each in read.skipped) == len(written)
