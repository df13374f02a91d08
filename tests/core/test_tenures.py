"""The audit of ledgers: a world that respects the lease has no overlap, one forced overlap is found."""

from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovirt_he_ha.core.ledger import LONGEST, Entry, Look, NotALine, decode, encode
from ovirt_he_ha.core.tenures import CLOSED, ORDERED, audit

HOSTS = (1, 2, 3)


@dataclass
class Host:
    """Its clock began at another moment than those of the others: no two can be compared."""

    host_id: int
    offset: float
    boot: int = 1
    generation: int = 1
    lines: List[Entry] = field(default_factory=list)
    seen: Optional[float] = None


class Cluster:
    """The record and the hosts' ledgers; ``now`` is nobody's clock."""

    def __init__(self, offsets=(0.0, 5000.0, -300.0)):
        self.now = 10_000.0
        self.record = (0, 0, 0, 1)
        self.hosts = {h: Host(h, offset) for h, offset in zip(HOSTS, offsets)}

    def take(self, host_id):
        host = self.hosts[host_id]
        self.record = (host_id, host.generation, int(self.now), self.record[3] + 1)

    def release(self):
        self.record = (0, 0, 0, self.record[3])

    def line(self, host_id, kind="lease", **values):
        host = self.hosts[host_id]
        at = self.now + host.offset
        # every host's wall clock is wrong in its own way
        host.lines.append(
            Entry(
                kind,
                host_id,
                f"boot{host.boot}",
                at,
                wall=1e9 * host_id - self.now,
                values=values,
                look=Look(*self.record, at=at),
                own_generation=host.generation,
                seen=host.seen,
                number=len(host.lines) + 1,
            )
        )

    def begins(self, host_id):
        host = self.hosts[host_id]
        host.seen = self.now + host.offset
        self.line(host_id, "vm", vm="here")

    def lives(self, host_id, seconds):
        self.now += seconds
        host = self.hosts[host_id]
        host.seen = self.now + host.offset
        self.line(host_id)

    def ends(self, host_id, how="gone"):
        self.line(host_id, "vm", vm=how)
        self.hosts[host_id].seen = None

    def reboots(self, host_id):
        host = self.hosts[host_id]
        host.boot, host.generation, host.offset, host.seen = host.boot + 1, host.generation + 1, -self.now, None
        self.line(host_id, "begin")
        self.line(host_id, "vm", vm="gone")

    def ledgers(self) -> Dict[int, List[Entry]]:
        return {h: host.lines for h, host in self.hosts.items()}

    def audit(self):
        return audit(self.ledgers())


def run(cluster, host_id, seconds, end):
    """One copy's life as the lease allows it, up to the moment when another host may take it."""
    cluster.take(host_id)
    cluster.begins(host_id)
    cluster.lives(host_id, 12.0)
    cluster.lives(host_id, seconds)
    if end == "stop":
        cluster.release()
        cluster.now += 1.0
        cluster.ends(host_id)
        cluster.now += 6.0
        cluster.line(host_id)
    elif end == "migrate":
        cluster.now += 1.0
    elif end == "reset":
        cluster.now += 160.0


def after(cluster, host_id, end):
    """What the host sees of it once the lease may be elsewhere."""
    cluster.now += 2.0
    if end == "migrate":
        cluster.ends(host_id)
    elif end == "reset":
        cluster.reboots(host_id)


def story(cluster, lives):
    for host_id, seconds, end in lives:
        run(cluster, host_id, seconds, end)
        pending = (host_id, end)
        following = cluster.now
        cluster.take(host_id % len(HOSTS) + 1)
        after(cluster, *pending)
        cluster.release()
        assert cluster.now > following


lives = st.lists(
    st.tuples(st.sampled_from(HOSTS), st.floats(5.0, 5000.0), st.sampled_from(["stop", "migrate", "reset"])),
    min_size=1,
    max_size=6,
)
offsets = st.tuples(*[st.floats(-9000.0, 1e6)] * 3)


@settings(deadline=None)
@given(offsets, lives)
def test_a_world_that_respects_the_lease_has_no_overlap(where, told):
    cluster = Cluster(where)
    story(cluster, told)
    found = cluster.audit()
    assert not found.overlaps and not found.unproved
    assert len(found.tenures) == len(told)


@settings(deadline=None)
@given(offsets, lives, lives, st.sampled_from([(1, 2), (2, 1), (3, 1)]), st.floats(12.0, 900.0))
def test_one_forced_overlap_is_found(where, earlier, later, pair, seconds):
    cluster = Cluster(where)
    story(cluster, earlier)
    one, two = pair
    run(cluster, one, 60.0, "")
    cluster.take(two)  # with its guard gone, and nobody to stop it
    cluster.begins(two)
    cluster.now += 6.0
    cluster.lives(one, 0.0)
    cluster.lives(two, seconds)
    cluster.lives(one, 0.0)
    cluster.now += 1.0
    cluster.ends(one)
    cluster.release()
    cluster.ends(two)
    story(cluster, later)
    found = cluster.audit()
    assert len(found.overlaps) == 1
    assert {entry.host_id for entry in found.overlaps[0].lines} == {one, two}


