"""Each rule of the guard by itself (it fails without the rule), and what holds for any facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core.fencing import (
    LATEST_KILL,
    UNCONFIRMED,
    Copy,
    GuardFacts,
    Kind,
    OwnerLook,
    Registration,
    judge,
    reset_due,
)
from ovirt_he_ha.core.model import LeaseOwner
from ovirt_he_ha.core.reasons import describe
from ovirt_he_ha.core.timers import Timers

T = Timers()
NOW = 10_000.0
OURS = Registration(known=True, holds=True, host_id=1, generation=4, since=NOW - 500, at=NOW - 1)
LOOK = OwnerLook(LeaseOwner(1, 4, 77), NOW - 3, NOW - 2.9)
WELL = GuardFacts(
    now=NOW,
    copy=Copy(pid=42, age=600.0, held=True),
    io_timeout=10.0,
    confirmed_at=NOW - 12,
    registration=OURS,
    owner=LOOK,
)


def verdict(**changes):
    return judge(replace(WELL, **changes), T)


def killed(**changes):
    found = verdict(**changes)
    if found.kind is not Kind.KILL:
        return ""
    assert "?" not in describe(found.reason)
    return found.reason.code


def test_a_guarded_copy_is_kept():
    assert (verdict().kind, verdict().state) == (Kind.KEEP, "guarded")
    assert verdict().report().kill_at is None


class TestS11:
    def test_a_lease_that_nobody_confirms_kills_before_the_limit(self):
        assert verdict(confirmed_at=NOW - 29).kind is Kind.KEEP
        worried = verdict(confirmed_at=NOW - 31)
        assert (worried.kind, worried.reason.code) == (Kind.COUNTDOWN, "guard-unconfirmed")
        assert worried.kill_at == NOW - 31 + 60
        assert verdict(confirmed_at=NOW - 59.9).kind is Kind.COUNTDOWN
        assert killed(confirmed_at=NOW - 60) == "guard-unconfirmed"

    def test_the_kill_has_two_io_timeouts_left(self):
        """The look (guard_poll), a verdict per second, and the signal itself must fit."""
        for io_timeout in (1.0, 2.0, 10.0):
            room = (LATEST_KILL - UNCONFIRMED) * io_timeout
            if io_timeout >= 10:
                assert room > T.guard_poll + 1 + 5
            assert killed(io_timeout=io_timeout, confirmed_at=NOW - 6 * io_timeout) == "guard-unconfirmed"

    def test_s2_a_copy_without_lease_that_cannot_be_killed_has_the_host_reset(self):
        """Others start when this host's id is dead: 8 io_timeouts and the device's time after the last renewal. The
        reset comes up to the device's time after it was asked for."""
        paused = replace(WELL, registration=replace(OURS, holds=False))
        for lost in (paused, replace(WELL, registration=None)):
            assert not reset_due(replace(lost, confirmed_at=NOW - 39.9), True)
            assert reset_due(replace(lost, confirmed_at=NOW - 60), True)
            assert reset_due(replace(lost, confirmed_at=NOW - 45, slept=15), True)
            assert not reset_due(replace(lost, confirmed_at=NOW - 60), False)

    def test_a_host_is_not_reset_by_us_for_what_sanlock_watches_or_on_a_guess(self):
        late = replace(WELL, confirmed_at=NOW - 100)
        assert not reset_due(late, True), "with the lease it is sanlock's"
        assert not reset_due(replace(late, registration=None, blind=True), True)

    def test_time_asleep_counts_though_the_clock_stood_still(self):
        assert verdict(confirmed_at=NOW - 45, slept=10, longest_sleep=10).kind is Kind.COUNTDOWN
        assert killed(confirmed_at=NOW - 45, slept=15, longest_sleep=15) == "guard-unconfirmed"

    def test_a_sanlock_that_is_gone_kills_after_the_doubt(self):
        gone = verdict(refused_since=NOW - 2, registration=None)
        assert (gone.kind, gone.reason.code, gone.kill_at) == (Kind.COUNTDOWN, "guard-gone", NOW + 3)
        assert killed(refused_since=NOW - 5, registration=None) == "guard-gone"

    def test_a_process_that_the_running_sanlock_does_not_know(self):
        unknown = replace(OURS, known=False, holds=False)
        assert killed(registration=unknown) == "guard-unknown-process"
        assert killed(registration=unknown, suspended_until=NOW + 100) == "guard-unknown-process"
        first = replace(unknown, since=NOW, at=NOW)
        assert verdict(registration=first).kill_at == NOW + 4
        assert verdict(registration=replace(unknown, since=NOW - 2, at=NOW)).kind is Kind.KILL
        born = verdict(registration=unknown, copy=Copy(42, 1.0))
        assert (born.kind, born.kill_at) == (Kind.COUNTDOWN, NOW + 1)

    def test_an_answer_that_is_not_understood_is_no_silence(self):
        """An update of sanlock must not kill the VM. It is said, not acted on."""
        found = verdict(blind=True, confirmed_at=NOW - 1000, registration=None)
        assert (found.kind, found.state) == (Kind.KEEP, "blind")

    def test_the_nearest_kill_is_the_one_that_is_shown(self):
        both = verdict(refused_since=NOW - 1, confirmed_at=NOW - 40, registration=None)
        assert (both.reason.code, both.kill_at) == ("guard-gone", NOW + 4)


