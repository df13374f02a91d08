"""A real cluster as it was found at one moment: the document of ``hosted-engine --simulate --snapshot``, read and
judged. What a document cannot tell is assumed, and every assumption is a sentence.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple, Union

from ovirt_he_ha import __version__
from ovirt_he_ha.core.model import MAX_HOST_ID, Health, HostLease, ScoreConfig, Vm
from ovirt_he_ha.sim.scenario import MOST_HOSTS, Reader, ScenarioError

FORMAT = "ovirt-he-ha cluster"
VERSION = 1
BOOT = 120.0  # seconds, where no start of the VM was measured: a large appliance on slow storage needs as long
_LIVE, _FAIL, _DEAD, _FREE = (each.value for each in (HostLease.LIVE, HostLease.FAIL, HostLease.DEAD, HostLease.FREE))

# What a host is taken for.
WORKS = "works"  # its daemons run
STOPPED = "stopped"  # its agent was stopped in order; everything else goes on
MUTE = "mute"  # the machine is on and holds its id, but nothing of it decides
OFF = "off"
DYING = "dying"  # off since a minute or two: sanlock does not call it dead yet

# Penalties of a slot that say something lasting of the host; ``retries`` is a number of starts.
PENALTIES = ("network", "bridge", "cpu-load", "memory", "retries", "conf")


@dataclass(frozen=True)
class LiveHost:
    """``live``: whether its slot changes; None: not known. ``lease``: sanlock's flag of its id; empty: it lists none.
    ``ahead``: seconds until what its slot counts down to. ``penalties``: code to the value behind its points."""

    id: int
    slot: str = "record"
    problem: str = ""
    name: str = ""
    live: Optional[bool] = None
    lease: str = ""
    score: int = 0
    state: str = ""
    vm: str = ""
    health: str = ""
    detail: str = ""
    maintenance: bool = False
    leaving: bool = False
    stopped: bool = False
    ours: bool = True
    version: str = ""
    migration: bool = False
    cpu: str = ""
    mem_free: Optional[int] = None
    generation: Optional[int] = None
    penalties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    zero: str = ""
    ahead: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def shown(self) -> str:
        return f"host {self.id} ({self.name})" if self.name else f"host {self.id}"

    @property
    def mode(self) -> str:
        alive = self.live if self.live is not None else self.lease in (_LIVE, "")
        if self.slot == "record" and alive and not self.stopped:
            return WORKS
        if self.lease == _FAIL:
            return DYING
        if self.lease in (_DEAD, _FREE) or (self.lease == "" and not self.stopped):
            return OFF
        return STOPPED if self.stopped else MUTE

    @property
    def is_on(self) -> bool:
        return self.mode not in (OFF, DYING)

    @property
    def is_booting(self) -> bool:
        return self.state in ("EngineStart", "EngineStarting")

    @property
    def without_lockspace(self) -> bool:
        return self.lease in (_DEAD, _FREE) or self.zero == "lockspace"

    @property
    def rests(self) -> bool:
        return self.maintenance or self.leaving


@dataclass(frozen=True)
class LiveCluster:
    """``owner``: host id and generation in the VM's lease; None: not known. ``boot_time`` in seconds; None: never
    measured."""

    hosts: Tuple[LiveHost, ...]
    source: str = "broker"
    own_id: int = 0
    io_timeout: int = 10
    watchdog: int = 60
    memory_mib: Optional[int] = None
    boot_time: Optional[float] = None
    boot_starts: int = 0
    score: ScoreConfig = field(default_factory=ScoreConfig)
    global_maintenance: Optional[bool] = False
    owner: Optional[Tuple[int, int]] = None
    problems: Tuple[str, ...] = ()

    def host(self, host_id: int) -> LiveHost:
        return next(each for each in self.hosts if each.id == host_id)

    def found(self, name: str) -> Optional[LiveHost]:
        """By id or by name; None if there is none, or two have that name."""
        if name.isascii() and name.isdigit():
            return next((each for each in self.hosts if each.id == int(name)), None)
        named = [each for each in self.hosts if each.name == name]
        return named[0] if len(named) == 1 else None

    def smaller(self, most: int, needed: Collection[int]) -> "Tuple[LiveCluster, Tuple[LiveHost, ...]]":
        """At most so many hosts, and those that are left out: of the ones that only would take the VM if all the others
        could not, the last."""
        if len(self.hosts) <= most:
            return self, ()
        keep = {self.engine_on, 0 if self.owner is None else self.owner[0], *needed}
        ranked = sorted(self.hosts, key=lambda each: (each.id not in keep, each.mode != WORKS, -each.score, each.id))
        kept = sorted(ranked[: max(most, len(keep))], key=lambda each: each.id)
        left = tuple(each for each in self.hosts if each not in kept)
        return replace(self, hosts=tuple(kept)), left

    @property
    def engine_on(self) -> int:
        """The host that has the VM; 0: none. Its slot says so, or the lease of a host that says nothing."""
        running = [each for each in self.hosts if each.mode == WORKS and each.vm == Vm.UP.value]
        if running:
            owner = 0 if self.owner is None else self.owner[0]
            return min(running, key=lambda each: (each.health != "good", each.id != owner, each.id)).id
        holder = next((each for each in self.hosts if self.owner is not None and each.id == self.owner[0]), None)
        if holder is not None and holder.mode in (STOPPED, MUTE) and self._still(holder):
            return holder.id
        return 0

    def _still(self, holder: LiveHost) -> bool:
        """The record is of the holder's present life, as far as it says."""
        return self.owner is not None and holder.generation in (None, self.owner[1])

    @property
    def lease_is_of_this_life(self) -> bool:
        holder = next((each for each in self.hosts if self.owner is not None and each.id == self.owner[0]), None)
        return holder is not None and self._still(holder)


