"""The lease's holder as we read it from the volume, beside sanlock's own answer in the same moment: free, held here and
there, left by a dead host, taken over, given back, of a host that came back, and damaged."""

import os
import struct
import time

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseOwner
from ovirt_he_ha.lease.leader import _crc32c
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from ovirt_he_ha.storage.lease_reader import LeaseReader
from tests.contract.sanlock_cluster import KEY, NAME, RealCluster, Refused, missing

pytestmark = pytest.mark.contract
DEAD = 5


@pytest.fixture
def cluster(tmp_path):
    if missing():
        pytest.skip(missing())
    made = RealCluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(cluster):
    made = LeaseReader(cluster.places.lease, SystemClock(1.0))
    yield made
    made.rest()


def started(cluster, number):
    host = cluster.host(number)
    host.start()
    return host


def sanlocks(host):
    found = host.api("read_resource_owners", NAME, KEY.encode(), host.places.disks)
    assert len(found) <= 1
    first = found[0] if found else {"host_id": 0, "generation": 0, "timestamp": 0}
    return LeaseOwner(first["host_id"], first["generation"], first["timestamp"])


def agreed(host, reader):
    """Both answers of one moment: nobody writes the record meanwhile but a test."""
    ours = reader.owner()
    assert ours == sanlocks(host)
    return ours.host_id, ours.generation


def test_every_holder_is_the_one_that_sanlock_names(cluster, reader):
    one, two = started(cluster, 1), started(cluster, 2)
    cluster.format(one)
    assert agreed(one, reader) == (0, 0)
    one.api("add_lockspace", NAME, 1, cluster.places.ids)
    two.api("add_lockspace", NAME, 2, cluster.places.ids)
    assert agreed(two, reader) == (0, 0)
    one.take()
    assert agreed(one, reader) == agreed(two, reader) == (1, 1)
    one.kill()
    assert agreed(two, reader) == (1, 1)  # a dead host's record stays
    cluster.eventually(lambda: flags(two).get(1) == DEAD, 200)
    two.take()
    assert agreed(two, reader) == (2, 1)
    two.give_back()
    assert agreed(two, reader) == (0, 0)
    one.start()
    one.api("add_lockspace", NAME, 1, cluster.places.ids)
    one.take()
    assert agreed(two, reader) == (1, 2)


def flags(host):
    try:
        return {each["host_id"]: each["flags"] for each in host.api("get_hosts", NAME)}
    except Refused:
        return {}


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_both_sector_sizes(cluster, reader, sector_size):
    one = started(cluster, 1)
    layout = {"align": 1 << 20, "sector": sector_size}
    one.api("write_lockspace", NAME, cluster.places.ids, **layout)
    one.api("write_resource", NAME, KEY.encode(), cluster.places.disks, **layout)
    one.api("add_lockspace", NAME, 1, cluster.places.ids)
    one.take()
    reader.use_sector_size(sector_size)
    assert reader.owner().host_id == 1
    reader.use_sector_size(4608 - sector_size)
    with pytest.raises(LeaseUnreadable):
        reader.owner()


def put(path, record, place=None, form="", value=0, whole=True):
    """``record`` with one field changed, and its checksum made good again."""
    data = bytearray(record)
    if place is not None:
        struct.pack_into(form, data, place, value)
    if whole:
        struct.pack_into("<I", data, 168, _crc32c(bytes(data[:168])))
    handle = os.open(path, os.O_WRONLY)
    os.pwrite(handle, data, 0)
    os.fsync(handle)
    os.close(handle)


def verdicts(host, reader):
    try:
        theirs = sanlocks(host)
    except Refused as refused:
        theirs = refused.code
    try:
        return theirs, reader.owner()
    except LeaseUnreadable as problem:
        return theirs, problem.code


def test_damaged_records_are_unreadable_for_the_same_reason(cluster, reader):
    one = started(cluster, 1)
    cluster.format(one)
    path = cluster.places.lease.path
    with open(path, "rb") as file:
        record = file.read(512)
    cases = [
        ("no magic", {"place": 0, "form": "<I", "value": 5}),
        ("another major version", {"place": 4, "form": "<I", "value": 0x00070004}),
        ("another minor version", {"place": 4, "form": "<I", "value": 0x00060009}),
        ("sectors of 4096", {"place": 12, "form": "<I", "value": 4096}),
        ("owner without timestamp", {"place": 32, "form": "<Q", "value": 2}),
        ("timestamp without owner", {"place": 152, "form": "<Q", "value": 77}),
        ("checksum", {"place": 32, "form": "<Q", "value": 2, "whole": False}),
        ("lockspace", {"place": 56, "form": "<c", "value": b"x"}),
        ("resource", {"place": 104, "form": "<c", "value": b"x"}),
    ]
    seen = set()
    for name, change in cases:
        put(path, record, **change)
        theirs, ours = verdicts(one, reader)
        assert theirs == ours, name
        seen.add(ours)
    assert seen == {-223, -224, 22, LeaseOwner(0), -229, -226, -227}
    put(path, bytes(512), whole=False)
    theirs, ours = verdicts(one, reader)
    assert theirs == 22  # it looks for the sector size first
    assert ours == -223


def test_a_look_reads_one_sector(cluster, reader):
    """sanlock's own reads 1 MiB, which is why there is ours."""
    one = started(cluster, 1)
    cluster.format(one)
    reader.owner()
    pid = reader._worker._process.popen.pid
    before = counted(pid)
    for _ in range(5):
        reader.owner()
    assert counted(pid) - before <= 5 * 512
    before = counted(one.daemon.pid)
    sanlocks(one)
    until = time.monotonic() + 5
    while counted(one.daemon.pid) - before < 1 << 20 and time.monotonic() < until:
        time.sleep(0.01)
    assert counted(one.daemon.pid) - before >= 1 << 20


def counted(pid):
    """Bytes that a process has read from the storage."""
    with open(f"/proc/{pid}/io") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["read_bytes"])
