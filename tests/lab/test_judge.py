"""What counts as "the VM ran twice", and what does not."""

from typing import Any, Dict

import pytest

from ovirt_he_ha.lab.judge import answered_every, judge


def ran(host: int, pid: int, first: float, last: float, width: float = 0.05) -> Dict[str, Any]:
    """A run proven in the window that ends at ``first`` and in the one that begins at ``last``."""
    return {
        "kind": "ran",
        "at": last + width,
        "host": host,
        "pid": pid,
        "started": pid * 10,
        "first": [first - width, first],
        "last": [last, last + width],
    }


def lease(owner: Any, at: float, since: Any) -> Dict[str, Any]:
    return {"kind": "lease", "at": at, "owner": owner, "generation": 1, "since": since}


def alive(owner: Any, at: float) -> Dict[str, Any]:
    return {"kind": "alive", "at": at, "owner": owner, "healthy": True}


def test_one_copy() -> None:
    judgement = judge([ran(1, 100, 1.0, 2.0), ran(1, 100, 2.05, 3.0)])
    assert not judgement.two_ran
    assert judgement.owners_as_json(0.0) == [{"host": 1, "pid": 100, "from": 1.0, "to": 3.05}]


def test_nothing_ran() -> None:
    judgement = judge([])
    assert (judgement.owners, judgement.two_ran, judgement.unleased) == ((), False, 0.0)


def test_overlap() -> None:
    assert judge([ran(1, 100, 1.0, 5.0), ran(2, 200, 4.0, 9.0)]).two_ran


def test_overlap_of_two_windows_is_enough() -> None:
    """B's first window ends before A's last one begins, and both lie after A's first."""
    assert judge([ran(1, 100, 1.0, 5.0), ran(2, 200, 4.99, 9.0)]).two_ran


def test_both_from_the_same_tick() -> None:
    records = [ran(1, 1, 1.0, 1.0), ran(2, 2, 1.0, 1.0), ran(1, 1, 1.05, 2.0), ran(2, 2, 1.05, 2.0)]
    assert judge(records).two_ran


def test_handover_inside_one_window() -> None:
    """Migration: source and destination both used time in the same 50 ms, one after the other."""
    source = {**ran(1, 100, 1.0, 4.95), "last": [4.95, 5.0]}
    destination = {**ran(2, 200, 5.0, 9.0), "first": [4.95, 5.0]}
    assert not judge([source, destination]).two_ran


def test_handover_with_the_destinations_window_a_little_earlier() -> None:
    """The two processes are sampled one after the other, so their windows are shifted against each other."""
    source = {**ran(1, 100, 1.0, 4.96), "last": [4.96, 5.01]}
    destination = {**ran(2, 200, 5.0, 9.0), "first": [4.95, 5.0]}
    assert not judge([source, destination]).two_ran


def test_restart_on_the_same_host() -> None:
    assert not judge([ran(1, 100, 1.0, 4.0), ran(1, 101, 4.2, 9.0)]).two_ran


def test_two_copies_on_the_same_host() -> None:
    assert judge([ran(1, 100, 1.0, 6.0), ran(1, 101, 4.2, 9.0)]).two_ran


def test_a_reused_pid_is_another_copy() -> None:
    again = {**ran(1, 100, 8.0, 9.0), "started": 77777}
    judgement = judge([ran(1, 100, 1.0, 4.0), ran(2, 200, 5.0, 7.0), again])
    assert not judgement.two_ran
    assert len(judgement.owners) == 3


def test_paused_while_another_ran_and_resumed() -> None:
    """The stale memory of A must never run again: A, B, A is two, though never at the same moment."""
    assert judge([ran(1, 100, 1.0, 3.0), ran(2, 200, 4.0, 6.0), ran(1, 100, 7.0, 9.0)]).two_ran


def test_paused_while_another_ran_and_killed() -> None:
    assert not judge([ran(1, 100, 1.0, 3.0), ran(2, 200, 4.0, 6.0)]).two_ran


def test_migration_there_and_back() -> None:
    records = [ran(1, 100, 1.0, 3.0), ran(2, 200, 3.1, 6.0), ran(1, 101, 6.1, 9.0)]
    assert not judge(records).two_ran


def test_order_of_records_does_not_matter() -> None:
    records = [ran(1, 100, 7.0, 9.0), ran(2, 200, 4.0, 6.0), ran(1, 100, 1.0, 3.0)]
    judgement = judge(records)
    assert judgement.two_ran
    assert [tenure.copy.host for tenure in judgement.owners] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ([lease(1, 0.5, None)], 0.0),
        ([lease(2, 0.5, None)], 4.0),
        ([lease(0, 0.5, None)], 4.0),
        ([lease(None, 0.5, None)], 0.0),  # unreadable: nothing is proven
        ([lease(1, 0.5, None), lease(0, 3.05, 3.0)], 1.95),
        ([lease(0, 0.5, None), lease(1, 3.05, 3.0)], 2.0),
        ([lease(1, 0.5, None), lease(0, 5.05, 5.0)], 0.0),
        ([], 0.0),
        ([alive(2, 0.5)], 4.0),
        ([alive(1, 0.5), lease(0, 3.05, 3.0)], 1.95),
        ([lease(1, 0.2, None), alive(2, 0.5)], 0.0),  # a sign of life says nothing that a change did not say
    ],
)
def test_running_without_the_lease(changes: Any, seconds: float) -> None:
    assert judge([*changes, ran(1, 100, 1.0, 5.0)]).unleased == pytest.approx(seconds)


def test_owners_are_told_from_a_given_zero() -> None:
    judgement = judge([ran(3, 7, 11.0, 12.0)])
    assert judgement.owners_as_json(10.0) == [{"host": 3, "pid": 7, "from": 1.0, "to": 2.05}]


def test_longest_gap_of_the_page() -> None:
    gaps = [{"kind": "gap", "at": t, "from": f, "to": t} for f, t in ((1.0, 3.5), (10.0, 11.2), (20.0, 30.0))]
    assert answered_every(gaps, 9.0, 15.0) == pytest.approx(1.2)
    assert answered_every(gaps, 4.0, 9.0) == 0.0
    assert answered_every(gaps, 25.0, 40.0) == 10.0
