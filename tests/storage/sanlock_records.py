"""sanlock's structures as bytes, so that a test needs no daemon (tests/contract compares them with sanlock's own)."""

import struct

from ovirt_he_ha.lease.leader import _crc32c

_HEAD = struct.Struct("<IIIIQQQQQ48s48sQQ")
HOST, RESOURCE = (0x12212010, 0x30004), (0x06152010, 0x60004)


def sector(kind, lockspace, name="", owner=0, generation=0, timestamp=0, sector_size=512):
    magic, version = kind
    hosts = (0, 1) if kind == HOST else (2000, 2000)
    head = _HEAD.pack(
        magic, version, 0x10, sector_size, *hosts, owner, generation, 0, lockspace.encode(), name.encode(), timestamp, 0
    )
    return (head + struct.pack("<I", _crc32c(head[:168]))).ljust(sector_size, b"\0")


def lockspace(sd_uuid, generations=None, sector_size=512, hosts=250):
    """``generations``: host id -> generation."""
    given = generations or {}
    return b"".join(
        sector(HOST, sd_uuid, owner=number, generation=given.get(number, 0), sector_size=sector_size)
        for number in range(1, hosts + 1)
    )


def put(path, data, offset=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def write_identity(domain, image, volume, generations=None, sector_size=512):
    """Into a domain as ``create_domain`` makes it: what sanlock would have written."""
    put(domain.ids_path, lockspace(domain.sd_uuid, generations, sector_size))
    lease = domain.lease(image, volume)
    put(lease.path, sector(RESOURCE, lease.lockspace, lease.key, sector_size=sector_size), lease.offset)
