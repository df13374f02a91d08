"""--protection: what guards the engine VM on every host, what is missing, what to do, and how long each fault takes."""

import json
import re
import sys
import textwrap
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence, Tuple

from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, link_to_broker, look
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Request, plain, say, say_painted
from ovirt_he_ha.cli.table import is_coloured, width_of
from ovirt_he_ha.client.bounded_volume import BoundedVolume
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf, load_agent_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import findings
from ovirt_he_ha.core.model import Empty, Finding, HostLease, LeaseId, Level, Protection, Reading, Record
from ovirt_he_ha.core.protection import Cluster, Host, assess, host
from ovirt_he_ha.core.recovery import Forecast, forecasts
from ovirt_he_ha.core.safeguards import Facts
from ovirt_he_ha.core.situation import lease_text
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor import lock_manager
from ovirt_he_ha.hypervisor.custom_definition import CustomRefused, load_custom
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, VmConfError, check, engine_xml, parse_vm_conf
from ovirt_he_ha.storage.archive import ArchiveError, read_archive
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_process import IoFailure

SCHEMA_VERSION = 1
EXIT = {Level.PROTECTED: 0, Level.DEGRADED: 3, Level.UNPROTECTED: 4}
ARCHIVE = "the configuration archive"  # the agent's word for it in the head of the effective vm.conf
_ORIGIN = re.compile(r"^# From (.*), [0-9TZ:-]+$", re.MULTILINE)
# Wall, for this host's own look at the VM's definition: with the broker's 2 s below the 3 s that any look may take.
VOLUME_SECONDS = 0.9
FRESH = Timers.facts_stale
_VERDICTS = {
    Level.PROTECTED: "PROTECTED: {deployed} hosts deployed, the VM on {where}, {spares} more can take it over",
    Level.DEGRADED: "DEGRADED: the engine VM is guarded, but not all that guards it is there ({count} to look at)",
    Level.UNPROTECTED: "UNPROTECTED: the engine VM could run twice, or nobody would start it again",
}
_HEADINGS = {
    Level.UNPROTECTED: "Not protected:",
    Level.DEGRADED: "Missing:",
    Level.UNKNOWN: "Not known:",
    Level.NOTE: "Worth knowing:",
}
_RED, _YELLOW, _GREEN, _PLAIN = "\x1b[1;31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
_COLOURS = {
    Level.UNPROTECTED: _RED,
    Level.DEGRADED: _RED,
    Level.UNKNOWN: _YELLOW,
    Level.PROTECTED: _GREEN,
    Level.NOTE: "",
}


@dataclass(frozen=True)
class _View:
    """All that is shown. ``wall``: this host's clock in the moment of the look."""

    own_id: int
    meter: Protection
    hosts: Tuple[Host, ...]
    recovery: List[Forecast]
    wall: float

    def name(self, host_id: int) -> str:
        found = next((one.name for one in self.hosts if one.host_id == host_id), "")
        return f"host {host_id} ({found})" if found else f"host {host_id}"

    @property
    def names(self) -> Dict[int, str]:
        return {one.host_id: self.name(one.host_id) for one in self.hosts}


def protection(request: Request) -> int:
    """0 protected; 3 degraded; 4 unprotected."""
    view = _look()
    if request.json:
        say(json.dumps(_as_json(view)))
    else:
        _print(view)
    return EXIT[view.meter.level]


# --- looking --------------------------------------------------------------------------------------------------------


def _look() -> _View:
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    with link_to_broker(paths, LOOK_SECONDS) as link:
        snapshot, alive = look(link)
    wall = SystemClock().wall()
    shown = read_hosts(snapshot, alive)
    found = _definition(paths, conf)
    hosts = _with_own_look(_hosts(snapshot, shown, alive, conf.host_id), snapshot, paths, conf, found.problem)
    flags = snapshot.leases.hosts
    meter = assess(
        Cluster(
            own_id=conf.host_id,
            hosts=hosts,
            global_maintenance=_global(snapshot, shown),
            flags_known=flags.value is not None and (flags.age or 0.0) <= FRESH,
            slots_age=snapshot.slots_age,
            wall=wall,
        )
    )
    return _View(conf.host_id, meter, hosts, forecasts(meter, hosts, Timers(), found.memory_mib), wall)


