"""Every named scenario, run."""

from pathlib import Path

import pytest

from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import FILE, load
from tests.sim.announcements import Announcements

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"
NAMES = sorted(path.parent.name for path in FOLDER.glob(f"*/{FILE}"))


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name: str) -> None:
    announced = Announcements()
    result = run(load(FOLDER / name), tweak=announced.tweak)
    assert result.world.crash is None, result.world.crash
    assert result.complaints == []
    assert announced.complaints == [], "an order that its host had not announced"
