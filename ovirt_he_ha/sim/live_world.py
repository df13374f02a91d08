"""A world that begins as a real cluster was found: its hosts, ids and scores, who has the VM, who is away."""

from dataclasses import replace
from random import Random
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    SLOT_SIZE,
    Action,
    Budgets,
    Decision,
    EngineStatus,
    Health,
    HostLease,
    LeaseOwner,
    Record,
    ScoreConfig,
    Vm,
)
from ovirt_he_ha.sim.clock import Beat, Scope, ns
from ovirt_he_ha.sim.host import LEASE, WHITEBOARD, Host
from ovirt_he_ha.sim.live import DYING, MUTE, STOPPED, WORKS, LiveCluster, LiveHost
from ovirt_he_ha.sim.sanlock import DeltaLease
from ovirt_he_ha.sim.telling import Telling
from ovirt_he_ha.sim.upstream_machine import UpstreamMachine
from ovirt_he_ha.sim.upstream_score import Weights
from ovirt_he_ha.sim.world import ClusterSpec, World

WARM = 50.0  # seconds in which the simulated daemons come to where the real ones are; a better host is not yet moved to
WARM_SILENT = 75.0  # with a host that says nothing: the others must have seen it silent for 60 s
PHASE = 8.0  # and up to so many more: where in its cycles a host is met
GLANCE = 0.25  # seconds between two looks at the health page
MEMORY = 4096  # MiB, where the VM's size is not known
_NOISE = b"\xff" * SLOT_SIZE
_KNOWS_UP = frozenset(("up", "engine-up-elsewhere", "health-unknown", "bad-health", "adopted", "starting"))