def _global(snapshot: BrokerSnapshot, shown: Hosts) -> "Reading[bool]":
    if snapshot.slots_age is None or snapshot.slots_age > 60.0:
        return Reading.missing("not-yet" if snapshot.slots_age is None else "overdue")
    return shown.global_maintenance


def _hosts(snapshot: BrokerSnapshot, shown: Hosts, alive: Collection[int], own_id: int) -> Tuple[Host, ...]:
    flags = snapshot.leases.hosts.value or {}
    own = shown.slots.get(own_id)
    silent = _silent(own) if isinstance(own, Record) and own_id in alive else ()
    slots = {own_id: Empty(), **shown.slots}
    return tuple(
        host(host_id, found, host_id in alive, host_id in silent, flags.get(host_id))
        for host_id, found in sorted(slots.items())
    )


def _silent(own: Record) -> Tuple[int, ...]:
    """Hosts that missed two publishes: only this host's agent follows them over time."""
    for part in own.get("prot.why").split(","):
        code, _, ids = part.partition(":")
        if code == "host-silent":
            return tuple(int(number) for number in ids.split(".") if number.isascii() and number.isdigit())
    return ()


@dataclass(frozen=True)
class _Definition:
    """``problem``: ``ok``, or the code of what is refused; empty: nothing newer is known than what the agents say."""

    problem: str = ""
    memory_mib: int = 0


def _definition(paths: HostPaths, conf: HostedEngineConf) -> _Definition:
    """The VM's definition as it is in the configuration archive at this moment, where it is that one which is used: an
    agent looks once a minute. One that came from an OVF_STORE stays in use when a newer one is refused; what the agents
    say of it stands."""
    try:
        used = paths.vm_conf.read_text(encoding="utf-8")
        memory = int(parse_vm_conf(used).memory_mib)
    except (OSError, UnicodeDecodeError, VmConfError):
        used, memory = "", 0
    origin = _ORIGIN.search(used)
    if origin is None or origin.group(1) != ARCHIVE:
        return _Definition("", memory)
    path = domain_of(conf).volume_path(conf.conf_image_uuid, conf.conf_volume_uuid)
    try:
        with BoundedVolume(path, VOLUME_SECONDS) as volume:
            text = read_archive(volume)["vm.conf"].decode("utf-8")
    except (IoFailure, StorageError, ArchiveError, UnicodeDecodeError):
        return _Definition("", memory)  # that the storage does not answer shows by itself
    return _judged(text, paths, conf)


def _judged(text: str, paths: HostPaths, conf: HostedEngineConf) -> _Definition:
    lease = _lease(conf)
    try:
        vm_conf = parse_vm_conf(text)
        custom = load_custom(load_agent_conf(paths.agent_conf))
        xml = engine_xml(vm_conf, lease, custom=custom)
        check(xml, lease, conf.vmid, reserved=conf.own_volumes, allowed=custom.allowed)
    except DefinitionRefused as refused:
        return _Definition(refused.code)
    except VmConfError:
        return _Definition("vm-conf")
    except (ConfigError, CustomRefused):
        return _Definition("extra-xml")
    return _Definition("ok", vm_conf.memory_mib)


def _lease(conf: HostedEngineConf) -> LeaseId:
    return domain_of(conf).lease(conf.vm_disk_id, conf.vm_disk_vol_id)


