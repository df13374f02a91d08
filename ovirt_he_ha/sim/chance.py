"""Random worlds and faults: a seed makes a scenario, always the same one.

A world has a time of troubles, in which faults of all kinds begin and end and overlap, then everything is healed, and
then the engine has to come back. What would break the lease by itself, whatever the agents do, is left out; each such
limit stands beside its kind below.
"""

from dataclasses import dataclass
from random import Random
from typing import Any, Dict, List, Optional, Tuple

from ovirt_he_ha.sim import move
from ovirt_he_ha.sim.faults import KINDS, Fault, HostName
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.world import ClusterSpec

# Hosts of a world, and how many of 1,000 worlds have so many.
SIZES = ((1, 1, 40), (2, 2, 280), (3, 3, 380), (4, 4, 185), (5, 8, 75), (9, 16, 30), (17, 60, 8), (61, 250, 2))
MIXED = 0.25  # share of the worlds with hosts of oVirt's own
COLD = 0.2
BEGIN = 20.0  # seconds before the first fault
LAST_WORD = 40.0  # seconds from the last new fault to the healing, at least
MOMENTS = (1.0, 3.0, 8.0, 15.0, 30.0, 45.0, 60.0, 90.0, 150.0, 220.0, 400.0)


@dataclass(frozen=True)
class Habit:
    """How often a kind is drawn (1 is usual), and its limits. ``longest``: seconds. ``ours``: only hosts that never run
    oVirt's own daemons. ``alone``: one host at a time."""

    weight: float = 1.0
    longest: float = 400.0
    ours: bool = False
    alone: bool = False


HABITS: Dict[str, Habit] = {
    "agent-kill": Habit(1.5),
    "agent-stop": Habit(1.5),
    "broker-kill": Habit(1.5),
    "host-off": Habit(2.0, 600.0),
    "host-reset": Habit(1.5),
    "host-shutdown": Habit(1.5, 600.0),  # one that ends before the VM has left was called off
    "host-stun": Habit(1.5, 300.0),
    "host-suspend": Habit(),
    # sanlock that comes back beside a running copy frees its lease when somebody joins anew. oVirt's own do, ours kill
    # the copy first.
    "sanlock-kill": Habit(1.5, ours=True),
    "sanlock-hang": Habit(1.0),
    "storage-hang": Habit(2.0),
    "storage-error": Habit(1.5),
    "lease-hang": Habit(1.5),
    "lease-error": Habit(1.0),
    "network-loss": Habit(1.5),
    "vm-crash": Habit(2.5),
    "vm-pause": Habit(1.5),
    "guest-panic": Habit(1.0),
    "migration-fails": Habit(1.5),
    "local-maintenance": Habit(2.5),
    "global-maintenance": Habit(1.0, 300.0),
    "hand-start": Habit(1.0),
    "hand-migrate": Habit(1.5),
    # Between 61 s at best (a reset) and two joins under a foreign id.
    "wrong-host-id": Habit(0.7, 400.0, ours=True),
    # Without a watchdog nothing ends a copy whose agent and sanlock are both gone.
    "watchdog-gone": Habit(0.5, ours=True, alone=True),
    "monitor-frozen": Habit(0.3),
    "vdsm-down": Habit(0.5),
    "upgrade": Habit(1.0),
    "zeroed": Habit(0.5),
    # The others are usual. A kind that is not in this table is for named stories only.
    **{
        name: Habit()
        for name in (
            "agent-hang", "bit-rot", "bridge-down", "broker-hang", "broker-stop", "clean-metadata", "cpu-load",
            "definition-broken", "events-late", "events-lost", "foreign-write", "ghost-writes", "guest-off",
            "hand-shutdown", "ignores-shutdown", "libvirtd-hang", "libvirtd-kill", "line-rot", "lockspace-removed",
            "lost-writes", "memory-low", "migration-network-loss", "never-boots", "page-bad", "page-flaps", "page-slow",
            "probes-unknown", "slots-hang", "slots-read-error", "slots-write-error", "slow-host", "stale-reads",
            "start-fails", "storage-slow", "torn-writes", "vm-deaf", "volume-missing", "wall-clock",
        )
    },
}  # fmt: skip
# What only hosts of oVirt's own have.
THEIRS = ("monitor-frozen", "vdsm-down", "upgrade")


def scenario(seed: int) -> Scenario:
    """The world of that seed; its last fault is the healing of everything."""
    random = Random(f"swarm:{seed}")
    cluster = _cluster(random)
    trouble = _duration(random, cluster.hosts)
    heal = round(BEGIN + trouble + LAST_WORD, 3)
    faults = sorted(_faults(random, cluster, heal), key=lambda fault: fault.at)
    return Scenario(
        name=f"swarm-{seed}",
        about=f"The world of seed {seed}.",
        cluster=cluster,
        faults=(*faults, Fault(heal, "heal", "all")),
        expect=(),
        length=heal,
        seed=seed,
    )


# --- the cluster ------------------------------------------------------------------------------------------------------


def _cluster(random: Random) -> ClusterSpec:
    hosts = _size(random)
    warm = random.random() >= COLD
    each = {number: _host(random) for number in range(1, hosts + 1)}
    if hosts > 1 and random.random() < MIXED:
        _mix(random, each)
    io_timeout, watchdog = random.choice(((10, 60),) * 8 + ((5, 30), (15, 60)))
    return ClusterSpec(
        hosts=hosts,
        warm=warm,
        engine_on=random.randint(1, hosts) if warm and random.random() < 0.95 else 0,
        io_timeout=io_timeout,
        watchdog=watchdog,
        guest_boot=float(random.choice((5, 20, 40, 40, 40, 80, 150))),
        memory_mib=random.choice((1024, 4096, 4096, 8192)),
        skew=round(random.choice((0.5, 5.0, 5.0, 30.0, 90.0)), 3),
        each={number: spec for number, spec in each.items() if spec},
    )


