"""The model of sanlock against what was measured of the real one (io_timeout 10 unless said)."""

import pytest

from ovirt_he_ha.core.model import HostLease, Outcome
from ovirt_he_ha.sim.clock import ns
from ovirt_he_ha.sim.sanlock import SanlockCode
from ovirt_he_ha.sim.volume import FOREVER
from tests.sim.lease_bench import SPACE, Bench

SEEDS = range(8)


@pytest.mark.parametrize("io, measured", [(1, 3.05), (2, 5.03), (10, 21.02)])
def test_a_join_takes_two_io_timeouts_and_a_second(io: int, measured: float) -> None:
    bench = Bench(3, io)
    bench.go(measured + 0.1)
    assert sorted(bench.joined) == [1, 2, 3]
    assert all(abs(at - measured) < 0.2 for at in bench.joined.values())


def test_a_lease_is_free_the_moment_its_process_ends() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    assert bench.disk.owner.host_id == 1
    bench.machines[1].libvirt.kill(copy, "crashed")
    assert bench.until(lambda: bench.disk.owner.host_id == 0) < 0.5


def test_a_lease_of_a_live_host_is_refused_at_once() -> None:
    bench = Bench().settle()
    bench.running(1)
    answers = bench.create(2)
    bench.go(3.0)
    assert answers[0][1] is Outcome.LOST_RACE
    assert answers[0][0] < 3.2


@pytest.mark.parametrize("io, formula, measured", [(10, 140, 161.4), (2, 76, 81.1), (1, 68, 72.2)])
def test_a_killed_daemons_lease_can_be_had_after_eight_io_timeouts_and_the_watchdog(
    io: int, formula: float, measured: float
) -> None:
    for seed in SEEDS:
        bench = Bench(2, io, seed).settle()
        bench.running(1)
        bench.go(7.3 + seed)
        bench.machines[1].kill_daemon()
        took = bench.until_flag(2, 1, HostLease.DEAD)
        assert formula - 2 * io - 1 <= took <= measured + 1.5, (seed, took)
        assert took <= 10 * io + 60 + 2


def test_fail_comes_after_eighty_seconds() -> None:
    bench = Bench().settle()
    bench.machines[1].kill_daemon()
    assert 60 <= bench.until_flag(2, 1, HostLease.FAIL) <= 101
    assert bench.flag(2, 2) is HostLease.LIVE


def test_after_a_join_others_are_unknown_until_they_renew() -> None:
    bench = Bench(2, join=False)
    bench.join(1)
    bench.go(30.0)
    bench.join(2)
    bench.until(lambda: 2 in bench.joined)
    assert bench.flag(2, 1) is HostLease.UNKNOWN
    assert bench.until_flag(2, 1, HostLease.LIVE) <= 41


def test_a_rejoin_frees_the_lease_with_the_old_copy_still_running() -> None:
    """Measured: 34 s after the kill, A's create succeeds, with B's VM still running."""
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].kill_daemon()
    bench.machines[1].start()
    bench.join(1)
    assert 20.9 <= bench.until(lambda: 1 in bench.joined) <= 21.2
    answers = bench.create(2)
    bench.until(lambda: answers)
    assert answers[0][1] is Outcome.OK
    assert copy.cpus == "running"


@pytest.mark.parametrize("how", ["error", "hang"])
def test_storage_loss_ends_the_holder_long_before_anybody_else_may_have_the_lease(how: str) -> None:
    """Measured: owner gone after 78 to 79 s, the other host has the lease after 160 to 161 s. Both count from the
    last renewal, which may be 20 s before the fault."""
    for seed in SEEDS:
        bench = Bench(2, 10, seed).settle()
        copy = bench.running(1)
        bench.go(3.0 * seed)
        path = bench.machines[1].path
        began = bench.now
        if how == "error":
            path.lease_error = True
        else:
            path.lease_hang_until = bench.timeline.now + ns(70.0)
            bench.timeline.after(70.0, lambda path=path: setattr(path, "lease_error", True))  # type: ignore[misc]
        bench.until(lambda copy=copy: not copy.alive)
        ended = bench.now - began
        bench.until_flag(2, 1, HostLease.DEAD)
        assert 59 <= ended <= 81, ended
        assert 119 <= bench.now - began <= 162
        assert bench.disk.owner.host_id == 1


def test_a_holder_that_hangs_in_the_kernel_is_left_to_the_watchdog() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    bench.machines[1].path.lease_hang_until = FOREVER
    bench.go(130.0)
    assert copy.alive
    renewed = bench.machines[1].armed_for
    assert renewed is not None and bench.timeline.now - renewed < bench.disk.dead_after


def test_a_holder_that_ends_takes_the_watchdog_away() -> None:
    bench = Bench().settle()
    bench.running(1)
    bench.machines[1].path.lease_error = True
    bench.go(90.0)
    assert bench.machines[1].armed_for is None
    assert SPACE not in bench.machines[1].daemon.spaces  # type: ignore[union-attr]


def test_a_holder_that_ignores_sigterm_is_killed_forty_seconds_later() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    copy.deaf = True
    began = bench.now
    bench.machines[1].path.lease_error = True
    bench.until(lambda: not copy.alive)
    assert 99 <= bench.now - began <= 121


def test_a_killed_daemon_arms_the_watchdog_for_its_last_renewal() -> None:
    bench = Bench().settle()
    bench.machines[1].kill_daemon()
    renewed = bench.machines[1].armed_for
    assert renewed is not None and bench.timeline.now - renewed <= ns(20.1)


def test_removing_the_lockspace_kills_its_holder_and_unused_does_not() -> None:
    bench = Bench().settle()
    copy = bench.running(1)
    daemon = bench.machines[1].daemon
    assert daemon is not None
    with pytest.raises(SanlockCode) as refusal:
        daemon.leave(SPACE, unused=True)
    assert refusal.value.args[0] == 16
    assert copy.alive
    daemon.leave(SPACE, unused=False)
    assert bench.until(lambda: not copy.alive) <= 0.3
    assert 1.5 <= bench.until(lambda: SPACE not in daemon.spaces) <= 3.0
    assert bench.disk.space(SPACE)[1].renewed == 0


def test_a_host_id_that_somebody_else_renews_is_refused() -> None:
    bench = Bench(2, join=False)
    bench.join(1)
    bench.settle()
    bench.join(2, host_id=1)
    bench.until(lambda: 2 in bench.refused, 200.0)
    assert bench.refused[2].args[0] == -262
    assert bench.disk.space(SPACE)[1].generation == 1


def test_a_dead_foreign_host_id_is_taken_after_it_was_watched() -> None:
    bench = Bench(2, join=False)
    bench.join(1)
    bench.settle()
    bench.machines[1].kill_daemon()
    bench.join(2, host_id=1)
    assert bench.until(lambda: 2 in bench.joined, 200.0) >= 139
    assert bench.disk.space(SPACE)[1].generation == 2


def test_nobody_acquires_without_the_lockspace() -> None:
    bench = Bench(1, join=False)
    answers = bench.create(1)
    bench.go(5.0)
    assert answers[0][1] is Outcome.FAILED
    assert bench.disk.owner.host_id == 0
