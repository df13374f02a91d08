"""What the fake does beyond the cases that it shares with the real one."""

import errno
import threading

import pytest

from tests.lease.fake_sanlock import (
    DEAD,
    DEAD_AFTER,
    FAIL,
    FAIL_AFTER,
    JOIN,
    LIVE,
    FakeSanlock,
    SanlockException,
    Storage,
)


class ManualStorage(Storage):
    """Sleeping is what makes the time pass."""

    at = 1000.0

    def now(self):
        return self.at


@pytest.fixture
def storage():
    storage = ManualStorage(1.0)

    def wait(seconds=None):
        storage.at += seconds or 0

    storage.changed.wait = wait
    return storage


@pytest.fixture
def hosts(storage):
    made = [FakeSanlock(storage, f"host{number}") for number in (1, 2)]
    for each in made:
        each.start()
    made[0].write_lockspace(b"sd", "/ids")
    made[0].write_resource(b"sd", b"key", [("/lease", 0)])
    return made


def flags(daemon):
    return {host["host_id"]: host["flags"] for host in daemon.get_hosts(b"sd")}


def test_a_join_takes_its_time_and_needs_two_renewals_to_be_seen(hosts, storage):
    before = storage.at
    for number, host in enumerate(hosts, 1):
        host.add_lockspace(b"sd", number, "/ids")
    assert storage.at - before == 2 * JOIN
    with pytest.raises(SanlockException) as caught:
        hosts[1].get_hosts(b"sd")
    assert caught.value.args[0] == errno.EAGAIN
    storage.at += 25
    assert flags(hosts[0]) == {1: LIVE, 2: LIVE}


def test_a_killed_host_fails_and_dies(hosts, storage):
    for number, host in enumerate(hosts, 1):
        host.add_lockspace(b"sd", number, "/ids")
    storage.at += 25
    hosts[1].kill()
    renewed = storage.lockspaces["/ids"][1][2].renewed
    for silent, flag in ((FAIL_AFTER - 1, LIVE), (FAIL_AFTER, FAIL), (DEAD_AFTER - 1, FAIL), (DEAD_AFTER, DEAD)):
        storage.at = renewed + silent
        assert flags(hosts[0])[2] == flag


def test_another_hosts_live_id_is_refused_after_the_whole_wait(hosts, storage):
    hosts[0].add_lockspace(b"sd", 1, "/ids")
    before = storage.at
    with pytest.raises(SanlockException) as caught:
        hosts[1].add_lockspace(b"sd", 1, "/ids")
    assert caught.value.args[0] == -262
    assert storage.at - before == DEAD_AFTER
    assert hosts[1].get_lockspaces() == []


def test_a_dead_hosts_id_can_be_taken(hosts):
    hosts[0].add_lockspace(b"sd", 1, "/ids")
    hosts[0].kill()
    hosts[1].add_lockspace(b"sd", 1, "/ids")
    assert hosts[1].joined[b"sd"].generation == 2


def test_leaving_by_force_frees_what_was_held(hosts):
    hosts[0].add_lockspace(b"sd", 1, "/ids")
    hosts[0].take("/lease")
    hosts[0].rem_lockspace(b"sd", 1, "/ids")
    hosts[1].add_lockspace(b"sd", 2, "/ids")
    assert hosts[1].read_resource_owners(b"sd", b"key", [("/lease", 0)]) == []


def test_a_lease_of_an_earlier_generation_does_not_keep_the_lockspace(hosts):
    hosts[0].add_lockspace(b"sd", 1, "/ids")
    hosts[0].take("/lease")
    hosts[0].kill()
    hosts[0].start()
    hosts[0].add_lockspace(b"sd", 1, "/ids")
    hosts[0].rem_lockspace(b"sd", 1, "/ids", unused=True)
    assert hosts[0].get_lockspaces() == []


def test_a_hung_daemon_answers_nobody_until_it_goes_on():
    storage = Storage(1000.0)
    daemon = FakeSanlock(storage, "host1")
    daemon.start()
    daemon.hang()
    answered = threading.Event()
    threading.Thread(target=lambda: (daemon.get_lockspaces(), answered.set()), daemon=True).start()
    assert not answered.wait(0.05)
    daemon.hang(False)
    assert answered.wait(5)
