"""Same seed, same run, byte for byte: whatever the hash seed, the locale, the time zone and the hour are."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import load

ROOT = Path(__file__).resolve().parent.parent.parent
SCENARIOS = ROOT / "tests" / "scenarios"
NAMES = ("cold-start", "storage-hang", "local-maintenance")

PROGRAM = """
import hashlib, sys
from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import load
digest = hashlib.sha256()
for folder in sys.argv[1:]:
    world = run(load(folder)).world
    for note in world.notes:
        digest.update(str(note).encode() + b"\\n")
    for slot, data in sorted(world.volume.slots.items()):
        digest.update(b"%d" % slot + data)
    digest.update(str(world.timeline.events).encode())
print(digest.hexdigest())
"""


def digest(**environment: str) -> str:
    folders = [str(SCENARIOS / name) for name in NAMES]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


def test_the_run_depends_on_nothing_around_it() -> None:
    found = {
        digest(PYTHONHASHSEED="0"),
        digest(PYTHONHASHSEED="4242", LC_ALL="tr_TR.UTF-8", TZ="Asia/Kathmandu"),
        digest(PYTHONHASHSEED="random", LC_ALL="C", TZ="America/St_Johns", PYTHONOPTIMIZE="1"),
    }
    assert len(found) == 1


@pytest.mark.parametrize("name", NAMES)
def test_twice_in_one_process_is_the_same(name: str) -> None:
    def trace() -> str:
        world = run(load(SCENARIOS / name)).world
        return hashlib.sha256("\n".join(map(str, world.notes)).encode()).hexdigest()

    assert trace() == trace()


def test_another_seed_is_another_run() -> None:
    one, two = (run(load(SCENARIOS / "cold-start"), seed=seed).world for seed in (1, 2))
    assert [str(note) for note in one.notes] != [str(note) for note in two.notes]
