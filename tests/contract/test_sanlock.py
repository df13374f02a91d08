"""The fake and the real sanlock by the same cases: first the calls, then both lockspaces as the broker holds them."""

import errno
import time

import pytest

from ovirt_he_ha.core.model import HostLease, LeaseOwner, LockspaceState
from tests.contract.sanlock_cluster import KEY, NAME, Refused, cluster
from tests.own_time import OwnTime

pytestmark = pytest.mark.contract
__all__ = ["cluster"]

LIVE, FAIL, DEAD = 3, 4, 5


def refused(host, call, *arguments, **options):
    with pytest.raises(Refused) as caught:
        host.api(call, *arguments, **options)
    return caught.value.code


@pytest.fixture
def one(cluster):
    host = cluster.host(1)
    host.start()
    cluster.format(host)
    return host


def flags(cluster, host):
    try:
        return {each["host_id"]: each["flags"] for each in host.api("get_hosts", NAME)}
    except Refused as error:
        assert error.code == errno.EAGAIN
        return {}


class TestCalls:
    def test_without_a_daemon(self, cluster):
        host = cluster.host(1)
        assert refused(host, "get_lockspaces") == errno.ENOENT
        host.start()
        assert host.api("get_lockspaces") == []
        host.kill()
        assert refused(host, "get_lockspaces") == errno.ECONNREFUSED

    def test_a_join(self, cluster, one):
        places = cluster.places
        assert refused(one, "get_hosts", NAME) == errno.ENOENT
        one.api("add_lockspace", NAME, 1, places.ids)
        listed = one.api("get_lockspaces")
        assert listed == [{"lockspace": NAME, "host_id": 1, "path": places.ids, "offset": 0, "flags": 0}]
        assert refused(one, "add_lockspace", NAME, 1, places.ids) == errno.EEXIST
        assert refused(one, "add_lockspace", NAME, 2, places.ids) == errno.EINVAL
        assert cluster.eventually(lambda: flags(cluster, one), 10) == {1: LIVE}
        own = one.api("get_hosts", NAME)[0]
        assert (own["generation"], own["io_timeout"]) == (1, 10)

    def test_nothing_to_join(self, cluster, one):
        assert refused(one, "add_lockspace", NAME, 1, cluster.places.unformatted) == -223
        assert one.api("get_lockspaces") == []

    def test_owners_and_an_unused_lockspace(self, cluster, one):
        places = cluster.places
        key = KEY.encode()
        one.api("add_lockspace", NAME, 1, places.ids)
        assert one.api("read_resource_owners", NAME, key, places.disks) == []
        assert refused(one, "read_resource_owners", NAME, b"other", places.disks) == -227
        one.take()
        owner = one.api("read_resource_owners", NAME, key, places.disks)[0]
        assert (owner["host_id"], owner["generation"]) == (1, 1)
        assert refused(one, "rem_lockspace", NAME, 1, places.ids, unused=True) == errno.EBUSY
        assert len(one.api("get_lockspaces")) == 1

    @pytest.mark.parametrize("sector_size", [512, 4096])
    def test_both_sector_sizes(self, cluster, one, sector_size):
        """The alignment is 1 MiB for both, as the lockspaces of existing deployments have it."""
        places = cluster.places
        layout = {"align": 1 << 20, "sector": sector_size}
        one.api("write_lockspace", NAME, places.ids, **layout)
        one.api("write_resource", NAME, KEY.encode(), places.disks, **layout)
        one.api("add_lockspace", NAME, 1, places.ids)
        one.take()
        owners = one.api("read_resource_owners", NAME, KEY.encode(), places.disks, **layout)
        assert [owner["host_id"] for owner in owners] == [1]

    def test_leaving(self, cluster, one):
        places = cluster.places
        one.api("add_lockspace", NAME, 1, places.ids)
        one.api("rem_lockspace", NAME, 1, places.ids, unused=True)
        assert one.api("get_lockspaces") == []
        assert refused(one, "rem_lockspace", NAME, 1, places.ids, unused=True) == errno.ENOENT

    def test_a_daemon_that_comes_back_with_its_name(self, cluster, one):
        places = cluster.places
        one.api("add_lockspace", NAME, 1, places.ids)
        one.take()
        one.kill()
        one.start()
        assert one.api("get_lockspaces") == []
        one.api("add_lockspace", NAME, 1, places.ids)
        cluster.eventually(lambda: flags(cluster, one), 10)
        assert one.api("get_hosts", NAME)[0]["generation"] == 2
        owner = one.api("read_resource_owners", NAME, KEY.encode(), places.disks)[0]
        assert (owner["host_id"], owner["generation"]) == (1, 1)


def unknowns(facts):
    return {each.unknown for each in (facts.lockspace, facts.whiteboard, facts.hosts, facts.owner)}