class TestS12:
    @pytest.mark.parametrize("owner", [LeaseOwner(2, 4), LeaseOwner(1, 5), LeaseOwner(1, 3), LeaseOwner(0)])
    def test_another_owner_on_disk_kills_at_once(self, owner):
        assert killed(owner=replace(LOOK, owner=owner)) == "guard-other-owner"

    @pytest.mark.parametrize(
        "registration",
        [replace(OURS, since=NOW - 2.95), replace(OURS, at=NOW - 2.95), None],
    )
    def test_a_record_read_while_the_registration_changed_is_no_mismatch(self, registration):
        found = verdict(owner=replace(LOOK, owner=LeaseOwner(0)), registration=registration)
        assert found.kind is Kind.KEEP

    def test_a_read_error_is_unknown(self):
        """It leaves no look, or an old one."""
        assert (verdict(owner=None).kind, verdict(owner=None).state) == (Kind.KEEP, "unverified")
        old = replace(LOOK, started=NOW - 100, finished=NOW - 99)
        assert (verdict(owner=old).kind, verdict(owner=old).state) == (Kind.KEEP, "unverified")

    def test_a_copy_without_the_lease(self):
        bare = replace(OURS, holds=False)
        free = replace(LOOK, owner=LeaseOwner(0))
        assert killed(registration=bare, owner=free) == "guard-no-lease"
        assert killed(registration=bare, owner=None) == "guard-no-lease"
        fresh = replace(bare, since=NOW - 4)
        assert verdict(registration=fresh, owner=free).kind is Kind.COUNTDOWN
        # with a foreign owner nothing is waited for
        assert killed(registration=fresh, owner=replace(LOOK, owner=LeaseOwner(2, 1))) == "guard-no-lease"

    def test_a_copy_may_be_without_lease_until_its_cpus_start(self):
        bare = replace(OURS, holds=False)
        for copy in (Copy(42, 9.0), Copy(42, 800.0, incoming=True)):
            assert (verdict(registration=bare, copy=copy).kind, verdict(registration=bare, copy=copy).state) == (
                Kind.KEEP,
                "starting",
            )
        for copy in (Copy(42, 11.0), Copy(42, 901.0, incoming=True), Copy(42, 800.0, incoming=True, held=True)):
            assert killed(registration=bare, copy=copy) == "guard-no-lease"

    def test_the_audit_is_suspended_during_our_own_hand_over(self):
        bare = replace(OURS, holds=False)
        foreign = replace(LOOK, owner=LeaseOwner(2, 9))
        assert verdict(registration=bare, owner=foreign, suspended_until=NOW + 1).state == "suspended"
        assert verdict(owner=foreign, suspended_until=NOW + 1).kind is Kind.KEEP
        assert killed(owner=foreign, suspended_until=NOW - 1) == "guard-other-owner"
        # the guard itself is not
        assert killed(confirmed_at=NOW - 60, suspended_until=NOW + 1) == "guard-unconfirmed"

    def test_a_copy_with_the_lease_that_never_ran(self):
        assert verdict(stands_since=NOW - 4).kind is Kind.KEEP
        worried = verdict(stands_since=NOW - 6)
        assert (worried.kind, worried.reason.code, worried.kill_at) == (Kind.COUNTDOWN, "guard-never-ran", NOW + 14)
        assert killed(stands_since=NOW - 20) == "guard-never-ran"
        # it waits for its memory, or our own start has not been given up yet
        assert verdict(stands_since=NOW - 900, copy=Copy(42, 900.0, incoming=True, held=True)).kind is Kind.KEEP
        assert verdict(stands_since=NOW - 50, suspended_until=NOW + 1).kind is Kind.KEEP

    def test_a_host_that_slept(self):
        assert verdict(longest_sleep=20.0).kind is Kind.KEEP
        assert killed(longest_sleep=20.1) == "guard-slept"
        assert killed(longest_sleep=20.1, suspended_until=NOW + 100) == "guard-slept"