def _size(random: Random) -> int:
    drawn = random.randrange(1000)
    for low, high, share in SIZES:
        if drawn < share:
            return random.randint(low, high)
        drawn -= share
    return 3


def _host(random: Random) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    if random.random() < 0.15:
        found["rate"] = round(1.0 + (random.random() - 0.5) * 0.006, 6)
    if random.random() < 0.15:
        found["jitter"] = round(random.random() * 4.0, 3)
    if random.random() < 0.15:
        found["latency"] = round(random.choice((0.0005, 0.02, 0.2)), 4)
    if random.random() < 0.1:
        found["migrates"] = False
    if random.random() < 0.1:
        found["conditions"] = {"cpu_load": round(random.random(), 3)}
    if random.random() < 0.2:
        found["boot"] = float(random.choice((25, 120, 240)))
    return found


def _mix(random: Random, each: Dict[int, Dict[str, Any]]) -> None:
    theirs = random.sample(sorted(each), random.randint(1, len(each) - 1))
    for number in sorted(theirs):
        each[number]["upstream"] = True


# --- the troubles -----------------------------------------------------------------------------------------------------


def _duration(random: Random, hosts: int) -> float:
    """Virtual seconds of troubles: what a world costs grows with the square of its hosts."""
    if hosts <= 4:
        return float(random.choice((120, 200, 300, 300, 400, 600, 900)))
    if hosts <= 16:
        return float(random.choice((120, 200, 300)))
    return 120.0 if hosts <= 60 else 40.0


def _faults(random: Random, cluster: ClusterSpec, heal: float) -> List[Fault]:
    span = heal - BEGIN - LAST_WORD
    count = 1 + min(int(random.expovariate(1 / (1.0 + span / 90.0))), 14)
    theirs = [number for number, spec in sorted(cluster.each.items()) if spec.get("upstream")]
    names = [name for name in sorted(HABITS) if theirs or name not in THEIRS]
    weights = [HABITS[name].weight for name in names]
    found = [_fault(random, name, cluster, heal) for name in random.choices(names, weights, k=count)]
    return [fault for fault in found if fault is not None]


def _fault(random: Random, name: str, cluster: ClusterSpec, heal: float) -> Optional[Fault]:
    host = _target(random, name, cluster)
    if host is None:
        return None
    at = round(BEGIN + random.random() * (heal - BEGIN - LAST_WORD), 3)
    return Fault(at, name, host, _seconds(random, name, heal - at), _parameters(random, name, cluster))


def _seconds(random: Random, name: str, left: float) -> Optional[float]:
    """All is over when all is healed. Some daemons' end without duration is systemd's affair."""
    if not KINDS[name].lasting:
        return None
    if name in ("agent-kill", "broker-kill", "libvirtd-kill") and random.random() < 0.5:
        return None
    longest = min(HABITS[name].longest, left)
    return round(min(random.choice(MOMENTS) * (0.7 + 0.6 * random.random()), longest), 3)


def _target(random: Random, name: str, cluster: ClusterSpec) -> Optional[HostName]:
    habit = HABITS[name]
    hosts = list(range(1, cluster.hosts + 1))
    theirs = [number for number in hosts if cluster.each.get(number, {}).get("upstream")]
    if name in THEIRS:
        return random.choice(theirs)
    if habit.ours and theirs:
        return random.choice([number for number in hosts if number not in theirs])
    if habit.ours and habit.alone:
        return random.choice(hosts)
    drawn = random.random()
    if drawn < 0.4:
        return "engine"
    if drawn < 0.47:
        return "others"
    return "all" if drawn < 0.53 else random.choice(hosts)


_NUMBERS: Dict[str, Tuple[float, ...]] = {
    "storage-slow": (0.05, 0.5, 1.5, 4.0, 6.0),
    "slow-host": (1.0, 4.0, 9.0, 12.0),
    "wall-clock": (-86400.0, -3.0, 3600.0, 1e8),
    "cpu-load": (0.5, 0.8, 0.95, 1.0),
    "memory-low": (0, 512, 2048),
    "network-loss": (0.0, 0.0, 0.2, 0.6, 0.8),
    "bit-rot": (1, 3, 64),
    "page-flaps": (3.0, 20.0, 90.0, 200.0),
    "page-slow": (0.5, 4.0, 8.0, 30.0),
    "events-late": (0.5, 3.0, 12.0, 20.0),
    "host-shutdown": (60.0, 150.0, 600.0),
}
_OF_HOSTS = ("slot", "id", "to")


def _parameters(random: Random, name: str, cluster: ClusterSpec) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, parameter in sorted(KINDS[name].parameters.items()):
        if name == "migration-fails":
            found[key] = random.choice(move.WAYS)
        elif parameter.words:
            found[key] = random.choice(parameter.words)
        elif key in _OF_HOSTS:
            found[key] = float(random.choice(_slots(name, cluster.hosts)))
        elif name in _NUMBERS:
            found[key] = float(random.choice(_NUMBERS[name]))
    return found


def _slots(name: str, hosts: int) -> List[int]:
    """Host numbers, for damage also slot 0 and one that nobody uses."""
    numbers = list(range(1, hosts + 1))
    return numbers if name in ("hand-migrate", "wrong-host-id", "clean-metadata") else [-1, -1, 0, hosts + 3, *numbers]
