"""What a soak concludes; its faults themselves are the drills'."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from ovirt_he_ha.lab import footprint, process, soak
from ovirt_he_ha.lab.drills import DRILLS
from ovirt_he_ha.lab.drills.report import Course, Limit, Report
from ovirt_he_ha.lab.footprint import Footprint, Sample
from ovirt_he_ha.lab.judge import Judgement
from ovirt_he_ha.lab.layout import Lab

LAB = Lab("/nowhere", 3, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")


def names(seed: int, count: int) -> List[str]:
    source = soak.faults_of(seed)
    return [next(source) for _ in range(count)]


def test_a_seed_is_a_sequence_of_all_drills() -> None:
    first = names(7, 2 * len(DRILLS))
    assert first == names(7, 2 * len(DRILLS))
    assert first != names(8, 2 * len(DRILLS))
    assert sorted(first[: len(DRILLS)]) == sorted(first[len(DRILLS) :]) == sorted(DRILLS)


def health(at: float, ok: bool, since: Optional[float] = None) -> Dict[str, Any]:
    return {"kind": "health", "at": at, "ok": ok, "since": since}


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([], 0.0),
        ([health(10, False), health(13, True)], 3.0),
        ([health(10, False), health(11, False), health(13, True), health(90, False)], 13.0),
        ([{"kind": "alive", "at": 1.0}, health(5, True)], 0.0),
        ([health(10, False, since=8.7), health(13, True, since=12.6)], 4.3),  # from the last good answer to the next
        ([health(0.5, False, since=-0.8), health(3, True)], 3.0),  # but not from before the beginning
    ],
)
def test_the_time_without_a_page(records: List[Dict[str, Any]], seconds: float) -> None:
    assert soak.unavailable(records, 0.0, 100.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("owner", "trend", "failures"),
    [(1, {}, 0), (2, {}, 1), (1, {"rss_grew_kib": 20_000}, 1), (1, {"descriptors_grew": 30}, 1)],
)
def test_what_no_drill_sees_fails_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, trend: Dict[str, int], failures: int
) -> None:
    """The lease was taken long before the soak; the copy on host 1 runs without a drill."""
    lab = Lab(str(tmp_path), 3, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    run = {"kind": "ran", "at": 20.0, "host": 1, "pid": 7, "started": 70, "first": [10.0, 10.1], "last": [19.9, 20.0]}
    told = [{"kind": "lease", "at": 1.0, "owner": owner, "generation": 1, "since": None}, run]
    lab.observations.parent.mkdir(parents=True, exist_ok=True)
    lab.observations.write_text("".join(json.dumps(each) + "\n" for each in told))
    held = soak.Soak(lab, 1, lambda _: None)
    flat = {"rss_grew_kib": 100, "descriptors_grew": 2}
    monkeypatch.setattr(held._footprint, "trends", lambda: {"agent": {**flat, **trend}})
    figures = held.figures(5.0, 30.0)
    assert len(figures["failed"]) == len(held.failures) == failures
    assert figures["unleased_between_drills"] == (9.8 if owner == 2 else 0.0)


def report(name: str, seconds: float, limit: float, bound: Optional[float] = None, clock: str = "wall") -> Report:
    course = Course(fault_at=100.0, ended_at=100.0 + seconds, recovered=True, bound=bound)
    return Report(name, course, Limit(limit, clock), Judgement((), False, 0.0), 10.0)


def test_the_worst_is_nearest_to_its_limit() -> None:
    assert soak.worst([]) is None
    worst = soak.worst([report("a", 100.0, 160.0), report("b", 9.0, 10.0)])
    assert worst == {"drill": "b", "measured": 9.0, "limit": 10.0, "share": 0.9}


def test_the_worst_announced_is_nearest_to_what_the_product_said_itself() -> None:
    assert soak.worst_announced([report("a", 100.0, 110.0)]) == {}
    reports = [
        report("a", 100.0, 110.0),
        report("b", 50.0, 90.0, 60.0),
        report("c", 9.0, 10.0, 90.0),
        report("d", 6.0, 10.0, 60.0, "product"),  # 60 product seconds at ten times speed
    ]
    assert soak.worst_announced(reports) == {
        "wall": {"drill": "b", "measured": 50.0, "announced": 60.0, "share": 0.833},
        "product": {"drill": "d", "measured": 60.0, "announced": 60.0, "share": 1.0},
    }


def test_growth_counts_from_the_settled_process() -> None:
    found = Footprint(LAB)
    me = process.ProcessId(1, 1)
    found.lives[("agent", me)] = [
        Sample(0.0, 1000, 10, 3),
        Sample(70.0, 5000, 12, 4),
        Sample(150.0, 5100, 13, 4),
        Sample(300.0, 5040, 12, 4),
    ]
    found.lives[("agent", process.ProcessId(2, 2))] = [Sample(0.0, 9000, 30, 9), Sample(100.0, 20000, 90, 9)]
    agent = found.trends()["agent"]
    assert (agent["processes"], agent["judged"]) == (2, 1)  # the short life shows no trend
    assert (agent["rss_kib"], agent["rss_grew_kib"]) == (20000, 40)
    assert (agent["descriptors"], agent["descriptors_grew"]) == (90, 0)
    assert found.trends()["broker"]["processes"] == 0


def test_our_daemons_are_told_from_others() -> None:
    command = "import sys; from ovirt_he_ha.broker.service import main; sys.exit(main())"
    assert footprint.kind_of(["python3", "-c", command]) == "broker"
    assert footprint.kind_of(["python3", "/x/ovirt_he_ha/storage/io_process.py", "v"]) == "worker"
    assert footprint.kind_of(["/usr/sbin/libvirtd"]) == ""
