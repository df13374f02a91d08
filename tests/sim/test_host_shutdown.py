"""An orderly shutdown of a simulated host: who ends it, who calls it off, and what is there after the next boot."""

from typing import Callable

from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.run import laboratory
from ovirt_he_ha.sim.world import ClusterSpec, World


def until(world: World, holds: Callable[[], bool], limit: float = 100.0) -> None:
    end = world.now + limit
    while not holds():
        assert world.now < end
        world.run(world.now + 0.1)


def going_down(world: World) -> Host:
    """Host 2, without the VM, at the moment at which its daemons have ended and its power has not."""
    world.run(60.0)
    host = world.hosts[2]
    host.go_down(600.0)
    until(world, lambda: host.agent is None)
    assert host.power
    return host


def test_one_that_is_called_off_in_its_last_second_leaves_the_host_on() -> None:
    with laboratory():
        world = World(ClusterSpec(hosts=2), 1)
        host = going_down(world)
        host.goes_down_at = None
        world.run(world.now + 5.0)
        assert host.power


def test_after_the_next_boot_the_daemons_start_by_themselves() -> None:
    with laboratory():
        world = World(ClusterSpec(hosts=2), 1)
        host = going_down(world)
        until(world, lambda: not host.power, 5.0)
        host.switch_on()
        until(world, lambda: host.agent is not None and host.broker is not None, 10.0)
        assert host.goes_down_at is None
