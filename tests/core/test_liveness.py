"""Who is alive, who is established, and whose turn it is."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import liveness
from ovirt_he_ha.core.model import (
    PAST,
    Carried,
    Empty,
    EngineStatus,
    Health,
    HostFacts,
    HostLease,
    Invalid,
    LeaseFacts,
    LeaseOwner,
    Monitors,
    Reading,
    Record,
    Seen,
    Snapshot,
    Vm,
)
from ovirt_he_ha.core.timers import Timers

TIMERS = Timers()
UP = EngineStatus(Vm.UP, Health.GOOD, "Up")
DOWN = EngineStatus(Vm.DOWN, Health.BAD, "unknown")


def record(host_id, timestamp=1, score=3400, engine=DOWN, **more):
    return Record(host_id, timestamp, score, engine, f"host{host_id}", crc32=f"{timestamp:08x}", **more)


class Watch:
    """Host 1 looking at the cluster: one call per cycle, carrying over what it has seen."""

    def __init__(self, now=1000.0):
        self.now = now
        self.carried = Carried()

    def look(self, slots=(), hosts=None, after=0.0, slots_age=0.0, owner=None, hosts_age=0.0):
        self.now += after
        leases = LeaseFacts(
            hosts=Reading.missing("error") if hosts is None else Reading.of(hosts, hosts_age),
            owner=Reading.missing("error") if owner is None else Reading.of(LeaseOwner(owner)),
        )
        self.leases = leases
        self.snapshot = Snapshot(
            now=self.now,
            wall_offset=0.0,
            host=HostFacts(1, "host1", "boot"),
            slots={slot.host_id: slot for slot in slots} if not isinstance(slots, dict) else slots,
            slots_age=slots_age,
            global_maintenance=Reading.of(False),
            monitors=Monitors(),
            leases=leases,
            carried=self.carried,
        )
        view = liveness.survey(self.snapshot, TIMERS)
        self.carried = replace(self.carried, seen=view.seen)
        return view


def alive_cluster(*records, **facts):
    """All these records changed just now."""
    watch = Watch()
    watch.look([replace(r, timestamp=r.timestamp - 1, crc32="") for r in records])
    return watch.look(records, after=10, **facts), watch


# --- who is known ---------------------------------------------------------------------------------------------------


def test_known_hosts_are_published_or_registered_but_never_ourselves():
    view = Watch().look(
        {0: Invalid("no-record"), 1: record(1), 2: record(2), 3: Invalid("crc"), 4: Empty(), 5: Empty()},
        hosts={1: HostLease.LIVE, 4: HostLease.LIVE, 5: HostLease.FREE, 6: HostLease.UNKNOWN, 7: HostLease.DEAD},
    )
    assert sorted(view.peers) == [2, 3, 4, 6, 7]
    assert view.peers[4].lease is HostLease.LIVE
    assert view.peers[2].lease is None


def test_one_host_alone_has_a_baseline_at_once():
    view = Watch().look([record(1)], hosts={1: HostLease.LIVE})
    assert view.baseline
    assert (view.no_baseline, view.baseline_in, view.alive) == ("", None, ())


# --- alive ----------------------------------------------------------------------------------------------------------


def test_a_change_makes_alive_and_silence_ends_it():
    watch = Watch()
    assert watch.look([record(2)]).alive == ()
    assert watch.look([record(2)], after=10).alive == ()
    assert watch.look([record(2, timestamp=2)], after=10).alive == (2,)
    assert watch.look([record(2, timestamp=2)], after=59).alive == (2,)
    view = watch.look([record(2, timestamp=2)], after=1)
    assert view.alive == ()
    assert view.peers[2].established_by == liveness.CHANGED
    assert view.peers[2].silent_for == 60


def test_a_timestamp_that_goes_back_is_a_change():
    watch = Watch()
    watch.look([record(2, timestamp=90000)])
    assert watch.look([record(2, timestamp=12)], after=10).alive == (2,)


def test_same_second_other_content_is_a_change():
    watch = Watch()
    watch.look([record(2)])
    assert watch.look([replace(record(2), crc32="deadbeef")], after=1).alive == (2,)


def test_stopped_is_not_alive_but_established():
    view, _ = alive_cluster(record(2, stopped=True), record(3))
    assert view.alive == (3,)
    assert view.peers[2].established_by == liveness.STOPPED
    assert Watch().look([record(2, stopped=True)]).baseline


def test_an_unreadable_slot_is_never_alive():
    watch = Watch()
    watch.look([record(2)])
    watch.look([record(2, timestamp=2)], after=10)
    assert watch.look({2: Invalid("crc")}, after=10).alive == ()


def test_an_upstream_peer_without_engine_reading_is_alive():
    view, _ = alive_cluster(record(2, engine=None))
    assert view.alive == (2,)


def test_a_peer_that_vanishes_is_looked_at_anew():
    watch = Watch()
    watch.look([record(2)])
    watch.look([record(2, timestamp=2)], after=10)
    assert watch.look({2: Empty()}, after=10).peers == {}
    assert 2 not in watch.carried.seen
    view = watch.look([record(2, timestamp=2)], after=10)
    assert view.waiting == (2,)
    assert view.alive == ()


# --- established and baseline ---------------------------------------------------------------------------------------


def test_a_first_look_establishes_nobody():
    view = Watch().look([record(2), record(3)], hosts={2: HostLease.LIVE, 3: HostLease.FAIL})
    assert not view.baseline
    assert (view.no_baseline, view.waiting, view.baseline_in) == (liveness.HOSTS_WAITING, (2, 3), 60)


def test_silence_establishes_after_the_limit():
    watch = Watch()
    watch.look([record(2)])
    assert watch.look([record(2)], after=59.9).baseline_in == pytest.approx(0.1)
    view = watch.look([record(2)], after=0.1)
    assert view.baseline
    assert view.peers[2].established_by == liveness.SILENT


@pytest.mark.parametrize("flag", [HostLease.FREE, HostLease.DEAD])
def test_sanlock_establishes_at_once(flag):
    view = Watch().look([record(2)], hosts={2: flag})
    assert view.baseline
    assert view.peers[2].established_by == flag.value


@pytest.mark.parametrize("flag", [HostLease.LIVE, HostLease.FAIL, HostLease.UNKNOWN])
def test_a_registered_host_without_a_slot_needs_silence(flag):
    watch = Watch()
    assert watch.look({}, hosts={2: flag}).waiting == (2,)
    assert watch.look({}, hosts={2: flag}, after=59).waiting == (2,)
    assert watch.look({}, hosts={2: flag}, after=1).baseline


def test_an_old_answer_of_sanlock_establishes_nobody():
    assert not Watch().look([record(2)], hosts={2: HostLease.DEAD}, hosts_age=TIMERS.facts_stale + 1).baseline
    assert Watch().look([record(2)], hosts={2: HostLease.DEAD}, hosts_age=TIMERS.facts_stale).baseline


def test_an_unreadable_slot_is_established_by_silence_or_sanlock_only():
    watch = Watch()
    watch.look([record(2)])
    watch.look({2: Invalid("crc")}, after=10)
    assert watch.look({2: Invalid("crc", "other garbage")}, after=59).waiting == (2,)
    assert watch.look({2: Invalid("json", "other garbage")}, after=1).baseline
    assert Watch().look({2: Invalid("crc")}, hosts={2: HostLease.DEAD}).baseline


def test_garbage_that_changes_does_not_block_for_ever():
    watch = Watch()
    for n in range(7):
        view = watch.look({2: Invalid("crc", str(n))}, after=10)
    assert view.baseline


def test_one_waiting_host_is_enough():
    watch = Watch()
    watch.look([record(2), record(3)])
    view = watch.look([record(2, timestamp=2), record(3)], after=10)
    assert view.waiting == (3,)
    assert not view.baseline


def test_frozen_reads_are_not_silence():
    watch = Watch()
    watch.look([record(2)])
    view = watch.look([record(2)], after=100, slots_age=100)
    assert view.no_baseline == liveness.SLOTS_STALE
    assert view.waiting == (2,)
    view = watch.look([record(2)], after=1, slots_age=20)
    assert view.baseline  # the same bytes after 81 s of reads


def test_the_change_is_dated_by_the_read_that_showed_it():
    watch = Watch()
    watch.look([record(2)])
    watch.look([record(2, timestamp=2)], after=20, slots_age=15)
    assert watch.carried.seen[2].changed_at == watch.now - 15


def test_a_volume_never_read_gives_no_baseline_and_forgets_nothing():
    watch = Watch()
    watch.look([record(2)])
    before = watch.carried.seen
    view = watch.look({}, slots_age=None, after=1000)
    assert (view.no_baseline, view.baseline_in) == (liveness.SLOTS_UNREAD, None)
    assert view.seen is before
    assert liveness.silence(None, 5.0) == 0.0
    assert Watch().look({}, hosts={2: HostLease.LIVE}, slots_age=None).waiting == (2,)


def test_newer_formats_are_named():
    view = Watch().look({2: Invalid("too-new"), 3: Invalid("crc"), 4: record(4)})
    assert view.too_new == (2,)


# --- rank -----------------------------------------------------------------------------------------------------------


def test_rank_is_by_score_then_id():
    view, _ = alive_cluster(record(2, score=3400), record(3, score=3000), record(4, score=3401))
    assert [peer.host_id for peer in view.eligible] == [4, 2, 3]
    assert liveness.rank(1, 3400, view) == 1
    assert liveness.rank(3, 3400, view) == 2
    assert liveness.rank(1, 3402, view) == 0
    assert liveness.rank(1, 1, view) == 3


def test_rank_leaves_out_maintenance_stopped_zero_and_dead():
    peers = [record(2, maintenance=True), record(3, stopped=True), record(4, score=0), record(5)]
    view, watch = alive_cluster(*peers)
    assert liveness.rank(9, 100, view) == 1
    view = watch.look(peers, after=60)
    assert liveness.rank(9, 100, view) == 0
    assert view.eligible == ()


def test_at_score_zero_there_is_a_rank_only_as_a_last_resort():
    view, _ = alive_cluster(record(2, score=0), record(3, score=0, maintenance=True), record(4, score=0, stopped=True))
    assert liveness.rank(1, 0, view) is None
    assert liveness.rank(1, 0, view, last_resort=True) == 0
    assert liveness.rank(9, 0, view, last_resort=True) == 1


def test_the_best_peer_may_have_to_fit():
    view, _ = alive_cluster(record(2), record(3, score=3300), record(4, score=0))
    assert liveness.best_peer(view).host_id == 2
    assert liveness.best_peer(view, lambda peer: peer.host_id != 2).host_id == 3
    assert liveness.best_peer(view, lambda peer: peer.host_id == 4) is None
    assert liveness.best_peer(Watch().look()) is None


def test_two_hosts_agree_on_the_order():
    scores = {1: 3400, 2: 3400, 3: 2000, 4: 3399}
    ranks = {}
    for own in scores:
        watch = Watch()
        peers = [record(h, score=s) for h, s in scores.items() if h != own]
        for timestamp in (1, 2):
            watch.look([replace(r, timestamp=timestamp) for r in peers])
            snapshot = replace(watch.snapshot, host=HostFacts(own, "x", "b"))
            view = liveness.survey(snapshot, TIMERS)
            watch.carried = replace(watch.carried, seen=view.seen)
        ranks[own] = liveness.rank(own, scores[own], view)
    assert ranks == {1: 0, 2: 1, 4: 2, 3: 3}


# --- suppression ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "flag", "owner", "suppressed"),
    [
        (record(2, stopped=True, engine=UP), HostLease.LIVE, 2, 2),
        (record(2, stopped=True), HostLease.LIVE, 2, 2),
        (record(2, stopped=True), HostLease.FAIL, 2, None),
        (record(2, stopped=True), HostLease.DEAD, 2, None),
        (record(2, stopped=True), None, 2, None),
        (record(2, stopped=True), HostLease.LIVE, 0, None),
        (record(2, stopped=True), HostLease.LIVE, 1, None),
        (record(2, stopped=True), HostLease.LIVE, None, None),
        (record(2), HostLease.LIVE, 2, None),
        (Invalid("crc"), HostLease.LIVE, 2, None),
    ],
)
def test_a_clean_stop_suppresses_only_with_lease_and_live(slot, flag, owner, suppressed):
    watch = Watch()
    view = watch.look({2: slot}, hosts=None if flag is None else {2: flag}, owner=owner)
    assert liveness.suppressed_by(view, watch.leases, TIMERS) == suppressed


# --- the engine elsewhere -------------------------------------------------------------------------------------------


def test_engine_ranks():
    statuses = [
        None,
        EngineStatus(Vm.UNKNOWN, Health.UNKNOWN),
        EngineStatus(Vm.DOWN_MISSING, Health.BAD),
        EngineStatus(Vm.UP, Health.BAD, "Paused"),
        EngineStatus(Vm.UP, Health.BAD, "Powering up"),
        UP,
    ]
    assert [liveness.engine_rank(status) for status in statuses] == [0, 0, 1, 2, 3, 4]


def test_the_healthiest_engine_elsewhere_comes_first():
    bad = EngineStatus(Vm.UP, Health.BAD, "Up")
    peers = [
        record(2, engine=bad),
        record(3, engine=UP),
        record(4),
        record(5, engine=UP, stopped=True),
        record(6, engine=UP),
    ]
    view, watch = alive_cluster(*peers)
    assert [peer.host_id for peer in liveness.engine_elsewhere(view)] == [3, 6, 2]
    assert liveness.engine_elsewhere(watch.look(peers, after=60)) == ()


def test_a_peer_that_cannot_be_read_has_no_score():
    peer = Watch().look({2: Invalid("crc")}).peers[2]
    assert (peer.score, peer.record, peer.in_maintenance, peer.eligible) == (0, None, False, False)
    # even if somebody claims that it is alive
    claimed = replace(peer, alive=True)
    view = liveness.Survey({2: claimed}, {2: Seen("invalid", 0.0)})
    assert liveness.engine_elsewhere(view) == ()


def test_s3_a_slot_that_goes_back_in_time_is_no_sign_of_life():
    """Storage that shows now this copy, now that one: the host behind it may be dead for hours."""
    watch = Watch()
    watch.look([record(2, 100)])
    assert watch.look([record(2, 110)], after=10).alive == (2,)
    for turn in range(40):
        view = watch.look([record(2, 100 if turn % 2 else 110)], after=10)
    assert view.alive == ()
    assert view.peers[2].silent_for >= TIMERS.liveness_limit


def test_a_host_that_goes_on_after_its_slot_went_back_is_alive():
    watch = Watch()
    watch.look([record(2, 100)])
    for timestamp in (110, 100, 110, 100):
        watch.look([record(2, timestamp)], after=30)
    assert watch.look([record(2, 120)], after=10).alive == (2,)


def test_a_host_that_was_started_again_counts_from_zero_and_is_alive():
    watch = Watch()
    watch.look([record(2, 5000)])
    assert watch.look([record(2, 10)], after=10).alive == (2,)


def test_what_is_remembered_of_a_slot_is_bounded():
    watch = Watch()
    for turn in range(100):
        watch.look([record(2, turn)], after=10)
    assert len(watch.carried.seen[2].past) == PAST