@dataclass(frozen=True)
class Assumption:
    """``weight``: 1 costs some certainty, 2 a lot, 0 none."""

    code: str
    text: str
    weight: int = 1


# --- the document -----------------------------------------------------------------------------------------------------

_TOP = (
    "format", "version", "source", "taken", "own_id", "io_timeout", "watchdog", "memory_mib", "boot_time", "score",
    "global_maintenance", "owner", "problems", "hosts",
)  # fmt: skip


def read(document: object, file: Union[str, Path]) -> LiveCluster:
    """Raises ScenarioError: one line with file, place, expectation."""
    root = Reader(file, "", document, _TOP)
    root.word("format", (FORMAT,))
    root.whole("version", VERSION, VERSION)
    hosts = tuple(_host(root, index, each) for index, each in enumerate(root.objects("hosts")))
    if not 1 <= len(hosts) <= MOST_HOSTS:
        raise root.refuse("hosts", f"a list of 1 to {MOST_HOSTS} hosts")
    if len({each.id for each in hosts}) < len(hosts):
        raise ScenarioError(file, "hosts", "each host id once", sorted(each.id for each in hosts))
    boot = Reader(file, "boot_time", root.values.get("boot_time") or {}, ("seconds", "starts"))
    owner = Reader(file, "owner", root.values.get("owner") or {}, ("host_id", "generation"))
    return LiveCluster(
        hosts=tuple(sorted(hosts, key=lambda each: each.id)),
        source=root.word("source", ("broker", "volume")),
        own_id=root.whole("own_id", 0, MAX_HOST_ID, 0),
        io_timeout=root.whole("io_timeout", 1, 120, 10),
        watchdog=root.whole("watchdog", 1, 600, 60),
        memory_mib=_maybe(root, "memory_mib", 1, 1 << 24),
        boot_time=boot.number("seconds", 0, 86400) if boot.values else None,
        boot_starts=boot.whole("starts", 0, 1 << 20, 0),
        score=_score(root),
        global_maintenance=_maybe_flag(root, "global_maintenance") if "global_maintenance" in root.values else False,
        owner=(owner.whole("host_id", 0, MAX_HOST_ID), owner.whole("generation", 0, 1 << 62)) if owner.values else None,
        problems=tuple(_plain(str(each)) for each in root.objects("problems")),
    )


