"""What the hosts announce and what they then do: in all named scenarios (see test_scenarios), here how sharp that look
is, and how exact the times are."""

from pathlib import Path
from typing import Any, Callable, List

import pytest

from ovirt_he_ha.core import reasons
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.sim.announcements import CYCLE, Announcements
from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import load

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"


def told(name: str) -> Announcements:
    announced = Announcements()
    assert run(load(FOLDER / name), tweak=announced.tweak).passed
    return announced


@pytest.mark.parametrize(
    "name, verdict",
    [
        ("host-loss", ("start", "time")),  # sanlock's death of the owner
        ("storage-hang", ("start", "time")),
        ("sanlock-kill", ("start", "time")),
        ("hung-guest", ("stop", "time")),
        ("better-peer", ("migrate", "time")),
        ("network-loss-cold-guest-ignores", ("power-off", "time")),
        ("crash-backoff-then-peer", ("start", "time")),
        ("local-maintenance", ("migrate", "reaction")),
        ("vm-crash", ("start", "event")),
    ],
)
def test_each_kind_of_order_is_announced(name: str, verdict: Any) -> None:
    announced = told(name)
    assert announced.complaints == []
    assert announced.verdicts[verdict] >= 1, announced.verdicts


@pytest.mark.parametrize("name", ["host-loss", "sanlock-kill", "storage-hang", "two-hosts-of-three-lost"])
def test_a_takeover_comes_within_a_cycle_of_every_time_that_was_given(name: str) -> None:
    """From the first countdown on, more than a minute before."""
    announced = told(name)
    assert len(announced.errors) >= 6, "no countdown was published"
    assert max(map(abs, announced.errors)) <= CYCLE


# --- how sharp it is --------------------------------------------------------------------------------------------------


def without(*events: str) -> Callable[..., None]:
    ahead = Draft.ahead

    def quieter(draft: Draft, event: str, at: float, **values: object) -> None:
        if event not in events:
            ahead(draft, event, at, **values)

    return quieter


def later(event: str, seconds: float) -> Callable[..., None]:
    ahead = Draft.ahead

    def wrong(draft: Draft, named: str, at: float, **values: object) -> None:
        ahead(draft, named, at + (seconds if named == event else 0.0), **values)

    return wrong


@pytest.mark.parametrize(
    "name, ahead, order",
    [
        ("hung-guest", without("hung", "hung-signal"), "orders stop"),
        ("network-loss-cold-guest-ignores", without("power-off"), "orders power-off"),
        ("better-peer", without("better-peer", "move-budget"), "orders migrate"),
        ("host-loss", later("lease", -30.0), "orders start: late"),
        ("crash-backoff-then-peer", later("restart", 40.0), "orders start"),
    ],
)
def test_a_missing_or_wrong_countdown_is_found(
    name: str, ahead: Callable[..., None], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, "ahead", ahead)
    announced = Announcements()
    run(load(FOLDER / name), tweak=announced.tweak)
    assert any(order in complaint for complaint in announced.complaints), announced.verdicts


def test_a_start_without_a_published_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    published: Callable[..., Any] = reasons.published

    def silent(why: List[Any], what: List[Any], now: float) -> Any:
        return published([each for each in why if each.code not in ("lease-held", "engine-up-elsewhere")], [], now)

    monkeypatch.setattr(reasons, "published", silent)
    announced = Announcements()
    run(load(FOLDER / "host-loss"), tweak=announced.tweak)
    assert any("orders start: late" in complaint for complaint in announced.complaints)
