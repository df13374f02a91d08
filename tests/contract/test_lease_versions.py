"""Against a running sanlock: the record's version says in which order the lease changed hands."""

from tests.contract.test_lease_reader import DEAD, NAME, cluster, flags, reader, started  # noqa: F401


def test_each_taking_adds_one_and_giving_back_changes_nothing(cluster, reader):  # noqa: F811
    one, two = started(cluster, 1), started(cluster, 2)
    cluster.format(one)
    one.api("add_lockspace", NAME, 1, cluster.places.ids)
    two.api("add_lockspace", NAME, 2, cluster.places.ids)
    seen = [reader.owner()]
    for host in (one, two, one):
        host.take()
        seen.append(reader.owner())
        host.give_back()
        seen.append(reader.owner())
    one.take()
    one.kill()
    cluster.eventually(lambda: flags(two).get(1) == DEAD, 200)
    seen.append(reader.owner())
    two.take()
    seen.append(reader.owner())
    found = [(owner.host_id, owner.version) for owner in seen]
    assert found == [(0, 0), (1, 1), (0, 1), (2, 2), (0, 2), (1, 3), (0, 3), (1, 4), (2, 5)]