def _host(root: Reader, index: int, value: object) -> LiveHost:
    names = tuple(each.name for each in fields(LiveHost))
    reader = Reader(root.file, f"hosts[{index}]", value, names)
    flags = ("maintenance", "leaving", "stopped", "migration")
    words = ("problem", "name", "state", "detail", "version", "cpu", "zero")
    plain: Dict[str, Any] = {name: reader.flag(name, False) for name in flags}
    plain.update({name: _text(reader, name) for name in words})
    return LiveHost(
        id=reader.whole("id", 1, MAX_HOST_ID),
        slot=reader.word("slot", ("record", "invalid", "empty")),
        live=_maybe_flag(reader, "live"),
        lease=_one_of(reader, "lease", ("", *(each.value for each in HostLease))),
        score=reader.whole("score", 0, 10**9 - 1, 0),
        vm=_one_of(reader, "vm", ("", *(each.value for each in Vm))),
        health=_one_of(reader, "health", ("", *(each.value for each in Health))),
        ours=reader.flag("ours", True),
        mem_free=_maybe(reader, "mem_free", 0, 1 << 30),
        generation=_maybe(reader, "generation", 0, 1 << 62),
        penalties=_penalties(reader),
        ahead=_ahead(reader),
        **plain,
    )


def _maybe(reader: Reader, key: str, low: int, high: int) -> Optional[int]:
    return None if reader.values.get(key) is None else reader.whole(key, low, high)


def _maybe_flag(reader: Reader, key: str) -> Optional[bool]:
    return None if reader.values.get(key) is None else reader.flag(key, False)


def _one_of(reader: Reader, key: str, words: Tuple[str, ...]) -> str:
    return "" if reader.values.get(key) is None else reader.word(key, words)


def _text(reader: Reader, key: str) -> str:
    value = reader.values.get(key, "")
    if not isinstance(value, str) or not value.isprintable() or len(value) > 512:
        raise reader.refuse(key, "a printable text of at most 512 characters")
    return value


def _penalties(reader: Reader) -> Mapping[str, str]:
    given = Reader(reader.file, reader.at("penalties"), reader.values.get("penalties", {}), PENALTIES)
    return MappingProxyType({key: _text(given, key) for key in sorted(given.values)})


def _ahead(reader: Reader) -> Mapping[str, float]:
    value = reader.values.get("ahead", {})
    if not isinstance(value, dict):
        raise reader.refuse("ahead", "an object: what is counted down to, and the seconds left")
    given = Reader(reader.file, reader.at("ahead"), value, tuple(value))
    return MappingProxyType({key: given.number(key, 0, 1e9) for key in sorted(given.values)})


def _score(root: Reader) -> ScoreConfig:
    plain = ScoreConfig()
    names = tuple(each.name for each in fields(ScoreConfig))
    reader = Reader(root.file, "score", root.values.get("score", {}), names)
    given: Dict[str, Union[int, float]] = {}
    for name in sorted(reader.values):
        is_share = isinstance(getattr(plain, name), float)
        given[name] = reader.number(name, 0, 1) if is_share else reader.whole(name, 0, 100000)
    return ScoreConfig(**given)  # type: ignore[arg-type]


# --- what has to be assumed -------------------------------------------------------------------------------------------


def assumptions(cluster: LiveCluster, boot_given: bool) -> Tuple[Assumption, ...]:
    found: List[Assumption] = [*_of_the_boot(cluster, boot_given), *_of_the_source(cluster)]
    for host in cluster.hosts:
        found += _of_a_host(host)
    found += _of_the_daemons(cluster)
    found += _of_the_engine(cluster)
    return tuple(found)