class LiveWorld(World):
    """``begins``: seconds; from then on it is told. ``page_log``: the moments (ns) at which the health page began and
    ceased to answer its users. ``noticed``: when a host first decided that the engine is away. ``startable``: host to
    the moments of its decisions, and since when it could have had the lease in each."""

    def __init__(self, cluster: LiveCluster, guest_boot: float, seed: int) -> None:
        self.cluster = cluster
        self.telling = Telling()
        self.page_log: List[Tuple[int, bool]] = []
        self.noticed: List[int] = []
        self.startable: Dict[int, List[Tuple[int, int]]] = {}
        self._believers: Dict[int, bool] = {}
        silent = any(host.mode in (MUTE, STOPPED) for host in cluster.hosts)
        lead = (WARM_SILENT if silent else WARM) if cluster.engine_on else 0.0
        self.begins = lead + PHASE * Random(f"{seed}:phase").random() * bool(lead)
        self._engine_host = cluster.engine_on or cluster.hosts[0].id
        spec = ClusterSpec(
            hosts=len(cluster.hosts),
            engine_on=cluster.engine_on,
            io_timeout=cluster.io_timeout,
            watchdog=cluster.watchdog,
            guest_boot=guest_boot,
            memory_mib=cluster.memory_mib or MEMORY,
            each={host.id: _spec(host) for host in cluster.hosts},
        )
        super().__init__(spec, seed)
        self.progress.enabled = False
        self.telling.begin = ns(self.begins)
        Beat(self.timeline, Scope(), self._glance).wake(GLANCE / 2)

    # --- the beginning -----------------------------------------------------------------------------------------------

    def _numbers(self) -> Sequence[int]:
        return [host.id for host in self.cluster.hosts]

    def _host(self, number: int) -> Host:
        host, live = super()._host(number), self.cluster.host(number)
        host.hostname = live.name or host.hostname
        host.score_config = self.cluster.score
        host.cpu_model = live.cpu or "unknown"
        host.conditions = replace(host.conditions, **_conditions(live, self.cluster.score, self.spec.memory_mib))
        host.definition_problem = "published" if live.zero == "definition" else ""
        if live.rests:
            host.ha_conf = HaConf(local_maintenance=True, manual=True)
        host.agent_wanted = live.mode == WORKS
        host.broker_wanted = live.mode in (WORKS, STOPPED)
        if isinstance(host, UpstreamMachine):
            host.weights = _weights(self.cluster.score)
        return host

    def _begin(self) -> None:
        on = [host for host in self.hosts.values() if self.cluster.host(host.number).is_on]
        for host in on:
            host.preset(uptime=1000.0 + 100000.0 * host.random.random())
            self._set_budgets(host)
        for host in on:
            host.preset_lockspaces()
        for live in self.cluster.hosts:
            if not live.is_on or live.without_lockspace:
                self._take_id(self.hosts[live.id], live)
            if live.mode != WORKS:
                self.volume.slots[live.id] = _published(live)
        flag = self.cluster.global_maintenance
        self.volume.slots[GLOBAL_SLOT] = _NOISE if flag is None else slot.encode_global(flag)
        self._set_owner()

    def _set_budgets(self, host: Host) -> None:
        """What a restart of the agent would not have forgotten; its moments are this machine's."""
        live = self.cluster.host(host.number)
        begin = host.clock.monotonic() + self.begins
        failures = live.penalties.get("retries", "0")
        budgets = Budgets(
            start_failures=int(failures) if failures.isascii() and failures.isdigit() and len(failures) < 6 else 0,
            next_start_at=begin + live.ahead["start-backoff"] if "start-backoff" in live.ahead else 0.0,
            handed_over_until=begin + live.ahead["hand-over-end"] if "hand-over-end" in live.ahead else 0.0,
        )
        host.budgets = (host.boot_id, budgets)

    def _take_id(self, host: Host, live: LiveHost) -> None:
        """It does not hold its id; sanlock on the others knows for how long."""
        daemon, host.sanlock_daemon = host.sanlock_daemon, None
        if daemon is not None:
            daemon.scope.end()
        renewed = 0 if live.lease in (HostLease.FREE.value, "") else 1
        dead, fail = self.disk.dead_after, ns(8.0 * self.disk.io_timeout)
        seen = -2 * dead
        if live.mode == DYING:
            seen = ns(self.begins) - fail - round((dead - fail) * host.random.random())
        for name in (LEASE.lockspace, WHITEBOARD):
            if live.lease:
                self.disk.space(name)[live.id] = DeltaLease(host.hostname, 1, renewed)
            else:
                self.disk.space(name).pop(live.id, None)
            for other in self.hosts.values():
                space = None if other.sanlock_daemon is None else other.sanlock_daemon.spaces.get(name)
                if space is not None and space.seen is not None:
                    space.news += 1
                    space.seen.pop(live.id, None)
                    if live.lease:
                        space.seen[live.id] = (renewed, seen)

    def _set_owner(self) -> None:
        where, owner = self.cluster.engine_on, self.cluster.owner
        if not where:
            if owner is not None and owner[0] in self.hosts:
                self.disk.set_owner(LeaseOwner(owner[0], 1 if self.cluster.lease_is_of_this_life else 0, 1))
            return
        host, live = self.hosts[where], self.cluster.host(where)
        host.preset_vm()
        copy = host.libvirt.domain
        if copy is None or live.mode != WORKS or live.health == Health.GOOD.value:
            return
        if live.is_booting:
            copy.guest.boot_seconds = self.begins + (self.guest_boot or 0.0)
        else:
            self.timeline.at(ns(self.begins), lambda: setattr(copy.guest, "page_bad", True))

    # --- looks -------------------------------------------------------------------------------------------------------

    def page_answers(self) -> bool:
        """To its users: its guest is well, its host has a network, and its disk answers."""
        copy = self.running_copy()
        if copy is None or not copy.guest.healthy:
            return False
        host = self.hosts[copy.host]
        return host.conditions.network > 0 and host.conditions.page_way and not host.io_hangs()

    def _glance(self) -> Optional[float]:
        answers = self.page_answers()
        if not self.page_log or self.page_log[-1][1] != answers:
            if self.page_log:
                self.telling.add(self.timeline.now, 0, "page", _PAGE[answers])
            self.page_log.append((self.timeline.now, answers))
        return GLANCE

    # --- what is told ------------------------------------------------------------------------------------------------

    def note(self, host: int, what: str) -> None:
        super().note(host, what)
        self.telling.note(self.timeline.now, host, what)

    def decided(self, host: Host, cycle: Cycle, decision: Decision) -> None:
        super().decided(host, cycle, decision)
        self.telling.decided(self.timeline.now, host.number, decision)
        believes = any(reason.code in _KNOWS_UP for reason in decision.reasons)
        if self._believers.get(host.number) and not believes:
            self.noticed.append(self.timeline.now)
        self._believers[host.number] = believes
        since = decision.carried.startable_since
        if since is not None:
            now = self.timeline.now
            began = now - ns(host.clock.world(max(0.0, host.clock.monotonic() - since)))
            self.startable.setdefault(host.number, []).append((now, began))

    def ordered(self, host: Host, cycle: Cycle, action: Action) -> None:
        super().ordered(host, cycle, action)
        self.telling.ordered(self.timeline.now, host.number, action)


