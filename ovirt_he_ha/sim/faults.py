"""What can go wrong, as data: a kind, a moment, a host, a duration, parameters.

Every kind is one function of this module's tables; it breaks something and returns what mends it (or None, where
nothing is to be mended). Kinds combine freely. A *host* is a number, ``engine`` (where the VM is at that moment, or was
last), ``others`` (all but that one), or ``all``.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from ovirt_he_ha.sim.clock import SECOND, ns
from ovirt_he_ha.sim.volume import FOREVER

if TYPE_CHECKING:
    from ovirt_he_ha.sim.host import Host
    from ovirt_he_ha.sim.world import World

Mend = Optional[Callable[[], None]]
HostName = Union[int, str]
NAMES = ("engine", "others", "all")


@dataclass(frozen=True)
class Fault:
    """``at``, ``seconds``: world seconds; ``seconds`` None: for ever (or until something else mends it)."""

    at: float
    kind: str
    host: HostName = 0
    seconds: Optional[float] = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """A number with its range, or a word of a list."""

    default: Any
    low: float = 0.0
    high: float = 0.0
    words: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a kind's function is given. ``until``: the moment at which it is mended."""

    world: "World"
    host: "Host"
    until: int
    values: Mapping[str, Any]

    def number(self, name: str) -> float:
        return float(self.values[name])


@dataclass(frozen=True)
class Kind:
    """``area``: storage, host, daemon, vm, network, operator. ``lasting``: a duration makes sense."""

    name: str
    area: str
    begin: Callable[[Target], Mend]
    parameters: Mapping[str, Parameter]
    lasting: bool
    meaning: str


KINDS: Dict[str, Kind] = {}


def kind(
    name: str, area: str, lasting: bool = True, **parameters: Parameter
) -> Callable[[Callable[[Target], Mend]], Callable[[Target], Mend]]:
    def keep(begin: Callable[[Target], Mend]) -> Callable[[Target], Mend]:
        meaning = " ".join((begin.__doc__ or "").split())
        KINDS[name] = Kind(name, area, begin, parameters, lasting, meaning)
        return begin

    return keep


def schedule(world: "World", fault: Fault) -> None:
    """Let it happen in this world."""
    world.timeline.at(ns(fault.at), lambda: begin(world, fault))


def begin(world: "World", fault: Fault) -> None:
    found = KINDS[fault.kind]
    values = {name: fault.parameters.get(name, parameter.default) for name, parameter in found.parameters.items()}
    until = FOREVER if fault.seconds is None else world.timeline.now + ns(fault.seconds)
    mends: List[Callable[[], None]] = []
    for host in hosts_named(world, fault.host):
        world.note(host.number, f"fault: {fault.kind}" + "".join(f" {k}={v}" for k, v in sorted(values.items())))
        world.began[fault.kind] = world.began.get(fault.kind, 0) + 1
        mend = found.begin(Target(world, host, until, values))
        if mend is not None:
            mends.append(mend)
    if fault.seconds is not None and mends:
        world.timeline.at(until, lambda: _mend(world, fault, mends))


def _mend(world: "World", fault: Fault, mends: List[Callable[[], None]]) -> None:
    world.note(0, f"mended: {fault.kind}")
    for mend in mends:
        mend()


def hosts_named(world: "World", name: HostName) -> List["Host"]:
    if isinstance(name, int):
        return [world.hosts[name or 1]]
    if name == "all":
        return list(world.hosts.values())
    engine = world.engine_host()
    if name == "engine":
        return [engine]
    return [host for host in world.hosts.values() if host is not engine]


def latest(before: int, until: int) -> int:
    return max(before, until)


def left(target: Target) -> float:
    """Seconds until it is mended; an hour stands for ever."""
    return 3600.0 if target.until >= FOREVER else (target.until - target.world.timeline.now) / SECOND