# --- for any facts ----------------------------------------------------------------------------------------------------

moments = st.floats(NOW - 2000, NOW)
seconds = st.floats(0, 2000)
registrations = st.builds(
    lambda known, holds, host_id, generation, since, length: Registration(
        known, known and holds, host_id, generation, min(since, NOW), min(since + length, NOW)
    ),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 3),
    moments,
    seconds,
)
looks = st.builds(
    lambda host_id, generation, started, length: OwnerLook(
        LeaseOwner(host_id, generation), started, min(started + length, NOW)
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    moments,
    seconds,
)
facts = st.builds(
    GuardFacts,
    now=st.just(NOW),
    copy=st.builds(Copy, st.just(42), seconds, st.booleans(), st.booleans()),
    io_timeout=st.sampled_from([1.0, 2.0, 10.0]),
    confirmed_at=moments,
    refused_since=st.none() | moments,
    blind=st.booleans(),
    slept=st.just(0.0) | seconds,
    longest_sleep=st.just(0.0) | seconds,
    registration=st.none() | registrations,
    owner=st.none() | looks,
    suspended_until=st.just(0.0) | st.floats(NOW - 10, NOW + 10),
)


@given(facts)
def test_any_facts_give_one_verdict_with_what_belongs_to_it(some):
    found = judge(some, T)
    assert found == judge(some, T)
    assert (found.kill_at is not None) == (found.kind is Kind.COUNTDOWN)
    assert (found.reason is not None) == (found.kind is not Kind.KEEP)
    assert found.kill_at is None or found.kill_at > NOW
    if found.reason is not None:
        assert "?" not in describe(found.reason)


@given(facts)
def test_s11_nothing_lives_that_was_not_confirmed(some):
    if not some.blind and NOW - some.confirmed_at + some.slept >= UNCONFIRMED * some.io_timeout:
        assert judge(some, T).kind is Kind.KILL


@given(facts)
def test_s12_no_foreign_owner_is_overlooked(some):
    """A foreign owner, read while sanlock said twice that the lease is ours, and no hand-over: dead."""
    registration, look = some.registration, some.owner
    if registration is None or look is None or not registration.holds or some.suspended_until > NOW:
        return
    if registration.host_id == 0:
        return
    if registration.since > look.started or registration.at < look.finished:
        return
    if (look.owner.host_id, look.owner.generation) != (registration.host_id, registration.generation):
        assert judge(some, T).kind is Kind.KILL


@given(facts)
def test_s5_unknown_kills_nothing(some):
    """Renewed, awake, and nothing else known: kept."""
    unknown = replace(
        some, confirmed_at=NOW - 1, slept=0.0, longest_sleep=0.0, refused_since=None, registration=None, io_timeout=10.0
    )
    assert judge(unknown, T).kind is Kind.KEEP


@given(facts, st.floats(0, 100))
def test_a_countdown_is_kept(some, more):
    """With the same facts later, the copy dies at the announced moment and not before."""
    found = judge(some, T)
    if found.kind is not Kind.COUNTDOWN:
        return
    at_the_moment = replace(some, now=found.kill_at, copy=replace(some.copy, age=some.copy.age + found.kill_at - NOW))
    assert judge(replace(at_the_moment, now=found.kill_at + more), T).kind is Kind.KILL