_PAGE = {True: "THE HEALTH PAGE ANSWERS", False: "THE HEALTH PAGE DOES NOT ANSWER"}


# --- one host ---------------------------------------------------------------------------------------------------------


def _spec(live: LiveHost) -> Dict[str, Any]:
    found: Dict[str, Any] = {"migrates": live.migration, "upstream": not live.ours}
    if live.zero == "unfenced":
        found["watchdog"] = False
    return found


def _weights(score: ScoreConfig) -> Weights:
    return Weights(
        base=score.base_score,
        network=score.network_penalty,
        not_uptodate=score.not_uptodate_penalty,
        bridge=score.bridge_penalty,
        memory=score.memory_penalty,
        cpu=score.cpu_penalty,
        retry=score.retry_penalty,
        cpu_min=score.cpu_min,
        cpu_max=score.cpu_max,
    )


def _conditions(live: LiveHost, score: ScoreConfig, memory_mib: int) -> Dict[str, Any]:
    """What the host must measure to come to the score that it publishes."""
    found: Dict[str, Any] = {"mem_free": 4 * memory_mib if live.mem_free is None else live.mem_free}
    unknown: List[str] = []
    for code, name in (("network", "network"), ("bridge", "bridge"), ("cpu-load", "cpu_load"), ("memory", "mem_free")):
        value = live.penalties.get(code)
        if value is None:
            continue
        if value.startswith("unknown:"):
            unknown.append(name)
        elif name == "bridge":
            found[name] = False
        elif name == "mem_free":
            found[name] = min(found[name], memory_mib - 1)
        else:
            found[name] = _share(value)
    found["unknown"] = tuple(unknown)
    missing = score.base_score - live.score
    if not live.penalties and live.score > 0 and missing > 0 and score.network_penalty:
        # A host that says nothing of its penalties: the network's can be of any size.
        found["network"] = max(0.0, 1.0 - min(missing + 0.5, score.network_penalty) / score.network_penalty)
    return found


def _share(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 1.0


def _published(live: LiveHost) -> bytes:
    """The slot that stands there and does not change any more."""
    if live.slot == "empty":
        return bytes(SLOT_SIZE)
    if live.slot == "invalid":
        return (b"2|1|" if live.problem == "too-new" else b"\xff").ljust(SLOT_SIZE, b"\0")
    record = Record(
        host_id=live.id,
        timestamp=1,
        score=live.score,
        engine=EngineStatus(Vm(live.vm), Health(live.health), live.detail) if live.vm and live.health else None,
        hostname=live.name or f"host{live.id}",
        maintenance=live.maintenance,
        stopped=live.stopped,
        extra=(("state", live.state or "EngineDown"), ("version", live.version or "0")) if live.ours else (),
    )
    return slot.encode(record, 1.7e9)
