"""The guard's thread by hand: every round, question and look is called by the test."""

import threading
from dataclasses import replace
from typing import List, Optional, Union

import pytest

from ovirt_he_ha.agent.guard import Guard, GuardSeams
from ovirt_he_ha.core.model import Fence, LeaseId, LeaseOwner
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.process import EngineProcess
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus, Space
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from tests.agent.clocks import ManualClock

LEASE = LeaseId("sd", "vol", "/sd/vol.lease", 0)
ENGINE = EngineProcess(42, 1000)
HELD = (("sd", "vol", 42),)
WELL = DaemonStatus(True, {"sd": Space(1, 4, 10, 5)}, (42,), HELD)


class Bench:
    """A host on which the engine has run for ten minutes, guarded as it should be."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.copies: List[EngineProcess] = [ENGINE]
        self.age = 600.0
        self.status: Union[DaemonStatus, NoStatus] = WELL
        self.owner: Optional[LeaseOwner] = LeaseOwner(1, 4)
        self.asleep = 0.0
        self.ran: Optional[bool] = True
        self.asked = 0
        self.orders: List[Optional[Fence]] = []
        self.second = 0
        self.stuck = False
        self.resets: List[bool] = []
        self.seams = GuardSeams(
            find=lambda: self.copies,
            age=lambda process: self.age,
            sanlock=self.answer,
            owner=self.read,
            asleep=lambda: self.asleep,
            order=lambda fence, who: self.orders.append(fence),
            ran=self.has_run,
            stuck=lambda: self.stuck,
            reset=self.resets.append,
        )
        self.guard = Guard(LEASE, self.seams, self.clock, Timers())  # type: ignore[arg-type]

    def answer(self) -> DaemonStatus:
        if isinstance(self.status, NoStatus):
            raise self.status
        return self.status

    def read(self) -> LeaseOwner:
        if self.owner is None:
            raise LeaseUnreadable(LEASE, 5, "input/output error")
        return self.owner

    def has_run(self, process: EngineProcess) -> Optional[bool]:
        self.asked += 1
        return self.ran

    def run(self, seconds: float) -> str:
        """Second by second, the questions every two and four. Returns the state, with why when there is one."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.second += 1
            self.guard.round()
            if self.second % 2 == 0:
                self.guard.ask_sanlock()
            if self.second % 4 == 1:
                self.guard.ask_owner()
        report = self.guard.round()
        return report.state if report.reason is None else f"{report.state} {report.reason.code}"

    @property
    def killed(self) -> bool:
        return any(self.orders)

    def seconds_to_kill(self, limit: int) -> Optional[int]:
        for second in range(limit):
            self.run(1)
            if self.killed:
                return second + 1
        return None


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    assert bench.run(10) == "guarded"
    assert not bench.killed
    return bench


def test_no_copy_nothing_is_asked() -> None:
    bench = Bench()
    bench.copies = []
    bench.status = NoStatus("overdue", "/s", "never asked")
    assert bench.run(100) == ""
    assert not bench.killed


def test_s12_a_copy_with_the_lease_that_never_ran_is_ended() -> None:
    bench = Bench()
    bench.ran = False
    bench.status = replace(WELL, held=())
    bench.age = 1.0
    assert bench.run(8) == "starting"  # it waits for the lease
    bench.status = WELL
    assert bench.run(14) == "threatened guard-never-ran"
    assert bench.seconds_to_kill(10) is not None


def test_s12_what_has_run_once_is_not_asked_again() -> None:
    bench = Bench()
    assert bench.run(10) == "guarded"
    assert bench.asked == 1
    bench.ran = False
    assert bench.run(60) == "guarded"
    assert not bench.killed


def test_s5_s12_where_it_cannot_be_told_nothing_is_ended() -> None:
    bench = Bench()
    bench.ran = None
    assert bench.run(100) == "guarded"
    assert not bench.killed
    bench.ran = False
    bench.copies = [EngineProcess(42, 1000, incoming=True)]
    assert bench.run(100) == "guarded"
    assert not bench.killed


def test_s12_our_own_start_is_waited_for_to_its_end() -> None:
    bench = Bench()
    bench.ran = False
    bench.guard.suspend(60.0, "action")
    assert bench.run(50) == "suspended"
    bench.guard.suspend(0.0, "action")
    assert bench.seconds_to_kill(5) is not None


def test_s12_in_the_lab_ten_wall_seconds_are_waited_for() -> None:
    bench = Bench()
    bench.clock.scale = 10.0
    bench.ran = False
    assert bench.run(90).startswith("threatened") or not bench.killed
    assert not bench.killed
    assert bench.seconds_to_kill(30) is not None


