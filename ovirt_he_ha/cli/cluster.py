"""--cluster-stop and --cluster-start: the planned end of the whole cluster, and its planned return, in the order and
with the waits that keep any host from starting the VM in between."""

import shlex
from typing import Any, Callable, Dict, Iterator, List, Tuple, Union

from ovirt_he_ha.cli import vm
from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, link_to_broker
from ovirt_he_ha.cli.guard import FRESH
from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.cli.maintenance import reason_of, set_global, write_global
from ovirt_he_ha.cli.problems import local_problems
from ovirt_he_ha.cli.procedure import Procedure, Step
from ovirt_he_ha.cli.request import Refusal, Request, plain
from ovirt_he_ha.cli.upkeep import has_seen
from ovirt_he_ha.cli.whereabouts import Place, Where, place_here, place_of
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import Health, LockspaceState, Outcome, Record, Slot, Vm

EXIT_MISSING = 3
_LONGEST = 86400  # product seconds of --wait
# Each step's own bound, product seconds.
_LOOK = 15.0
_ACKNOWLEDGED = 60.0  # six cycles
_SHUTDOWN = 300.0  # an appliance with a database takes a minute or two
_LEASE = 60.0
_STORAGE = 300.0  # storage that was switched on when the hosts were
_JOIN = 240.0  # 21 s after a clean end, up to 180 after a power loss
_HOSTS = 120.0  # one that takes longer to boot comes later
_HEALTHY = 900.0  # the ranks' turns, the boot, and the services in it
_FLAG = 35.0  # wall: a write that is acknowledged when it was read back takes up to 30
# A host's word in the answer.
_SEEN, _NOT_SEEN, _PRESENT = "seen", "not-seen", "present"
_SILENT, _STOPPED, _UNREADABLE = "silent", "stopped", "unreadable"
_AGAIN = "hosted-engine --cluster-start, on any host, starts it again"


def cluster_stop(request: Request) -> int:
    """0; 1 and the state's name. Runs on the host that has the VM."""
    wait = request.number("--wait", 1, _LONGEST)
    reason = reason_of(request) or "planned stop of the cluster"
    host = vm.Host()
    host.look()  # nothing is begun without a broker; one that fails later is waited for
    order = Procedure("--cluster-stop", host.paths, request.json, "stopped", None if wait is None else host.wall(wait))
    status = order.run(_Stop(host, order, reason, request).steps())
    if status is not None:
        return status
    unheard = [each["name"] for each in order.hosts if each["state"] in (_SILENT, _UNREADABLE)]
    more = f" Not heard of: {', '.join(unheard)}." if unheard else ""
    return order.close(
        "The cluster is stopped: the engine VM is off, nobody has its lease, and global maintenance keeps it off."
        f"{more} The hosts may be powered off now, in any order, and the storage after them. {_AGAIN}"
    )


def _typed(request: Request) -> Iterator[str]:
    """The options as they were given, for a shell."""
    for option, value in request.options.items():
        yield f" {option}" + (f"={shlex.quote(plain(value))}" if value else "")


