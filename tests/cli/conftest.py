from typing import Iterator

import pytest

from ovirt_he_ha.cli import waiting
from tests.cli.world import World


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A deployed host without a running broker."""
    world = World()
    monkeypatch.setenv("OVIRT_HE_ROOT", str(world.root))
    monkeypatch.delenv("HOSTED_ENGINE_TRACE", raising=False)
    monkeypatch.setattr(waiting, "PAUSE", 0.005)  # this broker says at once that something has changed
    yield world
    world.close()


@pytest.fixture
def world(host: World) -> World:
    """A deployed host with its broker."""
    host.start_broker()
    return host
