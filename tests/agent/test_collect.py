from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.agent.collect import Collector, Identity, PublishClock, SlotMemo, Workers, decode_slots, global_flag
from ovirt_he_ha.agent.definition_source import Effective
from ovirt_he_ha.broker.protocol import BrokerSnapshot, PublishFacts, StorageFacts
from ovirt_he_ha.config.files import AgentConf, save_ha_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Carried, Empty, Invalid, LeaseId, Record, Snapshot
from tests.agent.clocks import ManualClock

LEASE = LeaseId("sd", "vol", "/sd/vol.lease", 0)
RECORD = Record(2, 4242, 3400, None, "host2", extra=(("state", "EngineDown"),))


class Bench:
    def __init__(self, tmp_path: Path, facts: Optional[BrokerSnapshot] = None, uri: str = "") -> None:
        self.facts = facts or BrokerSnapshot(
            slots_age=1.0, storage=StorageFacts("ok", 1.0), slots={0: slot.encode_global(True)}
        )
        self.clock = ManualClock()
        self.ha_conf = tmp_path / "ha.conf"
        self.effective = Effective("<domain/>", 2048, 900, "", "")
        self.published = PublishClock()
        identity = Identity(1, "h1", "boot", LEASE, AgentConf(migration_address="10.0.0.1", migration_uri=uri), "1.0")
        self.host_shutdown: Optional[float] = None
        workers = Workers(
            lambda: self.effective,
            lambda: None,
            lambda: "killing",
            lambda: "cpu-1",
            host_shutdown=lambda: self.host_shutdown,
        )
        self.collector = Collector(lambda: self.facts, identity, self.ha_conf, workers, self.clock, self.published)

    def collect(self) -> Snapshot:
        return self.collector.collect(Carried())


def test_everything_of_one_moment_is_in_the_snapshot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    snapshot = bench.collect()
    assert snapshot.now == bench.clock.now
    assert snapshot.wall_offset == 1_700_000_000
    assert snapshot.host.memory_needed == 2048
    assert snapshot.host.lease == LEASE
    assert snapshot.host.can_migrate
    assert snapshot.host.cpu_model == "cpu-1"
    assert snapshot.fencing == "killing"
    assert snapshot.global_maintenance.value is True


def test_a_whole_uri_is_published_instead_of_the_address(tmp_path: Path) -> None:
    assert Bench(tmp_path).collect().host.migration_address == "10.0.0.1"
    uri = "qemu+tls://h1.example/system"
    assert Bench(tmp_path, uri=uri).collect().host.migration_address == uri


