"""The observer reads the leader record itself; sanlock's own tool must agree."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ovirt_he_ha.lab.lease_record import LeaderReader, parse_leader

needs_sanlock = pytest.mark.skipif(shutil.which("sanlock") is None, reason="sanlock is not installed")


def record(owner: int, generation: int, timestamp: int, magic: int = 0x06152010) -> bytes:
    head = struct.pack("<IIIIQQQQQ", magic, 0x00060002, 0, 512, 2000, 2000, owner, generation, 5)
    return (head + b"space".ljust(48, b"\0") + b"name".ljust(48, b"\0") + struct.pack("<Q", timestamp)).ljust(
        512, b"\0"
    )


def test_held_and_free() -> None:
    held, free = parse_leader(record(3, 7, 1234)), parse_leader(record(3, 7, 0))
    assert held is not None
    assert free is not None
    assert (held.owner, held.generation, held.version) == (3, 7, 5)
    assert free.owner == 0


@pytest.mark.parametrize("data", [b"", b"\0" * 512, record(1, 1, 1, magic=0x12212010), record(1, 1, 1)[:100]])
def test_no_leader(data: bytes) -> None:
    assert parse_leader(data) is None


@needs_sanlock
def test_agrees_with_sanlock(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.write_bytes(b"\0" * 1024 * 1024)
    resource = f"space:name:{path}:0"
    subprocess.run(["sanlock", "direct", "init", "-r", resource], check=True, capture_output=True)
    leader = LeaderReader(str(path)).read()
    told = subprocess.run(
        ["sanlock", "direct", "read_leader", "-r", resource], check=True, capture_output=True, text=True
    )
    fields = dict(line.split(maxsplit=1) for line in told.stdout.splitlines() if len(line.split()) == 2)
    assert leader is not None
    assert (leader.owner, leader.generation, leader.version) == (
        int(fields["owner_id"]) if int(fields["timestamp"]) else 0,
        int(fields["owner_generation"]),
        int(fields["lver"]),
    )
