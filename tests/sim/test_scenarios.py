"""Named scenarios, the cheapest that show every kind of fault: all are run by ``he-sim run --all``, a step of its own
in scripts/check."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ovirt_he_ha.core import guards
from ovirt_he_ha.sim.batch import Order, report
from ovirt_he_ha.sim.faults import KINDS
from ovirt_he_ha.sim.main import main
from ovirt_he_ha.sim.scenario import load

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"


def few() -> List[str]:
    """Few that are short, and together have every kind of fault."""
    orders = [Order(load(path)) for path in sorted(FOLDER.iterdir())]
    kinds = {order.scenario.name: {fault.kind for fault in order.scenario.faults} for order in orders}
    left, chosen = {kind for each in kinds.values() for kind in each}, []
    while left:
        best = max(orders, key=lambda order: len(kinds[order.scenario.name] & left) / order.cost).scenario.name
        chosen.append(best)
        left -= kinds[best]
    return chosen


FEW = few()


def test_every_kind_of_fault_is_in_some_scenario() -> None:
    assert {fault.kind for name in FEW for fault in load(FOLDER / name).faults} == set(KINDS)


@pytest.mark.parametrize("name", FEW)
def test_scenario(name: str) -> None:
    found = report(Order(load(FOLDER / name)))
    assert found.passed, found.lines


def test_what_is_told_does_not_depend_on_the_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(FOLDER / name) for name in ("vm-crash", "crash-single-host", "paused")]
    said = []
    for jobs in ("1", "3"):
        assert main(["run", "--trace", "--coverage", "--jobs", jobs, *paths]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].splitlines()[-1] == "3 passed, 0 failed"


def test_a_rule_that_is_broken_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guards, "fence", lambda sit, d: None)
    assert main(["run", str(FOLDER / "paused-killed-at-once"), str(FOLDER / "quiet")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED paused-killed-at-once") and lines[-1] == "1 passed, 1 failed"


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD: Dict[str, Any] = {"length": 60, "cluster": {"hosts": 2}, "faults": [], "expect": []}
BAD: Dict[str, bytes] = {
    "binary": bytes(range(256)) * 4,
    "empty": b"",
    "list": b"[]",
    "word": b'"scenario"',
    "not-a-number": json.dumps({**GOOD, "length": float("nan")}).encode(),
    "infinite": json.dumps({**GOOD, "length": float("inf")}).encode(),
    "huge-length": json.dumps({**GOOD, "length": 10**300}).encode(),
    "five-thousand-digits": b'{"length": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "unknown-key": json.dumps({**GOOD, "lenght": 5}).encode(),
    "wrong-type": json.dumps({**GOOD, "cluster": [3]}).encode(),
    "half-a-host": json.dumps({**GOOD, "cluster": {"hosts": 2.5}}).encode(),
    "nan-fault": json.dumps({**GOOD, "faults": [{"at": float("nan"), "kind": "vm-crash"}]}).encode(),
    "nan-parameter": b'{"length": 60, "faults": [{"at": 1, "kind": "bit-rot", "with": {"bits": NaN}}]}',
    "huge-seed": json.dumps({**GOOD, "seed": 1 << 80}).encode(),
    "two-lines": b'{"length": 60, "a\\nb": 1}',
    "colours": b'{"length": 60, "\\u001b[31m": 1}',
    "long-key": b'{"length": 60, "' + b"k" * 100_000 + b'": 1}',
    "host-of-a-power": json.dumps({**GOOD, "cluster": {"each": {"\u00b2": {}}}}).encode(),
    "host-elsewhere": json.dumps({**GOOD, "cluster": {"each": {"\u0662": {}}}}).encode(),
    "host-with-zero": json.dumps({**GOOD, "cluster": {"each": {"02": {}}}}).encode(),
    "host-without-end": json.dumps({**GOOD, "cluster": {"each": {"9" * 5000: {}}}}).encode(),
    "twice": b'{"length": 60, "cluster": {"hosts": 2}, "cluster": {"hosts": 3}}',
    "fault-after-the-end": json.dumps({**GOOD, "faults": [{"at": 61, "kind": "vm-crash"}]}).encode(),
    "seen-after-the-end": json.dumps({**GOOD, "expect": [{"what": "healthy", "at": 61}]}).encode(),
    "until-after-the-end": json.dumps({**GOOD, "expect": [{"what": "untouched", "after": 1, "until": 61}]}).encode(),
    "half-a-character": b'{"length": 60, "mood": "\\ud800"}',
    "utf-16": json.dumps(GOOD).encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_one_line_that_names_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README").write_text("A story.\n")
    (tmp_path / "scenario.json").write_bytes(BAD[name])
    assert main(["run", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert str(tmp_path / "scenario.json") in told.err and "expected" in told.err and len(told.err) < 500
    assert told.err[:-1].isprintable()


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README").write_text("A story.\n")
    if kind == "pipe":
        os.mkfifo(tmp_path / "scenario.json")
    elif kind == "endless":
        (tmp_path / "scenario.json").symlink_to("/dev/zero")
    else:
        (tmp_path / "scenario.json").mkdir()
    assert main(["run", str(tmp_path)]) == 2
    assert "scenario.json: the file: expected" in capsys.readouterr().err


def test_a_file_of_any_size_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README").write_text("A story.\n")
    with (tmp_path / "scenario.json").open("wb") as file:
        file.truncate(1 << 40)
    assert main(["run", str(tmp_path)]) == 2
    assert f'found "{1 << 40} bytes"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--all", "--seed", "x"],
        ["run", "--all", "--seed", "-1"],
        ["run", "--all", "--seed", "9" * 5000],
        ["run", "--all", "--seed", "1e9"],
        ["run", "--all", "--jobs", "0"],
        ["run", "--all", "--jobs", "nan"],
        ["run", "--all", "--jobs", "٣"],
        ["run", "--everything"],
        ["swarm", "--seeds", "2.5"],
        ["swarm", "--seeds", str(10**12)],
        ["swarm", "--seeds", "1", "--first-seed", str(1 << 70)],
        ["swarm"],
        ["fly"],
        [],
    ],
)
def test_a_bad_option_is_one_line(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2 and len(told.splitlines()) == 1 and len(told) < 300


def test_a_bad_place_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    story = str(FOLDER / "paused")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "paused").write_text("x")
    for arguments in (
        ["run"],
        ["run", str(tmp_path / "empty")],
        ["run", str(tmp_path / "missing")],
        ["run", str(tmp_path / "file")],
        ["run", "a" * 5000],
        ["run", story, "--record", str(tmp_path / "file")],
        ["run", story, "--record", str(tmp_path / "taken")],
        ["run", story, "--record", "/proc/nowhere"],
    ):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