def test_a_refused_definition_cannot_receive_the_vm(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.effective = Effective("", 0, 900, "no-lease", "no <lease>")
    assert bench.collect().host.definition_problem == "no-lease"
    assert not bench.collect().host.can_migrate


def test_s5_local_maintenance_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ha_conf.write_text("local_maintenance=perhaps\n")
    assert not bench.collect().host.local_maintenance.known


def test_local_maintenance_and_its_reason_are_read_each_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.collect().host.local_maintenance.value is False
    save_ha_conf(bench.ha_conf, local_maintenance=False, manual=True, reason="disks")
    host = bench.collect().host
    assert host.local_maintenance.value is True
    assert host.maintenance_reason == "disks"


def test_no_ha_conf_is_no_maintenance(tmp_path: Path) -> None:
    assert Bench(tmp_path).collect().host.local_maintenance.value is False


@pytest.mark.parametrize("age", [None, 61.0])
def test_s5_a_flag_that_was_not_read_lately_is_unknown(age: Optional[float]) -> None:
    facts = BrokerSnapshot(slots_age=age, slots={0: slot.encode_global(False)})
    assert not global_flag(facts).known


def test_a_global_slot_that_was_never_written_is_no_maintenance() -> None:
    assert global_flag(BrokerSnapshot(slots_age=1.0, slots={0: bytes(4096)})).value is False


def test_s5_a_global_slot_that_the_broker_does_not_show_is_unknown() -> None:
    assert not global_flag(BrokerSnapshot(slots_age=1.0)).known


def test_s5_a_broken_global_slot_is_unknown() -> None:
    assert not global_flag(BrokerSnapshot(slots_age=1.0, slots={0: b"\xff" * 4096})).known


def test_a_slot_is_late_only_after_thirty_seconds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.collect().publish_failed_for is None
    bench.published.written_at = bench.clock.now - 31
    assert bench.collect().publish_failed_for == 31
    bench.published.written_at = bench.clock.now - 29
    assert bench.collect().publish_failed_for is None


@pytest.mark.parametrize(
    "storage, publish, problem",
    [
        (StorageFacts("ok"), PublishFacts(), ""),
        (StorageFacts("read-only"), PublishFacts(), "read-only"),
        (StorageFacts("ok"), PublishFacts(problem="overdue", overwritten=True), "overdue"),
    ],
)
def test_the_state_of_the_volume_has_a_name(
    tmp_path: Path, storage: StorageFacts, publish: PublishFacts, problem: str
) -> None:
    snapshot = Bench(tmp_path, BrokerSnapshot(storage=storage, publish=publish)).collect()
    assert snapshot.storage_problem == problem
    assert snapshot.overwritten == publish.overwritten


@given(st.dictionaries(st.integers(1, 2000), st.binary(min_size=4096, max_size=4096), max_size=3))
def test_s6_one_bad_slot_is_one_bad_host(noise: Dict[int, bytes]) -> None:
    good = slot.encode(RECORD, 0.0)
    slots = decode_slots(MappingProxyType({**noise, 2: good}))
    assert isinstance(slots[2], Record)
    assert all(isinstance(value, (Record, Invalid, Empty)) for value in slots.values())


SLOTS = st.sampled_from(
    [
        slot.encode(RECORD, 0.0),
        slot.encode(RECORD, 0.0)[:600],
        slot.encode(RECORD, 0.0)[:-1] + b"x",
        slot.encode(Record(2, 4243, 0, None, "host2"), 0.0),
        bytes(4096),
        bytes(512),
        bytes(100),
        b"noise",
        b"x" * 4096,
    ]
)


@given(st.lists(st.dictionaries(st.integers(0, 4), SLOTS), max_size=8))
def test_a_memory_of_slots_changes_nothing(reads: List[Dict[int, bytes]]) -> None:
    memo = SlotMemo()
    for raw in reads:
        assert memo.decode(raw) == decode_slots(raw)


def test_a_slot_with_the_same_bytes_is_decoded_once() -> None:
    memo, data = SlotMemo(), slot.encode(RECORD, 0.0)
    first = memo.decode({2: data})[2]
    assert memo.decode({2: bytes(bytearray(data))})[2] is first
    assert memo.decode({}) == {}
    assert memo.decode({2: data})[2] == first


def test_words_of_an_earlier_global_maintenance_are_not_told_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ha_conf.write_text("global_maintenance_reason=switch\nglobal_maintenance_since=1699999000\n")
    bench.facts = replace(bench.facts, slots={0: slot.encode_global(True)}, slots_age=0.0)
    assert bench.collect().host.global_reason == "switch"
    bench.facts = replace(bench.facts, slots={0: slot.encode_global(False)})
    assert bench.collect().host.global_since == 0
    bench.facts = replace(bench.facts, slots={0: slot.encode_global(True)})
    assert (bench.collect().host.global_reason, bench.collect().host.global_since) == ("", 0)


def test_a_host_that_goes_down_counts_as_in_maintenance(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.collect().host.leave_by is None
    bench.host_shutdown = 40.0
    found = bench.collect()
    assert found.host.local_maintenance.value is True and found.host.leave_by == found.now + 40.0
    assert found.host.maintenance_reason
    bench.ha_conf.write_text("local_maintenance=True\nlocal_maintenance_reason=disks\n")
    assert bench.collect().host.maintenance_reason == "disks"
