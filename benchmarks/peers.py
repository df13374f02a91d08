"""Slots of hosts that do not exist: as full as those of real ones, and different in every cycle."""

from typing import Dict

from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.core.slot import encode, encode_global

LEASE = (
    "3c0ffee0-0000-4000-8000-000000000001:3c0ffee0-0000-4000-8000-00000000d15c:/rhev/data-center/mnt/storage/lease:0"
)
WALL = 1_700_000_000.0

# What a host of ours publishes while another one runs the VM, about 1,000 bytes of free text.
_EXTRA = (
    ("state", "EngineDown"),
    ("phase", "engine-up-elsewhere"),
    ("mig", "1"),
    ("cpu", "d4f1c0ffee5a"),
    ("mem", "65536"),
    ("gen", "3"),
    ("version", "0.1.0"),
    ("bound.agent-kill", "5"),
    ("bound.broker-kill", "5"),
    ("bound.cold", "112"),
    ("bound.host-loss", "162"),
    ("bound.hung-engine", "120"),
    ("bound.hung-engine-alone", "300"),
    ("bound.libvirtd-kill", "5"),
    ("bound.network-loss", "90"),
    ("bound.sanlock-kill", "162"),
    ("bound.storage-loss", "162"),
    ("bound.vm-crash", "10"),
)


def record(host_id: int, second: int, runs: bool = False, lease: str = LEASE, score: int = 3400) -> Record:
    """``runs``: the healthy engine is there."""
    engine = EngineStatus(Vm.UP, Health.GOOD, "Up") if runs else EngineStatus(Vm.DOWN, Health.BAD, "Down")
    extra = (
        *_EXTRA[:4],
        ("mig.uri", f"10.0.{host_id // 250}.{host_id % 250}"),
        *_EXTRA[4:],
        ("lease", lease),
        ("why.1", f"engine-up-elsewhere host=2 hostname=host2.example.com second={second}"),
        ("why.2", "lease-held host=2 flag=live"),
    )
    return Record(
        host_id=host_id,
        timestamp=second,
        score=score,
        engine=engine,
        hostname=f"host{host_id}.example.com",
        extra=extra,
    )


def slot(host_id: int, second: int, runs: bool = False, lease: str = LEASE) -> bytes:
    """4,096 bytes."""
    return encode(record(host_id, second, runs, lease), WALL)


def slots(count: int, second: int, runner: int = 2, lease: str = LEASE) -> Dict[int, bytes]:
    """Slots 0 to ``count``; host ``runner`` has the healthy engine (0: nobody)."""
    found = {host_id: slot(host_id, second, host_id == runner, lease) for host_id in range(1, count + 1)}
    found[0] = encode_global(False)
    return found