def _with_own_look(
    hosts: Tuple[Host, ...], snapshot: BrokerSnapshot, paths: HostPaths, conf: HostedEngineConf, problem: str
) -> Tuple[Host, ...]:
    """What this host sees now instead of what it, and the others, published. There is one definition for all hosts
    that compute the same lease."""
    ours = lease_text(_lease(conf))
    found = []
    for one in hosts:
        facts = one.facts
        if one.host_id == conf.host_id and facts.told:
            facts = _own_facts(facts, snapshot, paths)
        if problem and facts.told and facts.lease == ours:
            facts = replace(facts, definition=problem)
        found.append(replace(one, facts=facts))
    return tuple(found)


def _own_facts(facts: Facts, snapshot: BrokerSnapshot, paths: HostPaths) -> Facts:
    leases, engine = snapshot.leases, snapshot.monitors.engine.value
    word = lock_manager.in_force(paths.qemu_conf, paths.libvirt_pid_files) or facts.lock_manager
    running = engine.lease_defined if engine is not None and engine.pid is not None else facts.running_lease
    facts = replace(facts, watchdog=leases.watchdog_armed, lock_manager=word, running_lease=running)
    if leases.own_generation is None:
        return facts
    return replace(facts, io_timeout=leases.io_timeout, watchdog_timeout=leases.watchdog)


# --- for programs ---------------------------------------------------------------------------------------------------


def _as_json(view: _View) -> Dict[str, Any]:
    meter = view.meter
    return {
        "schema_version": SCHEMA_VERSION,
        "level": meter.level.value,
        "local-host": view.own_id,
        "vm-host": meter.vm_host or None,
        "deployed": meter.deployed,
        "eligible": sum(1 for one in view.hosts if one.eligible),
        "spares": list(meter.spares),
        "findings": [_finding_json(finding, view) for finding in meter.findings],
        "hosts": [_host_json(one, view) for one in view.hosts],
        "recovery": [
            {"fault": each.fault, "title": each.title, "seconds": each.seconds, "how": each.how, "text": each.text}
            for each in view.recovery
        ],
    }


def _finding_json(finding: Finding, view: _View) -> Dict[str, Any]:
    sentence, mend = findings.describe(finding, view.names)
    return {
        "code": finding.code,
        "level": finding.level.value,
        "hosts": list(finding.hosts),
        "values": dict(finding.values),
        "text": sentence,
        "do": mend,
    }


def _host_json(one: Host, view: _View) -> Dict[str, Any]:
    facts = one.facts
    return {
        "host-id": one.host_id,
        "hostname": one.name or None,
        "role": _role(one, view.meter),
        "live": one.live,
        "score": one.record.score if one.record is not None else None,
        "tells": facts.told,
        "watchdog": facts.watchdog,
        "lock-manager": facts.lock_manager or None,
        "definition": facts.definition or None,
        "running-lease": facts.running_lease,
        "audit": facts.guard or None,
        "lockspace": one.lease.value if one.lease is not None else None,
        "io-timeout": facts.io_timeout or None,
        "watchdog-timeout": facts.watchdog_timeout or None,
        "configuration": {"deployment": facts.deployment, "score": facts.score, "timers": facts.timers},
        "lease": facts.lease or None,
        "clock-offset": round(facts.wall - view.wall) if facts.wall else None,
        "live-migration": facts.migrates,
        "second-network": facts.second_network,
        "versions": {
            "agent": facts.agent,
            "broker": facts.broker,
            "libvirt": facts.libvirt,
            "sanlock": facts.sanlock,
        },
        "problems": list(facts.problems),
    }


def _role(one: Host, meter: Protection) -> str:
    if one.host_id == meter.vm_host:
        return "vm"
    return "spare" if one.host_id in meter.spares else "out"


# --- for people -----------------------------------------------------------------------------------------------------