def test_s11_sanlock_gone(bench: Bench) -> None:
    bench.status = NoStatus("refused", "/s", "x")
    assert bench.run(4) == "threatened guard-gone"
    assert bench.guard.report.kill_at is not None
    assert bench.seconds_to_kill(10) is not None
    fence = next(fence for fence in bench.orders if fence)
    assert fence.pid == 42


@pytest.mark.parametrize("kind", ["overdue", "unreachable"])
def test_s11_no_answer_is_waited_for_until_six_io_timeouts(bench: Bench, kind: str) -> None:
    bench.status = NoStatus(kind, "/s", "x")
    assert bench.run(40) == "threatened guard-unconfirmed"
    died = bench.seconds_to_kill(40)
    # the last renewal was 5 s before the last answer
    assert died is not None and 10 <= died <= 16


def test_s11_a_daemon_that_answers_and_does_not_renew(bench: Bench) -> None:
    for second in range(6, 80):
        bench.status = replace(WELL, spaces={"sd": Space(1, 4, 10, second)})
        bench.run(1)
        if bench.killed:
            assert 57 <= second <= 63
            return
    raise AssertionError("not killed")


def test_s11_a_renewal_is_as_old_as_it_may_be(bench: Bench) -> None:
    """sanlock tells whole seconds: "5 s ago" may be nearly 6."""
    asked = bench.clock.now
    bench.guard.ask_sanlock()
    bench.status = NoStatus("overdue", "/s", "x")
    bench.clock.now = asked - 6 + 60
    assert bench.guard.round().state == "killing"


def test_s11_without_the_lockspace_nothing_is_confirmed(bench: Bench) -> None:
    bench.status = replace(WELL, spaces={})
    assert bench.run(40).startswith("threatened")
    assert bench.seconds_to_kill(25)


def test_s2_what_cannot_be_killed_without_a_lease_has_the_host_reset(bench: Bench) -> None:
    """Paused while the storage hangs: libvirt gave the lease back, so sanlock waits for nobody."""
    bench.status = replace(WELL, held=())
    bench.run(20)
    assert bench.killed
    bench.stuck = True
    bench.status = replace(WELL, spaces={}, held=())
    bench.run(30)
    assert bench.resets == [], "its storage may come back: nobody else can have started yet"
    bench.run(15)
    assert set(bench.resets) == {True}
    bench.resets.clear()
    bench.stuck = False
    bench.run(5)
    assert set(bench.resets) == {True}, "still there: the next kill is being tried, or did not find it"
    bench.resets.clear()
    bench.copies = []
    bench.run(3)
    assert bench.resets == [False], "taken back once, with the process gone"


def test_no_reset_for_a_copy_that_dies(bench: Bench) -> None:
    bench.status = replace(WELL, spaces={}, held=())
    bench.run(100)
    assert bench.killed and bench.resets == []


def test_s11_a_short_sleep_counts_until_the_next_renewal(bench: Bench) -> None:
    """sanlock answers on, and its clock stood still as well: what it says of its renewal lacks the sleep."""
    bench.asleep = 15.0
    for second in range(6, 80):
        bench.status = replace(WELL, spaces={"sd": Space(1, 4, 10, second)})
        bench.run(1)
        if bench.killed:
            assert 42 <= second <= 48
            return
    raise AssertionError("not killed")


def test_a_renewal_ends_the_countdown(bench: Bench) -> None:
    bench.status = NoStatus("overdue", "/s", "x")
    assert bench.run(40).startswith("threatened")
    bench.status = WELL
    assert bench.run(10) == "guarded"
    assert not bench.killed


def test_s11_another_sanlock_runs(bench: Bench) -> None:
    bench.status = DaemonStatus(True, {}, (), ())
    assert bench.seconds_to_kill(6)


def test_an_agent_that_starts_late_learns_when_the_lease_was_renewed() -> None:
    """The former agent's knowledge is gone, sanlock's is not."""
    bench = Bench()
    bench.status = replace(WELL, spaces={"sd": Space(1, 4, 10, 61)})
    assert bench.seconds_to_kill(3)


def test_what_was_known_of_a_former_copy_does_not_count(bench: Bench) -> None:
    bench.copies = []
    bench.run(300)
    bench.copies = [EngineProcess(43, 5000)]
    bench.age = 1.0
    bench.status = replace(WELL, clients=(43,), held=())
    assert bench.run(3) == "starting"
    assert not bench.killed


def test_s12_another_owner(bench: Bench) -> None:
    bench.owner = LeaseOwner(2, 1)
    assert (bench.seconds_to_kill(10) or 99) <= 7  # within 5 s read, and confirmed by sanlock's next answer


