"""Following the observer's file."""

import json
from pathlib import Path
from typing import Any

import pytest

from ovirt_he_ha.lab import testimony
from ovirt_he_ha.lab.judge import Copy, judge
from ovirt_he_ha.lab.testimony import Witness

COPY = {"pid": 7, "started": 70, "host": 2}


def write(path: Path, *records: Any) -> None:
    with open(path, "a", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record) + "\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "observer.jsonl"
    found.touch()
    return found


def test_the_present_state(path: Path) -> None:
    write(path, {"kind": "seen", "at": 1.0, **COPY}, {"kind": "lease", "at": 1.1, "owner": 2, "generation": 1})
    witness = Witness(path)
    assert witness.world.running == {Copy(2, 7, 70): None}
    assert (witness.world.owner, witness.world.healthy) == (2, None)
    write(path, {"kind": "ran", "at": 2.0, **COPY, "first": [1.5, 1.6], "last": [1.8, 1.9]})
    write(path, {"kind": "health", "at": 2.1, "ok": True, "since": None})
    world = witness.read()
    assert world.running == {Copy(2, 7, 70): 1.9}
    assert (world.healthy, world.hosts_running()) == (True, [2])
    write(path, {"kind": "gone", "at": 3.0, **COPY}, {"kind": "alive", "at": 4.0, "owner": 0, "healthy": False})
    world = witness.read()
    assert (world.running, world.owner, world.healthy) == ({}, 0, False)


def test_a_line_that_is_still_being_written(path: Path) -> None:
    witness = Witness(path)
    line = json.dumps({"kind": "alive", "at": 9.0, "owner": 3, "healthy": True})
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(line[:10])
        stream.flush()
        assert witness.read().owner is None
        stream.write(line[10:] + "\n")
    assert witness.read().owner == 3


def test_only_the_tail_of_a_long_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testimony, "TAIL", 100)
    for number in range(50):
        write(path, {"kind": "alive", "at": float(number), "owner": number, "healthy": True})
    witness = Witness(path)
    assert witness.world.owner == 49
    assert len(witness.records) < 3


def test_first_run_after_the_fault(path: Path) -> None:
    old, new = {**COPY}, {"pid": 8, "started": 80, "host": 3}
    write(path, {"kind": "ran", "at": 5.0, **old, "first": [4.0, 4.1], "last": [4.9, 5.0]})
    write(path, {"kind": "ran", "at": 6.0, **old, "first": [5.1, 5.2], "last": [5.9, 6.0]})
    write(path, {"kind": "ran", "at": 8.0, **new, "first": [7.0, 7.1], "last": [7.0, 7.1]})
    witness = Witness(path)
    assert witness.first_run(5.05) == (Copy(2, 7, 70), 5.2)
    assert witness.first_run(5.05, (Copy(2, 7, 70),)) == (Copy(3, 8, 80), 7.1)
    assert witness.first_run(9.0) is None
    assert [record["at"] for record in witness.since(6.0)] == [6.0, 8.0]


def test_whose_the_lease_was_before_belongs_to_the_evidence(path: Path) -> None:
    """Without it a copy that starts beside a record that nobody touches would count as one with its lease."""
    write(path, {"kind": "lease", "at": 1.0, "owner": 1, "generation": 1, "since": None})
    write(path, {"kind": "health", "at": 2.0, "ok": True, "since": None})
    write(path, {"kind": "ran", "at": 20.0, **COPY, "first": [10.0, 10.1], "last": [19.9, 20.0]})
    witness = Witness(path)
    assert [record["at"] for record in witness.evidence(9.0)] == [1.0, 20.0]
    assert judge(witness.evidence(9.0)).unleased == pytest.approx(9.8)
    assert [record["at"] for record in witness.evidence(0.5)] == [1.0, 2.0, 20.0]
    write(path, {"kind": "alive", "at": 21.0, "owner": 2, "healthy": True})
    witness.read()
    assert [record["at"] for record in witness.evidence(22.0)] == [21.0]
