"""Virtual time: order, lag, scopes, beats and the clocks of hosts."""

from typing import List, Optional

from ovirt_he_ha.sim.clock import Beat, HostClock, Scope, Timeline, ns, stamp


def test_events_of_one_instant_run_in_the_order_in_which_they_were_made() -> None:
    timeline, seen = Timeline(), []
    for name in "cab":
        timeline.at(ns(1.0), lambda name=name: seen.append(name))  # type: ignore[misc]
    timeline.at(ns(0.5), lambda: seen.append("first"))
    timeline.run(ns(2.0))
    assert seen == ["first", "c", "a", "b"]
    assert timeline.now == ns(2.0) and timeline.events == 4


def test_what_a_call_takes_shows_on_every_clock_and_delays_what_follows() -> None:
    timeline = Timeline()
    clock = HostClock(timeline, 100.0)
    seen: List[float] = []

    def event() -> None:
        timeline.spend(3.0)
        seen.append(clock.monotonic())
        timeline.after(1.0, lambda: seen.append(clock.monotonic()))

    timeline.at(ns(10.0), event)
    timeline.run(ns(20.0))
    assert seen == [113.0, 114.0]


def test_what_ended_gets_no_event_and_what_is_held_gets_it_later() -> None:
    timeline, seen = Timeline(), []
    machine = Scope()
    process, other = Scope(machine), Scope(machine)
    timeline.at(ns(1.0), lambda: seen.append("process"), process)
    timeline.at(ns(2.0), lambda: seen.append("other"), other)
    process.end()
    timeline.hold(machine)
    timeline.run(ns(5.0))
    assert seen == []
    timeline.go_on(machine)
    timeline.run(ns(6.0))
    assert seen == ["other"]


def test_a_cancelled_event_never_comes() -> None:
    timeline, seen = Timeline(), []
    timeline.cancel(timeline.at(ns(1.0), lambda: seen.append(1)))
    timeline.run(ns(2.0))
    assert seen == []


class Ticker:
    def __init__(self, due: Optional[float] = 10.0, takes: float = 0.0) -> None:
        self.timeline = Timeline()
        self.due = due
        self.takes = takes
        self.times: List[float] = []
        self.beat = Beat(self.timeline, Scope(), self.turn)

    def turn(self) -> Optional[float]:
        self.times.append(self.timeline.now / 1e9)
        self.timeline.spend(self.takes)
        return self.due


def test_a_beat_comes_again_and_earlier_when_it_is_woken() -> None:
    ticker = Ticker()
    ticker.beat.wake(1.0)
    ticker.timeline.at(ns(15.0), ticker.beat.wake)
    ticker.timeline.run(ns(26.0))
    assert ticker.times == [1.0, 11.0, 15.0, 25.0]


def test_a_beat_is_not_woken_before_its_turn_has_ended() -> None:
    ticker = Ticker(takes=5.0)
    ticker.beat.wake()
    ticker.timeline.at(ns(2.0), ticker.beat.wake)
    ticker.timeline.run(ns(6.0))
    assert ticker.times == [0.0, 5.0]


def test_a_beat_without_a_due_time_sleeps_until_woken() -> None:
    ticker = Ticker(due=None)
    ticker.beat.wake()
    ticker.timeline.run(ns(50.0))
    assert ticker.times == [0.0] and ticker.beat.asleep
    ticker.beat.wake()
    ticker.timeline.run(ns(60.0))
    assert ticker.times == [0.0, 50.0]


def test_a_turn_that_is_due_at_once_does_not_stop_time() -> None:
    ticker = Ticker(due=0.0)
    ticker.beat.wake()
    ticker.timeline.run(ns(0.1))
    assert 50 < len(ticker.times) < 200


