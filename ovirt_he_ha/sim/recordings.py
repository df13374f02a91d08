"""The agents of a simulated cluster record as real ones do: what a run shows can be replayed, and compared."""

from pathlib import Path
from typing import Callable, Optional

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.recorder import Recorder
from ovirt_he_ha.agent.ring import SHARE, Ring
from ovirt_he_ha.core.model import Decision
from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.world import World

LIMIT = 64 << 20  # bytes per host: the longest scenario whole


def record(world: World, directory: Path, limit: int = LIMIT) -> None:
    """Every agent of ours records from its next cycle on, in ``directory``/host<N>, each life in a segment of its own.
    Raises OSError if the directory cannot be made."""
    directory.mkdir(parents=True, exist_ok=True)
    tell = world.decided

    def decided(host: Host, cycle: Cycle, decision: Decision) -> None:
        if cycle.recorder is None and cycle.before is not None:
            ring = Ring(directory / f"host{host.number}", limit)
            cycle.recorder = Recorder(ring, limit // SHARE)
            cycle.recorder.record(cycle.before, decision, cycle.timers, cycle.collector.raw_slots)
        tell(host, cycle, decision)

    world.decided = decided  # type: ignore[method-assign]


def recording_to(directory: Optional[Path], name: str) -> Callable[[World], None]:
    """A tweak for ``run``: record below ``directory``/``name``; nothing if it is None."""

    def tweak(world: World) -> None:
        if directory is not None:
            record(world, directory / name)

    return tweak