class TestLockspaces:
    def joined(self, cluster, *hosts):
        for number, host in enumerate(hosts, 1):
            host.want(number)

        def both():
            held = all(
                (facts.lockspace.value, facts.whiteboard.value) == (LockspaceState.HELD, LockspaceState.HELD)
                for facts in (host.facts() for host in hosts)
            )
            return held and all(
                (host.facts().hosts.value or {}).get(number) is HostLease.LIVE
                for host in hosts
                for number in range(1, len(hosts) + 1)
            )

        cluster.eventually(both, 120)

    @pytest.fixture
    def two(self, cluster, one):
        other = cluster.host(2)
        other.start()
        return other

    def test_two_hosts_hold_both(self, cluster, one, two):
        self.joined(cluster, one, two)
        facts = two.facts()
        assert facts.hosts.value == {1: HostLease.LIVE, 2: HostLease.LIVE}
        assert facts.owner.value == LeaseOwner(0)
        assert (facts.own_generation, facts.io_timeout) == (1, 10)
        one.take()
        owner = cluster.eventually(lambda: (two.facts().owner.value or LeaseOwner(0)).host_id and two.facts().owner, 20)
        assert (owner.value.host_id, owner.value.generation) == (1, 1)
        assert owner.age < 10

    def test_a_dead_host_and_a_taken_id(self, cluster, one, two):
        """Both become clear after 140 s of sanlock's time, so they are waited for together."""
        self.joined(cluster, one, two)
        late = cluster.host(3)
        late.start()
        two.kill()
        killed = time.monotonic()
        late.want(1)
        seen = []

        def look():
            flag = (one.facts().hosts.value or {}).get(2)
            if flag not in seen:
                seen.append(flag)
            return flag is HostLease.DEAD

        cluster.eventually(lambda: late.facts().whiteboard.value is LockspaceState.JOINING, 20)
        cluster.eventually(look, 180)
        assert seen == [HostLease.LIVE, HostLease.FAIL, HostLease.DEAD]
        # never before 8 * io_timeout + 60 after the last renewal, which is up to 20 s old
        assert (time.monotonic() - killed) * cluster.scale > 110
        assert one.facts().hosts.value[1] is HostLease.LIVE
        for reading in ("whiteboard", "lockspace"):
            cluster.eventually(lambda name=reading: getattr(late.facts(), name).value is LockspaceState.ID_TAKEN, 200)
        assert one.facts().whiteboard.value is LockspaceState.HELD
        late.leave(5)  # a join that is under way is given up
        late.want(3)
        cluster.eventually(lambda: late.facts().whiteboard.value is LockspaceState.HELD, 120)

    def test_the_domain_is_held_under_another_id(self, cluster, one):
        one.api("add_lockspace", NAME, 3, cluster.places.ids)
        one.want(1)
        cluster.eventually(lambda: one.facts().whiteboard.value is LockspaceState.HELD, 60)
        assert one.facts().lockspace.value is LockspaceState.MISMATCH
        one.leave(5)
        assert [(each["lockspace"], each["host_id"]) for each in one.api("get_lockspaces")] == [(NAME, 3)]

    def test_a_domain_that_somebody_else_joined_is_not_left(self, cluster, one):
        one.api("add_lockspace", NAME, 1, cluster.places.ids)
        self.joined(cluster, one)
        one.leave(5)
        assert [each["lockspace"] for each in one.api("get_lockspaces")] == [NAME]

    def test_the_daemon_dies_and_comes_back(self, cluster, one):
        self.joined(cluster, one)
        one.kill()
        for reading in ("whiteboard", "lockspace"):
            cluster.eventually(lambda name=reading: getattr(one.facts(), name).value is LockspaceState.NO_DAEMON, 20)
        cluster.eventually(lambda: not one.facts().hosts.known, 20)
        assert one.facts().own_generation is None
        one.start()
        cluster.eventually(lambda: one.facts().own_generation == 2, 120)

    def test_no_join_while_an_unguarded_engine_runs(self, cluster, one):
        self.joined(cluster, one)
        one.may_join(False)
        one.kill()
        one.start()

        def held():
            return [each["lockspace"] for each in one.api("get_lockspaces") if not each["flags"]]

        cluster.eventually(lambda: one.facts().lockspace.value is LockspaceState.NOT_HELD, 20)
        assert cluster.eventually(held, 120) == [b"hosted-engine"]
        assert one.facts().lockspace.value is LockspaceState.NOT_HELD
        one.may_join(True)
        cluster.eventually(lambda: one.facts().lockspace.value is LockspaceState.HELD, 120)

    def test_leaving_both(self, cluster, one, two):
        self.joined(cluster, one, two)
        two.leave(5)
        assert two.api("get_lockspaces") == []
        cluster.eventually(lambda: set(one.facts().hosts.value or {}) == {1}, 60)
        cluster.eventually(lambda: two.facts().whiteboard.value is LockspaceState.NOT_HELD, 20)
        two.want(2)
        cluster.eventually(lambda: two.facts().lockspace.value is LockspaceState.HELD, 120)

    def test_a_held_lease_keeps_the_domain_and_the_lease(self, cluster, one, two):
        self.joined(cluster, one, two)
        one.take()
        one.leave(5)
        assert [each["lockspace"] for each in one.api("get_lockspaces")] == [NAME]
        owner = two.api("read_resource_owners", NAME, KEY.encode(), cluster.places.disks)[0]
        assert owner["host_id"] == 1
        assert two.facts().hosts.value[1] is HostLease.LIVE

    def test_leaving_while_joining(self, cluster, one):
        one.want(1)
        cluster.eventually(lambda: one.facts().lockspace.value is LockspaceState.JOINING, 20)
        one.leave(5)
        cluster.eventually(lambda: one.api("get_lockspaces") == [], 60)
        cluster.eventually(lambda: one.facts().lockspace.value is LockspaceState.NOT_HELD, 60)

    def test_a_lockspace_that_was_never_written(self, cluster):
        host = cluster.host(1)
        host.start()
        cluster.format(host)
        host.api("write_lockspace", b"other", cluster.places.ids)
        host.want(1)
        cluster.eventually(lambda: host.facts().lockspace.value is LockspaceState.ERROR, 30)
        cluster.eventually(lambda: host.facts().whiteboard.value is LockspaceState.HELD, 60)

    def test_a_hung_daemon_is_unknown_and_blocks_nobody(self, cluster, one):
        self.joined(cluster, one)
        one.hang()
        try:
            # Four calls hang, each since its own moment.
            cluster.eventually(lambda: unknowns(one.facts()) == {"overdue"}, 60)
            took = OwnTime()
            one.leave(0.3)
            assert took.seconds < 3
        finally:
            one.hang(False)