def _print(view: _View) -> None:
    meter = view.meter
    paint = _Paint(is_coloured(sys.stdout))
    count = sum(1 for finding in meter.findings if finding.level is not Level.NOTE)
    verdict = _VERDICTS[meter.level].format(
        deployed=meter.deployed, where=view.name(meter.vm_host), spares=len(meter.spares), count=count
    )
    width = width_of(sys.stdout) if sys.stdout.isatty() else 0
    _say_wrapped(verdict, width, 0, lambda text: paint(text, meter.level))
    say("")
    for line in _table(view, width):
        say(line)
    say("")
    eligible = sum(1 for one in view.hosts if one.eligible)
    spares = ", ".join(view.name(host_id) for host_id in meter.spares) or "none"
    say(f"{meter.deployed} hosts deployed, {eligible} with a score above 0; spares: {spares}")
    say("")
    say("If this happens                                       the VM is back within (its own boot not counted)")
    for each in view.recovery:
        seconds = "never" if each.how == "not-recovered" else "?" if each.seconds is None else f"{each.seconds:.0f} s"
        level = Level.UNPROTECTED if each.how == "not-recovered" else Level.UNKNOWN if each.seconds is None else None
        say_painted(paint(plain(f"  {each.title:<50}  {seconds:>6}  {each.text}"), level))
    _print_findings(view, paint, width)


def _say_wrapped(text: str, width: int, indent: int, painted: Callable[[str], str] = str) -> None:
    """``width`` 0: one line, for whoever reads it by program."""
    begin = " " * indent
    for line in textwrap.wrap(plain(text), max(40, width - indent)) if width else [plain(text)]:
        say_painted(painted(begin + line))


def _print_findings(view: _View, paint: "_Paint", width: int) -> None:
    for level, heading in _HEADINGS.items():
        found = [finding for finding in view.meter.findings if finding.level is level]
        if found:
            say("")
            say(heading)
        for finding in found:
            sentence, mend = findings.describe(finding, view.names)
            _say_wrapped(sentence, width, 2, partial(paint, level=level))
            _say_wrapped(f"-> {mend}", width, 6)


class _Paint:
    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, text: str, level: Optional[Level]) -> str:
        colour = _COLOURS[level] if level is not None and self._colours else ""
        return f"{colour}{text}{_PLAIN}" if colour else text


_COLUMNS = (
    *("host", "role", "score", "watchdog", "locks", "definition", "audit", "lockspace", "timeouts"),
    *("agent", "broker", "libvirt", "sanlock", "clock"),
)
_VERSIONS = _COLUMNS.index("agent")


def _table(view: _View, width: int) -> List[str]:
    """``width`` of the screen; 0: of no end. Where all columns do not fit, those of the versions come below."""
    rows = [_COLUMNS, *(_row(one, view) for one in view.hosts)]
    whole = _aligned(rows)
    if not width or len(max(whole, key=len)) <= width:
        return whole
    return [
        *_aligned([row[:_VERSIONS] for row in rows]),
        "",
        *_aligned([(row[0], *row[_VERSIONS:]) for row in rows]),
    ]


def _aligned(rows: Sequence[Tuple[str, ...]]) -> List[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _row(one: Host, view: _View) -> Tuple[str, ...]:
    facts = one.facts
    return (
        f"{one.host_id} {one.name}".rstrip(),
        _role(one, view.meter) if one.live else "silent",
        str(one.record.score) if one.record is not None else "?",
        {True: "armed", False: "OFF", None: "?"}[facts.watchdog],
        facts.lock_manager or "?",
        facts.definition or "?",
        facts.guard or ("-" if one.host_id != view.meter.vm_host else "?"),
        _lockspace(one.lease),
        f"{facts.io_timeout}/{facts.watchdog_timeout} s" if facts.io_timeout else "?",
        facts.agent or "?",
        facts.broker or "?",
        facts.libvirt or "?",
        facts.sanlock or "?",
        _clock(facts, view.wall),
    )


def _lockspace(flag: Optional[HostLease]) -> str:
    return "none" if flag is None else flag.value


def _clock(facts: Facts, wall: float) -> str:
    """What it published is up to 25 s old: only more than that is a difference."""
    if not facts.wall:
        return "?"
    apart = facts.wall - wall
    return "ok" if -90 <= apart <= 60 else f"{apart:+.0f} s"
