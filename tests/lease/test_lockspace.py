"""What the shared cases do not reach: waking, being told of changes, the watchdog, wrong arguments. With the fake."""

import errno
import logging
import threading
import time

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseId, LeaseOwner, LockspaceState
from ovirt_he_ha.lease import binding
from ovirt_he_ha.lease.binding import SanlockMissing
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus, Space
from ovirt_he_ha.lease.formatting import FormatFailed, write_lockspace, write_resource
from ovirt_he_ha.lease.lockspace import SanlockLockspaces
from ovirt_he_ha.lease.loops import Loop
from ovirt_he_ha.lease.membership import Membership
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable, owner
from ovirt_he_ha.lease.watchdog import Tie, tie
from tests.lease.fake_sanlock import FakeSanlock, SanlockException, Storage
from tests.own_time import OwnTime

LEASE = LeaseId("sd", "key", "/lease")


@pytest.fixture
def daemon():
    daemon = FakeSanlock(Storage(500.0), "host1")
    daemon.start()
    write_lockspace("sd", "/ids", api=daemon)
    write_lockspace("hosted-engine", "/whiteboard", api=daemon)
    write_resource(LEASE, api=daemon)
    return daemon


@pytest.fixture
def make(daemon):
    made = []

    def build(**options):
        options.setdefault("ask_watchdog", lambda: Tie(True, "1"))
        made.append(SanlockLockspaces(LEASE, "/ids", "/whiteboard", SystemClock(500.0), api=daemon, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


def eventually(look, seconds=5.0):
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.002)


def held(lockspaces):
    return lockspaces.facts().lockspace.value is LockspaceState.HELD


class TestLockspaces:
    def test_before_anything_is_wanted(self, make):
        facts = make().facts()
        assert {facts.lockspace.unknown, facts.whiteboard.unknown, facts.hosts.unknown, facts.owner.unknown} == {
            "not-yet"
        }
        assert facts.lockspace.age is None

    @pytest.mark.parametrize("host_id", [0, -1, 2001])
    def test_ids_out_of_range(self, make, host_id):
        with pytest.raises(ValueError, match=str(host_id)):
            make().want(host_id)

    def test_changes_are_told(self, make, daemon):
        told = threading.Event()
        lockspaces = make(on_change=told.set)
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        eventually(lambda: lockspaces.facts().owner.known)
        time.sleep(0.05)
        told.clear()
        daemon.take("/lease")
        assert told.wait(5)
        eventually(lambda: lockspaces.facts().owner.value.host_id == 1)

    def test_alert_looks_more_often(self, make, daemon):
        looks = []
        real = daemon.get_hosts
        daemon.get_hosts = lambda name: looks.append(time.monotonic()) or real(name)
        lockspaces = make(alert_poll=1.0, calm_poll=100_000.0)
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        time.sleep(0.05)
        calm = len(looks)
        time.sleep(0.05)
        assert len(looks) == calm
        lockspaces.set_alert(True)
        eventually(lambda: len(looks) > calm + 3)

    def test_the_owner_is_read_every_second_time_in_calm_and_every_time_in_alert(self, daemon):
        class Clock(SystemClock):
            now = 1000.0

            def monotonic(self):
                return self.now

        clock, looks = Clock(1.0), []
        lockspaces = SanlockLockspaces(
            LEASE, "/ids", "/whiteboard", clock, read_owner=lambda: looks.append(clock.now) or LeaseOwner(0), api=daemon
        )

        def rounds(count, seconds):
            del looks[:]
            for _ in range(count):
                lockspaces._look_at_owner()
                clock.now += seconds
            return len(looks)

        assert rounds(10, 5.01) == 5
        assert lockspaces.facts().owner.age <= 10.1
        lockspaces.set_alert(True)
        assert rounds(10, 1.01) == 10
        lockspaces.set_alert(False)
        assert rounds(1, 0.0) == 1  # what changed is looked at once more
        assert rounds(1, 0.0) == 0
        lockspaces._changed()  # a lockspace changed
        assert rounds(1, 0.0) == 1

    def test_a_join_tells_how_long_it_has_taken(self, make, daemon):
        lockspaces = make()
        assert lockspaces.facts().joining_for is None
        entered, leave = threading.Event(), threading.Event()
        real = daemon.add_lockspace

        def slow(*args, **how):
            entered.set()
            assert leave.wait(10)
            return real(*args, **how)

        daemon.add_lockspace = slow
        lockspaces.want(1)
        assert entered.wait(10)
        first = lockspaces.facts().joining_for
        assert first is not None
        eventually(lambda: lockspaces.facts().joining_for > first)
        leave.set()
        eventually(lambda: held(lockspaces))
        eventually(lambda: lockspaces.facts().joining_for is None)

    def test_an_owner_that_is_late_with_its_renewal_is_told_by_its_silence(self):
        class Clock(SystemClock):
            now = 1000.0

            def monotonic(self):
                return self.now

        class Binding:
            SanlockException = OSError
            renewed = 500

            def get_hosts(self, lockspace):
                return [{"host_id": 2, "generation": 1, "timestamp": self.renewed, "io_timeout": 10, "flags": 3}]

        clock, binding = Clock(1.0), Binding()
        lockspaces = SanlockLockspaces(
            LEASE, "/ids", "/whiteboard", clock, read_owner=lambda: LeaseOwner(2, 1), api=binding
        )
        lockspaces._look_at_owner()

        def silent(seconds):
            clock.now += seconds
            lockspaces._look_at_hosts()
            return lockspaces.facts().owner_silent

        assert silent(0.0) is None
        assert silent(44.0) is None  # 4.5 renewals are not over yet
        binding.renewed = 540
        assert silent(4.0) is None
        assert silent(45.0) == 45.0
        assert silent(95.0) == 140.0
        binding.renewed = 700
        assert silent(1.0) is None

    def test_an_owner_that_the_list_leaves_out_is_asked_for_by_its_number(self):
        class Clock(SystemClock):
            now = 1000.0

            def monotonic(self):
                return self.now

        class Binding:
            SanlockException = OSError
            asked = ()
            generation = 4
            flag = 2
            refusal = None

            def get_hosts(self, lockspace, host_id=0):
                if host_id == 0:
                    return [{"host_id": 1, "generation": 1, "timestamp": 500, "io_timeout": 10, "flags": 3}]
                self.asked += (host_id,)
                if self.refusal is not None:
                    raise self.refusal
                return [{"host_id": host_id, "generation": self.generation, "timestamp": 0, "flags": self.flag}]

        clock, binding, owners, told = Clock(1.0), Binding(), [LeaseOwner(0)], []
        lockspaces = SanlockLockspaces(
            LEASE,
            "/ids",
            "/whiteboard",
            clock,
            ask_watchdog=lambda: None,
            read_owner=lambda: owners[-1],
            on_change=lambda: told.append(clock.now),
            api=binding,
        )

        def left(after=0.0):
            clock.now += after
            told.clear()
            lockspaces._look_at_hosts()
            facts = lockspaces.facts()
            return facts.owner_left, facts.owner_left_for

        def read(owner):
            owners.append(owner)
            lockspaces._owner_due = 0.0
            lockspaces._look_at_owner()

        assert left() == (None, None)
        read(LeaseOwner(1, 1))
        assert left() == (None, None)
        assert binding.asked == ()  # nobody's, and a listed host's
        read(LeaseOwner(2, 3))
        assert left() == (4, 0.0)
        assert told
        assert left(after=7.0) == (4, 7.0)
        assert not told
        binding.generation = 5
        assert left(after=1.0) == (5, 0.0)
        read(LeaseOwner(3, 9))
        assert (lockspaces.facts().owner_left, lockspaces.facts().owner_left_for) == (None, None)
        assert left() == (5, 0.0)
        binding.flag = 3
        assert left(after=1.0) == (None, None)
        binding.flag, binding.refusal = 2, OSError(errno.EAGAIN, "not yet")
        assert left(after=1.0) == (None, None)
        assert set(binding.asked) == {2, 3}
        binding.refusal = None
        read(LeaseOwner(3, 5))
        assert left() == (5, 0.0)
        binding.flag = 3  # it is back: that generation is over all the same
        assert left(after=20.0) == (5, 20.0)
        binding.generation, binding.flag = 6, 2
        assert left(after=20.0) == (5, 40.0)
        read(LeaseOwner(3, 6))
        assert left() == (6, 0.0)

    def test_this_hosts_own_renewal_grows_old_until_sanlock_tells_another_one(self):
        class Clock(SystemClock):
            now = 1000.0

            def monotonic(self):
                return self.now

        class Binding:
            SanlockException = OSError
            refusal = None

            def get_hosts(self, lockspace):
                if self.refusal is not None:
                    raise self.refusal
                return [{"host_id": 1, "generation": 1, "timestamp": 500, "io_timeout": 10, "flags": 3}]

        class Answer:
            ago = None

            def __call__(self):
                if self.ago == "overdue":
                    raise NoStatus("overdue", "/sock", "no answer")
                spaces = {} if self.ago == "left" else {"sd": Space(1, 1, 10, self.ago)}
                return DaemonStatus(True, spaces, (), ())

        clock, binding, answer, told = Clock(1.0), Binding(), Answer(), []
        lockspaces = SanlockLockspaces(
            LEASE,
            "/ids",
            "/whiteboard",
            clock,
            ask_status=answer,
            ask_watchdog=lambda: None,
            read_owner=lambda: LeaseOwner(0),
            on_change=lambda: told.append(clock.now),
            api=binding,
        )

        def ago(answered, after=0.0):
            clock.now += after
            answer.ago = answered
            told.clear()
            lockspaces._look_at_hosts()
            return lockspaces.facts().renewed_ago

        assert ago(None) is None
        assert ago(4) == 5.0  # sanlock's whole seconds are up to one old
        assert told
        assert ago(14, after=10.0) == 15.0
        assert not told
        assert ago("overdue", after=10.0) == 25.0
        assert ago("left", after=10.0) == 35.0
        assert ago(30, after=0.0) == 31.0
        assert not told
        assert ago(0, after=5.0) == 1.0
        assert told  # a start may be waiting for it
        binding.refusal = OSError(errno.ENOENT, "no such lockspace")
        assert ago(0) is None  # what comes next is another life

    def test_the_watchdog_is_asked_once_per_join(self, make, daemon):
        asked = []
        lockspaces = make(ask_watchdog=lambda: asked.append(1) or Tie(True, "1"))
        lockspaces.want(1)
        eventually(lambda: lockspaces.facts().watchdog_armed is True)
        time.sleep(0.1)
        assert len(asked) == 1
        daemon.kill()
        eventually(lambda: lockspaces.facts().watchdog_armed is None)
        daemon.start()
        eventually(lambda: lockspaces.facts().watchdog_armed is True)
        assert len(asked) == 2

    def test_s13_a_sanlock_that_died_with_the_lockspace_dooms_the_host(self, make, daemon):
        """Whoever renews then: wdmd does not forget the first one. The host is fenced, and yet no place for the VM."""
        lives = iter("12")
        lockspaces = make(ask_watchdog=lambda: Tie(True, next(lives)))
        lockspaces.want(1)
        eventually(lambda: lockspaces.facts().watchdog_armed is True)
        assert lockspaces.facts().reset_within is None
        daemon.kill()
        eventually(lambda: lockspaces.facts().watchdog_armed is None)
        daemon.start()
        eventually(lambda: lockspaces.facts().watchdog_armed is True)
        within = lockspaces.facts().reset_within
        assert within is not None
        assert 100 < within <= 8 * 10 + 60 + 10
        eventually(lambda: lockspaces.facts().reset_within is None)  # it was not reset: then nothing is left of it

    def test_a_sanlock_that_was_left_in_peace_dooms_nobody(self, make, daemon):
        asked = []
        lockspaces = make(ask_watchdog=lambda: asked.append(1) or Tie(True, str(len(asked))))
        lockspaces.want(1)
        eventually(lambda: lockspaces.facts().watchdog_armed is True)
        lockspaces.leave(5.0)
        daemon.kill()
        daemon.start()
        lockspaces.want(1)
        eventually(lambda: len(asked) == 2 and lockspaces.facts().watchdog_armed is True)
        assert lockspaces.facts().reset_within is None

    def test_a_watchdog_that_is_not_told_is_asked_again_later(self, make):
        asked = []
        lockspaces = make(ask_watchdog=lambda: asked.append(time.monotonic()) or None)
        lockspaces.want(1)
        eventually(lambda: len(asked) == 2)
        assert asked[1] - asked[0] > 60 / 500

    def test_another_id_gives_the_first_one_back(self, make, daemon):
        lockspaces = make()
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        lockspaces.want(2)
        eventually(lambda: [each["host_id"] for each in daemon.get_lockspaces() if not each["flags"]] == [2, 2])

    def test_a_held_lease_keeps_the_first_id(self, make, daemon):
        lockspaces = make()
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        daemon.take("/lease")
        lockspaces.want(2)
        eventually(lambda: lockspaces.facts().lockspace.value is LockspaceState.MISMATCH)
        assert "sd" in lockspaces.problems()

    def test_a_defect_is_said_and_the_reading_grows_old(self, make, daemon, caplog):
        lockspaces = make()
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        daemon.get_lockspaces = lambda: 1 / 0
        with caplog.at_level(logging.ERROR):
            eventually(lambda: lockspaces.facts().lockspace.age > 20)
        assert any(record.exc_info for record in caplog.records)

    def test_the_missing_binding_is_named_with_its_package(self, monkeypatch):
        def absent(_name):
            raise ImportError

        monkeypatch.setattr(binding.importlib, "import_module", absent)
        with pytest.raises(SanlockMissing, match="python3-sanlock"):
            SanlockLockspaces(LEASE, "/ids", "/whiteboard")


class Scripted:
    """A module whose calls do what a test says."""

    SanlockException = SanlockException
    LSFLAG_ADD, LSFLAG_REM = 1, 2

    def __init__(self, listed=(), on_add=None):
        self.listed = list(listed)
        self.on_add = on_add
        self.removed = []

    def get_lockspaces(self):
        if isinstance(self.listed, Exception):
            raise self.listed
        return self.listed

    def add_lockspace(self, *_arguments, **_options):
        if self.on_add:
            self.on_add()

    def rem_lockspace(self, _name, host_id, _path, *, unused=False):
        self.removed.append((host_id, unused))


def fail(code):
    def call():
        raise SanlockException(code, "what", "why")

    return call


def entry(host_id=1, path="/ids", flags=0):
    return {"lockspace": b"sd", "host_id": host_id, "path": path, "offset": 0, "flags": flags}


def after_step(api, target=1, **options):
    member = Membership("sd", "/ids", api, lambda: None, **options)
    member.want(target)
    member.step()
    return member


class TestMembership:
    @pytest.mark.parametrize(
        ("code", "state"),
        [
            (-262, LockspaceState.ID_TAKEN),
            (-263, LockspaceState.ID_TAKEN),
            (-223, LockspaceState.ERROR),
            (errno.EINVAL, LockspaceState.ERROR),
            (errno.ENODEV, LockspaceState.ERROR),
            (errno.ECONNRESET, LockspaceState.NO_DAEMON),
        ],
    )
    def test_what_a_refused_join_means(self, code, state):
        member = after_step(Scripted(on_add=fail(code)))
        assert member.status.state is state
        assert member.status.detail
        assert not member.joining

    @pytest.mark.parametrize("code", [errno.ENOENT, errno.ECONNREFUSED, errno.EACCES])
    def test_nobody_to_ask(self, code):
        api = Scripted()
        api.listed = SanlockException(code, "what", "why")
        assert after_step(api).status.state is LockspaceState.NO_DAEMON

    def test_a_daemon_that_answers_nonsense_is_an_error(self):
        api = Scripted()
        api.listed = SanlockException(-1, "what", "why")
        assert after_step(api).status.state is LockspaceState.ERROR

    @pytest.mark.parametrize(
        ("listed", "state"),
        [
            (entry(), LockspaceState.HELD),
            (entry(flags=1), LockspaceState.JOINING),
            (entry(flags=2), LockspaceState.NOT_HELD),
            (entry(host_id=2), LockspaceState.MISMATCH),
            (entry(path="/other"), LockspaceState.MISMATCH),
        ],
    )
    def test_what_is_listed(self, listed, state):
        api = Scripted([listed])
        member = after_step(api)
        assert member.status.state is state
        member.leave()
        assert api.removed == []  # somebody else joined it

    @pytest.mark.parametrize("code", [errno.EEXIST, errno.EINPROGRESS, errno.EINVAL])
    def test_somebody_was_faster(self, code):
        api = Scripted()

        def add():
            api.listed = [entry(host_id=1 if code != errno.EINVAL else 3)]
            fail(code)()

        api.on_add = add
        member = after_step(api)
        assert member.status.state is (LockspaceState.MISMATCH if code == errno.EINVAL else LockspaceState.HELD)
        member.leave()
        assert api.removed == []

    def test_a_change_of_mind_during_the_join(self):
        api = Scripted()
        api.on_add = lambda: member.want(None)
        member = Membership("sd", "/ids", api, lambda: None, only_unused=True)
        member.want(1)
        member.step()
        assert api.removed == [(1, True)]
        assert member.status.state is LockspaceState.NOT_HELD

    def test_not_asked_is_not_joined(self):
        api = Scripted(on_add=fail(errno.EINVAL))
        member = after_step(api, may_join=lambda: False)
        assert member.status.state is LockspaceState.NOT_HELD
        assert member.status.detail

    def test_a_taken_id_stays_taken_during_the_next_try(self):
        states = []
        api = Scripted(on_add=fail(-262))
        member = Membership("sd", "/ids", api, lambda: states.append(member.status.state))
        member.want(1)
        member.step()
        member.step()
        assert states == [LockspaceState.JOINING, LockspaceState.ID_TAKEN]


class TestOwnerAndFormat:
    def test_the_owner(self, daemon):
        assert owner(LEASE, api=daemon).host_id == 0
        daemon.add_lockspace(b"sd", 7, "/ids")
        daemon.take("/lease")
        found = owner(LEASE, api=daemon)
        assert (found.host_id, found.generation) == (7, 1)

    def test_an_unreadable_lease_is_named(self, daemon):
        with pytest.raises(LeaseUnreadable) as caught:
            owner(LeaseId("sd", "other", "/lease"), api=daemon)
        assert caught.value.code == -227
        assert "sd:other at /lease:0" in str(caught.value)

    def test_a_failed_format_is_named(self, daemon):
        daemon.kill()
        for call in (lambda: write_lockspace("sd", "/ids", api=daemon), lambda: write_resource(LEASE, api=daemon)):
            with pytest.raises(FormatFailed) as caught:
                call()
            assert caught.value.code == errno.ECONNREFUSED
            assert caught.value.path in str(caught.value)


class TestWatchdog:
    @pytest.mark.parametrize("expected", [True, False, None])
    def test_what_sanlock_says(self, expected):
        found = tie(lambda: DaemonStatus(expected, {}, (), (), "7:70"))
        assert found == (None if expected is None else Tie(expected, "7:70"))

    def test_nobody_to_ask(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SANLOCK_RUN_DIR", str(tmp_path))
        assert tie() is None


def test_a_loop_that_hangs_is_seen_and_goes_on():
    free, entered = threading.Event(), threading.Event()

    def step():
        entered.set()
        free.wait(10)

    loop = Loop("hanging", step, SystemClock(1.0), lambda: 0.001, lambda: 0.05)
    loop.start()
    assert entered.wait(5)
    eventually(lambda: loop.overdue)
    assert loop.age() is None
    free.set()
    eventually(lambda: loop.age() is not None and not loop.overdue)
    loop.stop()
    assert loop.join(5)


class TestHungDaemon:
    """It answers nobody. 2 wall seconds are the least that counts as hung."""

    def test_s4_what_it_does_not_answer_becomes_unknown(self, make, daemon):
        lockspaces = make(calm_poll=1.0, alert_poll=1.0)
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        eventually(lambda: lockspaces.facts().owner.known and lockspaces.facts().hosts.known)
        daemon.hang()

        def unknown():
            facts = lockspaces.facts()
            return {facts.lockspace.unknown, facts.whiteboard.unknown, facts.hosts.unknown, facts.owner.unknown}

        try:
            eventually(lambda: unknown() == {"overdue"})
        finally:
            daemon.hang(False)
        eventually(lambda: unknown() == {""})

    def test_s4_no_call_waits_for_it(self, make, daemon):
        lockspaces = make()
        lockspaces.want(1)
        eventually(lambda: held(lockspaces))
        daemon.hang()
        took = OwnTime()
        try:
            lockspaces.leave(0.2)
            lockspaces.want(1)
            lockspaces.facts()
            assert took.seconds < 1.5
        finally:
            daemon.hang(False)
