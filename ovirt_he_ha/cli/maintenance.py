"""--set-maintenance: what the operator asks, on this host and for the cluster."""

from typing import Callable, Dict, List, Optional, Tuple, TypeVar

from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, link_to_broker
from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import Hosts, global_flag
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.cli.waiting import Condition, notice, wait_for
from ovirt_he_ha.client.link import BrokerError, BrokerLink, BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HaConf, load_ha_conf, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, Record, State, Vm
from ovirt_he_ha.core.moving import PREPARING_FAILED

T = TypeVar("T")

_MODES = ("global", "local", "none")
_WRITE_SECONDS = 30.0  # wall: the write is acknowledged when it was read back, and the volume may be slow
# Product seconds of --wait: the VM's move with its tries, or the agents' next cycles.
_WAIT_SECONDS = {"local": 900.0, "global": 60.0, "none": 60.0}
_REASON_LENGTH = 200  # characters: it travels in this host's slot


def set_maintenance(request: Request) -> int:
    """One flag is never changed on the way to the other: a host that enters local maintenance does not end the
    cluster's."""
    mode = request.value("--mode") or ""
    if mode not in _MODES:
        found = repr(mode[:40]) if mode else "nothing"
        raise Refusal("usage", f"--mode: expected global, local or none, found {found}")
    reason = _reason(request, mode)
    wait = request.seconds("--wait", _WAIT_SECONDS[mode])
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    with link_to_broker(paths, LOOK_SECONDS) as link:
        if mode == "global":
            _enter_global(paths, link)
        elif mode == "local":
            _enter_local(paths, link, reason)
        else:
            _leave_both(paths, link)
    if wait is not None:
        wait_for(paths, SystemClock().wait_floor(wait), _CONDITIONS[mode](conf.host_id))
    return 0


# --- what is waited for --------------------------------------------------------------------------------------------


def _left(own_id: int) -> Condition:
    """This host says that it is in maintenance: the VM has left. Raises Refusal when it cannot leave."""

    def condition(_snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        own = hosts.records().get(own_id)
        if own is None or own_id not in hosts.alive:
            return "this host's agent does not report", False
        if own.maintenance:
            return "in maintenance", True
        phase = own.get("maintenance_state")
        if phase == PREPARING_FAILED:
            raise Refusal(
                "error-in-preparing",
                f"Error in preparing: the engine VM cannot leave this host and goes on here "
                f"({own.get('problem') or own.get('state')}). This host stays on its way into maintenance; "
                "--mode=none ends that",
            )
        return (phase or "the agent has not begun yet") + f" ({own.get('phase') or own.get('state')})", False

    return condition


def _seen(_own_id: int) -> Condition:
    return _agents("have seen it", lambda record: record.maintenance or _is_global(record))


def _back(_own_id: int) -> Condition:
    return _agents("are back", lambda record: not _is_global(record))


def _agents(what: str, test: Callable[[Record], bool]) -> Condition:
    def condition(_snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        running = {h: one for h, one in hosts.records().items() if h in hosts.alive and not one.stopped}
        missing = [hosts.name(h) for h, one in running.items() if not test(one)]
        if missing:
            return (
                f"hosts that {what}: {len(running) - len(missing)} of {len(running)}; not {', '.join(missing)}",
                False,
            )
        return f"hosts that {what}: {len(running)} of {len(running)}", bool(running)

    return condition


def _is_global(record: Record) -> bool:
    return record.get("state") == State.GLOBAL_MAINTENANCE.value


_CONDITIONS: Dict[str, Callable[[int], Condition]] = {"local": _left, "global": _seen, "none": _back}


# --- what is written -----------------------------------------------------------------------------------------------


def _reason(request: Request, mode: str) -> str:
    given = request.value("--reason")
    if given is None:
        return ""
    if mode != "local":
        raise Refusal("usage", "--reason belongs to --mode=local: the cluster's flag has no room for a text")
    # The slot is ASCII, and its fields end at a bar.
    reason = " ".join(given.encode("ascii", "replace").decode().split()).replace("|", "/")
    if len(reason) > _REASON_LENGTH:
        raise Refusal("usage", f"--reason: expected at most {_REASON_LENGTH} characters, found {len(reason)}")
    return reason


def _enter_global(paths: HostPaths, link: BrokerLink) -> None:
    _write_global(link, True)
    say("Global maintenance is on: no host starts, stops or moves the engine VM")
    if load_ha_conf(paths.ha_conf).maintenance:
        say("This host stays in local maintenance as well; --mode=none ends both")


def _enter_local(paths: HostPaths, link: BrokerLink, reason: str) -> None:
    save_ha_conf(paths.ha_conf, local_maintenance=True, manual=True, reason=reason)
    say("Local maintenance is on: this host takes no engine VM")
    try:
        snapshot = link.snapshot()
    except BrokerError as error:
        # Written is written: the agent reads the file when it runs again.
        warn(f"It takes effect when the daemons run. {explain(error)}")
        return
    engine = snapshot.monitors.engine.value
    if engine is not None and engine.status.vm is Vm.UP:
        say("The engine VM runs here and moves to another host now; --vm-status shows when it has left")
    if global_flag(snapshot).value:
        say("Global maintenance stays on, and nothing moves while it is; --mode=none ends both")


def _leave_both(paths: HostPaths, link: BrokerLink) -> None:
    """Tries both, whatever becomes of the first. Raises Refusal with every failure, after saying what was done."""
    failures: List[Exception] = []
    before = _attempt(lambda: load_ha_conf(paths.ha_conf), failures)
    if before is not None and _attempt(lambda: _clear_local(paths, before), failures) is not None:
        say("Local maintenance of this host is off" + ("" if before.maintenance else ", as it was"))
    if _attempt(lambda: _write_global(link, False), failures) is not None:
        say("Global maintenance of the cluster is off")
    if failures:
        refusals = [explain(failure) for failure in failures]
        raise Refusal(refusals[0].code, "\n".join(str(refusal) for refusal in refusals))


def _clear_local(paths: HostPaths, before: HaConf) -> HaConf:
    if before == HaConf():
        return before  # nothing to change, nothing to write: a host that never was in maintenance has no such file
    return save_ha_conf(paths.ha_conf, local_maintenance=False, manual=False, reason="")


def _write_global(link: BrokerLink, wanted: bool) -> bool:
    """Raises Refusal unless the flag reads as it was written: somebody else may have written the other one
    meanwhile."""
    with notice("Waiting for the shared volume to take the flag"):
        link.put_stats(GLOBAL_SLOT, slot.encode_global(wanted), deadline=_WRITE_SECONDS)
    found = global_flag(link.snapshot())
    if found.value is not wanted:
        state = {True: "on", False: "off", None: f"unreadable ({found.unknown})"}[found.value]
        raise Refusal(
            "not-confirmed",
            f"The global maintenance flag was written, and reads back as {state}: another host changed it. "
            "See --vm-status, and ask again",
        )
    return True


def _attempt(act: Callable[[], T], failures: List[Exception]) -> Optional[T]:
    try:
        return act()
    except Exception as error:  # told by the caller, together with the other one
        failures.append(error)
        return None