class _Stop:
    def __init__(self, host: vm.Host, order: Procedure, reason: str, request: Request) -> None:
        self._host = host
        self._order = order
        self._reason = reason
        self._forced = request.has("--force")
        self._again = f"hosted-engine {request.verb}{''.join(_typed(request))}"
        self._asked = False

    def steps(self) -> List[Step]:
        wall = self._host.wall
        shut_down = Step(
            "shutting-down",
            "The engine VM's guest shuts down",
            wall(_SHUTDOWN),
            self._ended,
            self._shut_down,
            optional=self._forced,
        )
        power_off = Step("powering-off", "The engine VM is powered off", wall(_LOOK), self._ended, self._power_off)
        return [
            Step("looking", "Where the engine VM runs", wall(_LOOK), self._known),
            Step("maintenance", "Global maintenance, read back from the volume", _FLAG, self._on, self._set),
            Step("acknowledging", "Every live host has seen it", wall(_ACKNOWLEDGED), self._seen),
            shut_down,
            *([power_off] if self._forced else []),
            Step("releasing", "Nobody has the VM or its lease", wall(_LEASE), self._free),
        ]

    def _place(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Place:
        place = place_of(snapshot, hosts, self._host.conf.host_id)
        if place.where is Where.ELSEWHERE:
            text = f"{place.text[0].upper()}{place.text[1:]}, and only that host can shut it down. Type there: "
            raise Refusal("not-here", text + self._again)
        return place

    def _known(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        place = self._place(snapshot, hosts)
        return place.text, place.where in (Where.HERE, Where.OFF)

    def _on(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        text, on = _flag(snapshot, hosts, True)
        if on:
            self._order.holds = "Global maintenance is on"
        return text, on

    def _set(self, _snapshot: BrokerSnapshot, _hosts: Hosts) -> bool:
        self._order.holds = "Whether global maintenance is on now is not known"
        with link_to_broker(self._host.paths, LOOK_SECONDS) as link:
            set_global(self._host.paths, link, self._reason)
        return True

    def _seen(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        self._order.hosts = found = _told(hosts, _word_of_maintenance)
        unknown = _cannot_tell(snapshot, hosts, self._host.conf.host_id)
        if unknown:
            return unknown, False
        missing = [each["name"] for each in found if each["state"] == _NOT_SEEN]
        seen = len([each for each in found if each["state"] == _SEEN])
        text = f"hosts that have seen it: {seen} of {seen + len(missing)}"
        return text + (f"; not {', '.join(missing)}" if missing else ""), not missing

    def _ended(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        self._place(snapshot, hosts)
        here = place_here(snapshot)
        if here is None:
            return "the engine VM does not run on this host", True
        return ("the guest still runs" if self._asked and here.where is Where.HERE else here.text), False

    def _shut_down(self, snapshot: BrokerSnapshot, hosts: Hosts) -> bool:
        if self._place(snapshot, hosts).where is not Where.HERE:
            return False
        report = self._host.vm.shutdown(vm.ASK_SECONDS)
        self._asked = True
        if report.outcome is Outcome.OK:
            self._order.holds = (
                "Global maintenance is on, and the guest was asked to shut down; --force powers off one that stays"
            )
        elif not self._forced:
            raise Refusal("shutdown", f"The guest could not be asked to shut down: {report.detail}")
        return True

    def _power_off(self, snapshot: BrokerSnapshot, hosts: Hosts) -> bool:
        if self._place(snapshot, hosts).where is Where.MOVING:
            return False
        report = self._host.vm.destroy(vm.POWEROFF_SECONDS * self._host.clock.scale)
        if report.outcome is not Outcome.OK:
            raise Refusal("poweroff", f"The engine VM was not powered off: {report.detail}")
        self._order.holds = "Global maintenance is on, and the engine VM was powered off"
        return True

    def _free(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        place = self._place(snapshot, hosts)
        return place.text, place.where is Where.OFF


# --- start -----------------------------------------------------------------------------------------------------------


def cluster_start(request: Request) -> int:
    """0; 3 the engine is up and hosts are missing; 1 and the state's name. On any host."""
    wait = request.number("--wait", 1, _LONGEST)
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    clock = SystemClock()
    limit = None if wait is None else clock.wait_floor(wait)
    order = Procedure("--cluster-start", paths, request.json, "started", limit)
    status = order.run(_Start(paths, conf, clock, order).steps())
    if status is not None:
        return status
    missing = [each["name"] for each in order.hosts if each["state"] != _PRESENT]
    if not missing:
        return order.close("The cluster is started: every host is there, and the engine is up")
    text = f"The engine is up. Missing: {', '.join(missing)}"
    return order.close(f"{text}. --clean-metadata forgets a host that is gone for good", EXIT_MISSING, missing=missing)


class _Start:
    def __init__(self, paths: HostPaths, conf: HostedEngineConf, clock: SystemClock, order: Procedure) -> None:
        self._paths = paths
        self._conf = conf
        self._clock = clock
        self._order = order

    def steps(self) -> List[Step]:
        wall = self._clock.wait_floor
        return [
            Step("storage", "The shared volume can be read", wall(_STORAGE), self._storage),
            Step("lockspaces", "This host has joined both lockspaces", wall(_JOIN), self._joined),
            Step("hosts", "Every known host is there", wall(_HOSTS), self._present, optional=True),
            Step("maintenance", "Global maintenance ends, read back from the volume", _FLAG, self._off, self._clear),
            Step("starting", "The engine VM is up and healthy", wall(_HEALTHY), self._healthy),
        ]

    def _storage(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        return self._without("storage", snapshot, hosts, "the shared volume is read"), _reads(snapshot)

    def _joined(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        leases = snapshot.leases
        held = all(each.value is LockspaceState.HELD for each in (leases.lockspace, leases.whiteboard))
        return self._without(("lockspace", "whiteboard"), snapshot, hosts, "both lockspaces are joined"), held

    def _without(self, codes: Union[str, Tuple[str, ...]], snapshot: BrokerSnapshot, hosts: Hosts, well: str) -> str:
        problems = local_problems(snapshot, self._conf.host_id, hosts.alive, self._paths)
        return "; ".join(each.text for each in problems if each.code.startswith(codes)) or well

    def _present(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        self._order.hosts = found = _told(hosts, lambda _record: _PRESENT)
        missing = [_absent(snapshot, each) for each in found if each["state"] != _PRESENT]
        text = f"hosts that are there: {len(found) - len(missing)} of {len(found)}"
        if missing:
            text += f"; missing: {', '.join(missing)}"
        if hosts.global_maintenance.value is False and _healthy_host(snapshot, hosts):
            return f"{text}; the engine is up already", True  # nobody waits for the others
        return text, bool(found) and not missing

    def _off(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        text, off = _flag(snapshot, hosts, False)
        if off:
            self._order.holds = "Global maintenance is off, and the hosts start the engine VM by themselves"
        return text, off

    def _clear(self, _snapshot: BrokerSnapshot, _hosts: Hosts) -> bool:
        self._order.holds = "Whether global maintenance is off now is not known"
        with link_to_broker(self._paths, LOOK_SECONDS) as link:
            return write_global(link, False)

    def _healthy(self, snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        self._order.hosts = _told(hosts, lambda _record: _PRESENT)
        up = _healthy_host(snapshot, hosts)
        if hosts.global_maintenance.value is True:
            raise Refusal(
                "maintenance-again", "Somebody has set global maintenance again: no host starts the engine VM"
            )
        return (f"the engine is up on host {hosts.name(up)}", True) if up else (self._why(), False)

    def _why(self) -> str:
        """The first sentence of --why."""
        from ovirt_he_ha.cli import why
        from ovirt_he_ha.cli.explanation import explain
        from ovirt_he_ha.cli.sources import gather

        try:
            view = gather(self._paths, self._conf)
        except Refusal as error:
            return str(error)
        answer = explain(why.seen(view, self._conf.host_id, why.slot_ages(self._paths, self._conf, view)))["answer"]
        return str(answer["text"]).rstrip(".")


# --- what both look at -----------------------------------------------------------------------------------------------


def _reads(snapshot: BrokerSnapshot) -> bool:
    """The volume answers, and what is known of it is fresh."""
    return snapshot.storage.state == "ok" and snapshot.slots_age is not None and snapshot.slots_age <= FRESH


def _flag(snapshot: BrokerSnapshot, hosts: Hosts, wanted: bool) -> Tuple[str, bool]:
    found = hosts.global_maintenance
    if not _reads(snapshot) or found.value is None:
        why = found.unknown or snapshot.storage.detail or snapshot.storage.state
        return f"global maintenance cannot be read from the volume ({why})", False
    return f"global maintenance is {'on' if found.value else 'off'}", found.value is wanted


def _told(hosts: Hosts, word: Callable[[Record], str]) -> List[Dict[str, Any]]:
    """Each known host: ``word`` of one that lives, else why it does not count."""

    def state(host_id: int, content: Slot) -> str:
        if not isinstance(content, Record):
            return _UNREADABLE
        if content.stopped:
            return _STOPPED
        return word(content) if host_id in hosts.alive else _SILENT

    return [
        {"host-id": host_id, "name": hosts.name(host_id), "state": state(host_id, content)}
        for host_id, content in hosts.slots.items()
    ]


def _word_of_maintenance(record: Record) -> str:
    return _SEEN if has_seen(record) else _NOT_SEEN


def _cannot_tell(snapshot: BrokerSnapshot, hosts: Hosts, own_id: int) -> str:
    """Why it is not known who lives: that is the word of this host's agent."""
    if not _reads(snapshot):
        return f"the shared volume cannot be read ({snapshot.storage.detail or snapshot.storage.state})"
    if own_id in hosts.alive or all(record.stopped for record in hosts.records().values()):
        return ""
    return "ovirt-ha-agent does not report on this host, so which hosts live is not known"


def _absent(snapshot: BrokerSnapshot, told: Dict[str, Any]) -> str:
    flags = snapshot.leases.hosts.value
    flag = flags.get(told["host-id"]) if flags is not None else None
    return f"{told['name']} {told['state']}, sanlock: {flag.value if flag is not None else 'not listed'}"


def _healthy_host(snapshot: BrokerSnapshot, hosts: Hosts) -> int:
    """The host that publishes a healthy engine and has its lease; 0: none."""
    owner = snapshot.leases.owner.value
    for host_id, record in hosts.records().items():
        engine = record.engine
        up = engine is not None and engine.vm is Vm.UP and engine.health is Health.GOOD
        if up and host_id in hosts.alive and not record.stopped and owner is not None and owner.host_id == host_id:
            return host_id
    return 0
