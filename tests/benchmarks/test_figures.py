"""Figures and their budgets: what a reader of `make bench` is told."""

import json
import os
from typing import Iterator, List

import pytest

from benchmarks import __main__ as command
from benchmarks import births, installed, meter
from benchmarks.effort import Effort
from benchmarks.figures import AT_LEAST, Figure, percentile


@pytest.mark.parametrize(
    ("figure", "ok"),
    [
        (Figure("a", 5.0, "ms", "how", 5.0), True),
        (Figure("a", 5.1, "ms", "how", 5.0), False),
        (Figure("a", 5.1, "1/s", "how", 5.0, AT_LEAST), True),
        (Figure("a", 4.9, "1/s", "how", 5.0, AT_LEAST), False),
        (Figure("a", 4.9, "1/s", "how"), None),
    ],
)
def test_a_figure_is_one_line_of_json(figure: Figure, ok: "bool | None") -> None:
    told = json.loads(figure.line())
    assert "\n" not in figure.line()
    assert (told["name"], told["value"], told["unit"]) == ("a", figure.value, figure.unit)
    assert (told["budget"], told["ok"]) == (figure.budget, ok)


def test_percentile() -> None:
    assert percentile(list(range(100)), 0.99) == 99
    assert percentile([1.0], 0.99) == 1.0


def group(*found: Figure) -> "dict[str, object]":
    def measured(effort: Effort) -> Iterator[List[Figure]]:
        yield list(found)

    return {"some": measured}


def test_a_missed_budget_is_named_and_strict_fails(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "GROUPS", group(Figure("slow.thing", 6.0, "ms", "how", 5.0)))
    assert command.main(["some"]) == 0
    told = capsys.readouterr()
    assert "slow.thing" in told.err
    assert [json.loads(line)["name"] for line in told.out.splitlines()].count("slow.thing") == 1
    assert command.main(["--strict", "some"]) == 3
    assert command.main(["--strict", "--quick", "some"]) == 0


def test_a_benchmark_that_cannot_run_fails_and_the_others_run(monkeypatch, capsys) -> None:
    def broken(effort: Effort) -> Iterator[List[Figure]]:
        yield [Figure("before", 1.0, "ms", "how")]
        raise SystemExit("benchmark: no sanlock")

    def defect(effort: Effort) -> Iterator[List[Figure]]:
        raise KeyError("what")
        yield []

    groups = {"broken": broken, "defect": defect, **group(Figure("after", 1.0, "ms", "how"))}
    monkeypatch.setattr(command, "GROUPS", groups)
    assert command.main(["broken", "defect", "some"]) == 1
    told = capsys.readouterr()
    assert {"before", "after"} <= {json.loads(line)["name"] for line in told.out.splitlines()}
    assert "broken, defect" in told.err
    assert command.main(["other"]) == 2
    assert command.main(["--slowly"]) == 2


def test_the_units_environment() -> None:
    assert installed.unit_environment("broker")["MALLOC_ARENA_MAX"] == "1"
    assert installed.unit_environment("sanlock") == {}


def message(what: int, parent: int, child: int, process: int) -> bytes:
    event = what.to_bytes(4, "little") + bytes(12)
    event += b"".join(number.to_bytes(4, "little") for number in (parent, parent, child, process))
    return bytes(16 + 20) + event


def test_births_are_told_apart() -> None:
    assert births.parse(message(1, 7, 9, 9)) == births.Birth(7, False)
    assert births.parse(message(1, 7, 9, 5)) == births.Birth(5, True)
    assert births.parse(message(2, 7, 9, 9)) is None  # an exec
    assert births.parse(b"") is None


def test_our_own_cost_grows(tmp_path) -> None:
    before = meter.cost(os.getpid())
    sum(number * number for number in range(200_000))
    (tmp_path / "file").write_bytes(b"x")
    spent = meter.cost(os.getpid()).since(before)
    assert spent.cpu > 0
    assert spent.calls > 0
    assert meter.memory(os.getpid())["rss"] > meter.memory(os.getpid())["private"] > 0
