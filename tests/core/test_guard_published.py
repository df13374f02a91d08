"""What the guard says is in the slot, in the reasons and in the countdowns, and stops nothing by itself."""

from dataclasses import replace

import pytest

from ovirt_he_ha.agent.publish import _essence
from ovirt_he_ha.core.model import GuardReport, State
from ovirt_he_ha.core.reasons import describe, reason
from ovirt_he_ha.core.states import decide
from tests.core.world import T, World


def decided(guard, fencing=""):
    world = World(state=State.ENGINE_UP)
    snapshot = replace(world.snapshot(), guard=guard, fencing=fencing)
    return snapshot, decide(snapshot, T)


def test_a_threatened_copy_shows_why_and_when():
    snapshot, decision = decided(GuardReport("threatened", reason("guard-gone"), World().now + 3))
    record = decision.record
    assert (record.get("fence.state"), record.get("fence.why")) == ("threatened", "guard-gone")
    assert record.get("fence.in") == f"{World().now + 3 - snapshot.now:.0f}"
    assert "guard-gone" in record.get("problem").split(",")
    assert "guard-kill" in [countdown.event for countdown in decision.countdowns]
    assert decision.fence is None


def test_the_last_seconds_do_not_rewrite_the_slot():
    """Other hosts need the state at once, the seconds with the next keep-alive."""
    first, second = (
        decided(GuardReport("threatened", reason("guard-gone"), World().now + left))[1].record for left in (3, 2)
    )
    assert first != second
    assert _essence(first) == _essence(second)


def test_the_kill_path_is_shown_before_the_guard():
    _, decision = decided(GuardReport("killing", reason("guard-gone")), fencing="stuck")
    assert decision.record.get("fence.state") == "stuck"
    assert "fence-stuck" in decision.record.get("problem")


def test_a_blind_guard_is_a_problem_of_this_host():
    assert "guard-blind" in decided(GuardReport("blind"))[1].record.get("problem")


@pytest.mark.parametrize("state", ["", "guarded"])
def test_nothing_to_say(state):
    record = decided(GuardReport(state))[1].record
    assert record.get("fence.state") == state
    assert record.get("fence.why") == record.get("fence.in") == ""


def test_every_reason_of_the_guard_reads_well():
    why = reason("guard-other-owner", owner=2, generation=3, host=1, ours=4)
    assert describe(why) == "The VM's lease belongs to host 2 (3), not to this one: 1 (4)"