def _of_the_boot(cluster: LiveCluster, given: bool) -> List[Assumption]:
    if given:
        return []
    if cluster.boot_time is None:
        text = f"The appliance's boot takes {BOOT:g} s: no start of it was measured here (--boot-time=SECONDS sets it)"
        return [Assumption("boot-time", text)]
    starts = f"its last {cluster.boot_starts} starts" if cluster.boot_starts > 1 else "its last start"
    text = f"The appliance's boot takes {cluster.boot_time:.0f} s, as in {starts} on this host"
    return [Assumption("boot-time", text, 0)]


def _of_the_source(cluster: LiveCluster) -> List[Assumption]:
    found = []
    if cluster.source == "volume":
        text = "The broker does not answer: the slots were read from the volume, so monitors and lease are not known"
        found.append(Assumption("no-broker", text, 2))
    if cluster.global_maintenance is None:
        text = "Slot 0 cannot be read: no host starts, stops or moves the VM until it can"
        found.append(Assumption("global-maintenance-unknown", text, 2))
    if not any(host.lease for host in cluster.hosts):
        text = "sanlock's list of hosts is not known: who publishes is taken to hold its id, everybody else to be off"
        found.append(Assumption("no-host-list", text, 2))
    return found


def _of_a_host(host: LiveHost) -> List[Assumption]:
    found: List[Assumption] = []
    silent = {
        MUTE: "is taken to be on and to hold its id, but to start nothing",
        OFF: "is taken to be off",
        DYING: "is taken to have gone off between 80 and 140 s ago (at sanlock's default): it is not dead for sanlock",
    }
    if host.slot == "invalid":
        text = f"{host.shown}: its slot cannot be read ({host.problem}); it {silent.get(host.mode, 'works')}"
        found.append(Assumption("invalid-slot", _capital(text), 2))
    elif host.mode in silent:
        why = "publishes nothing" if host.slot == "empty" else "is stale: its slot does not change"
        weight = 0 if host.mode == OFF else 2
        found.append(Assumption("stale", _capital(f"{host.shown} {why}; it {silent[host.mode]}"), weight))
    if host.mode == WORKS and host.without_lockspace:
        text = f"{host.shown} does not hold its id in the lockspace, and is taken not to get it"
        found.append(Assumption("no-lockspace", _capital(text)))
    return found


def _of_the_daemons(cluster: LiveCluster) -> List[Assumption]:
    found = []
    working = [host for host in cluster.hosts if host.mode == WORKS]
    theirs = [host for host in working if not host.ours]
    if theirs:
        found.append(Assumption("upstream", f"{_named(theirs, 'runs', 'run')} oVirt's own agent: simulated by a model"))
    for version in sorted({host.version for host in working if host.ours} - {"", __version__}):
        others = [host for host in working if host.ours and host.version == version]
        text = f"{_named(others, 'runs', 'run')} version {version}: simulated as {__version__}"
        found.append(Assumption("version", text))
    unsure = [host for host in working if host.live is None]
    if unsure:
        text = f"{_named(unsure, 'is', 'are')} taken to be alive: whether the slots change is not known"
        found.append(Assumption("liveness-unknown", text))
    return found


def _named(hosts: List[LiveHost], one: str, many: str) -> str:
    if len(hosts) == 1:
        return f"{_capital(hosts[0].shown)} {one}"
    return f"Hosts {', '.join(str(host.id) for host in hosts)} {many}"


def _of_the_engine(cluster: LiveCluster) -> List[Assumption]:
    where = cluster.engine_on
    if not where:
        text = "The engine runs nowhere: the hosts look at everything anew first, up to 25 s longer than they would"
        return [Assumption("engine-down", text)]
    host = cluster.host(where)
    if host.mode != WORKS:
        text = f"The VM is taken to run on {host.shown}: the lease is its own"
        return [Assumption("engine-by-lease", text, 2)]
    if host.health != "good":
        text = f"The engine on {host.shown} runs and its health page is bad; it is taken to {_ill(host)}"
        return [Assumption("engine-ill", text, 2)]
    return []


def _ill(host: LiveHost) -> str:
    return "begin to boot now" if host.is_booting else "have become ill just now, for good"


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:512]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