def test_s12_our_id_with_another_generation(bench: Bench) -> None:
    bench.status = replace(WELL, spaces={"sd": Space(1, 5, 10, 5)})
    assert bench.seconds_to_kill(10)


def test_s12_a_read_error_is_unknown(bench: Bench) -> None:
    bench.owner = None
    assert bench.run(60) == "unverified"
    assert not bench.killed


def test_s12_a_record_read_before_the_registration_changed_is_no_mismatch(bench: Bench) -> None:
    """The lockspace was joined anew between the read of the record and sanlock's answer."""
    bench.run(3)
    bench.status, bench.owner = replace(WELL, spaces={"sd": Space(1, 5, 10, 5)}), LeaseOwner(1, 5)
    assert bench.run(10) == "guarded"
    assert not bench.killed


def test_s5_s12_an_old_answer_of_sanlock_kills_nothing() -> None:
    """It was given when no CPU had run yet; whether the copy has its lease now, nobody knows."""
    bench = Bench()
    bench.age, bench.status = 1.0, replace(WELL, held=())
    assert bench.run(2) == "starting"
    bench.status = NoStatus("overdue", "/s", "x")
    bench.run(8)
    bench.age = 12.0
    assert bench.run(10) == "unverified"
    assert not bench.killed


def test_s12_of_two_copies_the_one_without_the_lease_dies(bench: Bench) -> None:
    bench.copies = [ENGINE, EngineProcess(77, 9000)]
    bench.status = replace(WELL, clients=(42, 77))
    bench.run(10)
    assert {fence.pid for fence in bench.orders if fence} == {77}


def test_s12_a_suspension_ends_by_itself(bench: Bench) -> None:
    """The action that asked for it may hang for ever."""
    bench.guard.suspend(20.0, "action")
    bench.status, bench.owner = replace(WELL, held=()), LeaseOwner(2, 1)
    assert bench.run(18) == "suspended"
    assert bench.seconds_to_kill(10)


def test_s12_a_sleep_of_the_host(bench: Bench) -> None:
    bench.asleep = 19.0
    bench.run(3)
    assert not bench.killed
    bench.asleep += 21.0
    bench.guard.round()
    assert bench.killed


def test_s12_a_sleep_before_the_copy_was_here_is_nothing() -> None:
    bench = Bench()
    bench.copies = []
    bench.run(2)
    bench.asleep = 3600.0
    bench.run(2)
    bench.copies = [ENGINE]
    assert bench.run(10) == "guarded"
    assert not bench.killed


def test_our_own_hand_over_suspends_the_audit(bench: Bench) -> None:
    bench.guard.suspend(150.0, "action")
    bench.status = replace(WELL, held=())
    bench.owner = LeaseOwner(2, 1)
    assert bench.run(20) == "suspended"
    assert not bench.killed
    bench.guard.suspend(0.0, "action")
    assert bench.seconds_to_kill(10)


def test_of_two_copies_the_one_without_a_guard_dies(bench: Bench) -> None:
    bench.copies = [ENGINE, EngineProcess(77, 9000)]
    bench.run(5)
    assert {fence.pid for fence in bench.orders if fence} == {77}


def test_a_sanlock_of_another_language_is_said_and_kills_nothing(bench: Bench) -> None:
    bench.status = NoStatus("foreign", "/s", "version 9")
    assert bench.run(200) == "blind"
    assert not bench.killed


def test_the_order_is_taken_back_when_the_copy_is_gone(bench: Bench) -> None:
    bench.status = DaemonStatus(True, {}, (), ())
    assert bench.seconds_to_kill(6)
    bench.copies = []
    assert bench.run(1) == ""
    assert bench.orders[-1] is None


@pytest.mark.parametrize("works", [True, False])
def test_s11_only_a_completed_round_is_a_sign_of_life(works: bool) -> None:
    """systemd starts an agent again whose guard cannot look."""
    beats: List[int] = []
    looked = threading.Event()

    def find() -> List[EngineProcess]:
        looks.append(1)
        if len(looks) >= 3:
            looked.set()
        if not works:
            raise OSError(24, "too many open files")
        return []

    looks: List[int] = []
    bench = Bench()
    bench.seams = replace(bench.seams, find=find, alive=lambda: beats.append(1))
    guard = Guard(LEASE, bench.seams, bench.clock, replace(Timers(), guard_poll=0.05))  # type: ignore[arg-type]
    guard.start()
    try:
        assert looked.wait(10)
    finally:
        guard.stop()
    assert bool(beats) is works