def test_a_suspended_clock_stands_still_and_a_wall_clock_may_jump() -> None:
    timeline = Timeline()
    clock = HostClock(timeline, 1000.0, rate=1.001)
    timeline.run(ns(100.0))
    assert abs(clock.monotonic() - 1100.1) < 1e-6
    clock.suspend()
    timeline.run(ns(150.0))
    assert abs(clock.monotonic() - 1100.1) < 1e-6
    clock.resume()
    assert clock.slept == 50.0
    timeline.run(ns(250.0))
    assert abs(clock.monotonic() - 1200.2) < 1e-6
    before = clock.wall()
    clock.step_wall(-3600.0)
    assert clock.wall() == before - 3600.0
    assert abs(clock.world(10.0) - 10.0 / 1.001) < 1e-12


def test_stamps_are_made_of_whole_numbers() -> None:
    assert [stamp(0), stamp(1_999_999), stamp(61_500_000_000), stamp(-1_000_000)] == [
        "0.000",
        "0.001",
        "61.500",
        "-0.001",
    ]


class Leaper:
    """Comes every 10 s; at 10 s it leaves out the turns until 50 s."""

    def __init__(self) -> None:
        self.timeline, self.machine = Timeline(), Scope()
        self.times: List[float] = []
        self.beat = Beat(self.timeline, Scope(self.machine), self.turn)
        self.beat.wake(10.0)

    def turn(self) -> Optional[float]:
        self.times.append(self.timeline.now / 1e9)
        if len(self.times) == 1:
            self.beat.leave_out([ns(20.0), ns(30.0), ns(40.0)], ns(50.0))
        return 10.0

    def run(self, until: float) -> List[float]:
        self.timeline.run(ns(until))
        return self.times


def test_turns_that_do_nothing_are_left_out() -> None:
    leaper = Leaper()
    assert leaper.run(75.0) == [10.0, 50.0, 60.0, 70.0]
    assert leaper.timeline.events == 4


def test_it_lands_on_the_turn_that_would_have_come_next() -> None:
    leaper = Leaper()
    for moment in (24.0, 26.0):  # twice is once
        leaper.timeline.at(ns(moment), leaper.beat.land)
    assert leaper.run(55.0) == [10.0, 30.0, 40.0, 50.0]


def test_at_the_moment_of_a_turn_the_order_of_making_says_which_one_it_lands_on() -> None:
    leaper = Leaper()
    leaper.timeline.at(ns(30.0), leaper.beat.land)  # made before the turn at 20 s would have made the one at 30 s
    assert leaper.run(55.0) == [10.0, 30.0, 40.0, 50.0]
    leaper = Leaper()

    def later() -> None:
        leaper.timeline.after(5.0, leaper.beat.land)

    leaper.timeline.at(ns(25.0), later)
    assert leaper.run(55.0) == [10.0, 40.0, 50.0]


def test_behind_the_last_turn_that_was_left_out_nothing_is_to_be_landed_on() -> None:
    leaper = Leaper()
    leaper.timeline.at(ns(45.0), leaper.beat.land)
    assert leaper.run(55.0) == [10.0, 50.0]


def test_whoever_is_woken_in_a_leap_comes_at_once_or_at_the_next_turn() -> None:
    leaper = Leaper()
    leaper.timeline.at(ns(24.0), leaper.beat.wake)
    assert leaper.run(45.0) == [10.0, 24.0, 34.0, 44.0]
    leaper = Leaper()
    leaper.timeline.at(ns(24.0), lambda: leaper.beat.wake(9.0))
    assert leaper.run(45.0) == [10.0, 30.0, 40.0]


def test_a_machine_that_stands_still_in_a_leap_makes_up_for_the_turn_that_came_due() -> None:
    leaper = Leaper()
    leaper.timeline.at(ns(24.0), lambda: leaper.timeline.hold(leaper.machine))
    leaper.timeline.at(ns(37.0), lambda: leaper.timeline.go_on(leaper.machine))
    assert leaper.run(60.0) == [10.0, 37.0, 47.0, 57.0]


def test_who_ended_in_a_leap_does_not_come_any_more() -> None:
    leaper = Leaper()
    leaper.timeline.at(ns(24.0), leaper.machine.end)
    leaper.timeline.at(ns(25.0), lambda: leaper.timeline.hold(leaper.machine))
    assert leaper.run(60.0) == [10.0]