@pytest.mark.parametrize("seconds", [0.5, 3.0, 4.9])
def test_an_overlap_too_short_for_a_proof_is_not_passed_over(seconds):
    cluster = Cluster()
    run(cluster, 1, 60.0, "")
    cluster.take(2)
    cluster.begins(2)
    cluster.line(1)
    cluster.lives(1, seconds)
    cluster.ends(1)
    found = cluster.audit()
    assert not found.overlaps
    assert [each.code for each in found.unproved] == ["too-close"]


def test_the_wall_clock_says_nothing():
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "stop")])
    same = {h: [replace(entry, wall=5.0) for entry in lines] for h, lines in cluster.ledgers().items()}
    assert not audit(same).overlaps and not audit(same).unproved


def test_how_each_change_is_proved():
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "migrate"), (3, 60.0, "reset"), (1, 60.0, "stop")])
    changes = cluster.audit().changes
    assert [(each.before.host_id, each.after.host_id, each.proof) for each in changes] == [
        (1, 2, CLOSED),
        (2, 3, ORDERED),
        (3, 1, ORDERED),
    ]


def test_without_a_version_nothing_is_in_order():
    cluster = Cluster()
    cluster.record = (0, 0, 0, -1)
    run(cluster, 1, 60.0, "stop")
    assert {each.code for each in cluster.audit().unproved} == {"no-version"}


def test_the_same_version_for_two_hosts_orders_nothing():
    one, two = Cluster(), Cluster()
    run(one, 1, 60.0, "stop")
    run(two, 2, 60.0, "stop")
    found = audit({1: one.hosts[1].lines, 2: two.hosts[2].lines})
    assert {each.code for each in found.unproved} == {"no-order", "written-anew"} and not found.overlaps


@pytest.mark.parametrize("seen", [True, False])
def test_a_lease_written_anew_is_named_and_is_no_overlap(seen):
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop")])
    cluster.record = (0, 0, 0, 1)
    if seen:
        cluster.line(1)
    story(cluster, [(2, 60.0, "stop"), (3, 60.0, "stop"), (3, 60.0, "stop")])
    found = cluster.audit()
    assert not found.overlaps and "written-anew" in {each.code for each in found.unproved}


def test_a_copy_whose_lease_nobody_held():
    cluster = Cluster()
    run(cluster, 1, 60.0, "")
    cluster.release()
    for _ in range(3):
        cluster.lives(1, 10.0)
    assert [each.code for each in cluster.audit().unproved] == ["without-lease"]


def test_what_the_ledgers_do_not_cover_is_named():
    cluster = Cluster()
    story(cluster, [(1, 60.0, "stop"), (2, 60.0, "stop")])
    cluster.take(2)
    cluster.line(1)
    ledgers = cluster.ledgers()
    assert {each.code for each in audit({1: ledgers[1]}).unproved} == {"no-ledger"}
    holed = {**ledgers, 1: ledgers[1][:2] + ledgers[1][3:]}
    assert {each.code for each in audit(holed).unproved} == {"lost-lines"}


# --- lines ----------------------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
counts = st.integers(0, 2**63)
seconds = st.floats(-1e9, 1e12).map(lambda x: round(x, 3))
entries = st.builds(
    Entry,
    st.sampled_from(["state", "vm", "lease", "done"]),
    st.integers(1, 2000),
    texts,
    seconds,
    seconds,
    st.dictionaries(
        texts, st.one_of(texts, st.booleans(), st.integers(-5, 5), st.lists(texts, max_size=3)), max_size=4
    ),
    st.none() | st.builds(Look, st.integers(0, 2000), counts, counts, counts, seconds),
    st.none() | counts,
    st.none() | seconds,
    counts,
)


@given(entries)
def test_a_line_comes_back_as_it_was(entry):
    assert decode(encode(entry)) == entry


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_not(data):
    with pytest.raises(NotALine):
        decode(data)


@given(entries, st.data())
def test_a_torn_line_is_not_a_line(entry, data):
    line = encode(entry).rstrip()
    with pytest.raises(NotALine):
        decode(line[: data.draw(st.integers(0, len(line) - 1))])


def test_a_line_is_bounded_whatever_is_in_it():
    values = {f"k{number}": "\N{SNOWMAN}" * 5000 for number in range(50)}
    line = encode(Entry("vm", 1, "b", 1.0, 2.0, {**values, "vm": "gone"}))
    assert len(line) <= LONGEST and decode(line).values["vm"] == "gone"
