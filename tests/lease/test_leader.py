"""The holder in a record's first sector."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.lease import leader
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable

LEASE = LeaseId("sd", "key", "/lease", 0)


def sector(
    owner=0, generation=0, timestamp=0, magic=0x06152010, version=0x00060004, size=512, names=(b"sd", b"key"), taken=0
):
    body = struct.pack(
        "<IIIIQQQQQ48s48sQQ", magic, version, 0, size, 2000, 2000, owner, generation, taken, *names, timestamp, 0
    )
    return (body + struct.pack("<I", leader._crc32c(body))).ljust(512, b"\0")


def code(data, size=512):
    with pytest.raises(LeaseUnreadable) as caught:
        leader.owner_in(data, LEASE, size)
    return caught.value.code


# As a running sanlock 3.8.5 wrote it: formatted, never taken.
FORMATTED = bytes.fromhex(
    "10201506040006001000000000020000d007000000000000d007000000000000000000000000000000000000000000000000"
    "00000000000036626463353963642d303863372d343731612d396265312d3564333264373165666437300000000000000000"
    "0000000039623231353039352d333939382d343933312d616137362d65383831373232316661303600000000000000000000"
    "00000000000000000000000000000000000009a24731"
).ljust(512, b"\0")
REAL = LeaseId("6bdc59cd-08c7-471a-9be1-5d32d71efd70", "9b215095-3998-4931-aa76-e8817221fa06", "/lease", 0)


def test_a_record_of_sanlocks_own():
    assert leader.owner_in(FORMATTED, REAL, 512) == LeaseOwner(0)


def test_a_holder():
    assert leader.owner_in(sector(2, 9, 77), LEASE, 512) == LeaseOwner(2, 9, 77)
    assert leader.owner_in(sector(2, 9, 77, size=4096), LEASE, 4096) == LeaseOwner(2, 9, 77)


def test_how_often_it_was_taken_stays_after_a_release():
    assert leader.owner_in(sector(2, 9, 77, taken=12), LEASE, 512).version == 12
    assert leader.owner_in(sector(2, 9, 0, taken=12), LEASE, 512).version == 12
    assert LeaseOwner(2, 9, 77, 12) == LeaseOwner(2, 9, 77, 13)  # no decision hangs on it


@pytest.mark.parametrize(("owner", "timestamp"), [(2, 0), (0, 77), (0, 0)])
def test_nobody(owner, timestamp):
    assert leader.owner_in(sector(owner, 9, timestamp), LEASE, 512) == LeaseOwner(0)


def test_what_is_not_this_leases_record_says_nothing():
    assert code(bytes(512)) == -223
    assert code(sector(magic=5)) == -223
    assert code(sector(version=0x00070004)) == -224
    assert code(sector(names=(b"sd2", b"key"))) == -226
    assert code(sector(names=(b"sd", b"other"))) == -227
    assert code(sector(), 4096) == 22
    assert code(sector()[:511]) == 5


@given(st.integers(0, 171), st.integers(1, 255))
def test_every_changed_byte_is_noticed(place, change):
    damaged = bytearray(sector(2, 9, 77))
    damaged[place] ^= change
    assert code(bytes(damaged)) in (-223, -224, -229)


@given(st.binary(max_size=600))
def test_any_noise_is_unreadable(noise):
    with pytest.raises(LeaseUnreadable):
        leader.owner_in(noise, LEASE, 512)
