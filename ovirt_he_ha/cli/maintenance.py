"""--set-maintenance: what the operator asks, on this host and for the cluster."""

from typing import Callable, Dict, List, Optional, Tuple, TypeVar

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, link_to_broker, require_answer
from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import Hosts, global_flag, read_hosts
from ovirt_he_ha.cli.request import Refusal, Request, plain, say, warn
from ovirt_he_ha.cli.waiting import Condition, notice, wait_for
from ovirt_he_ha.client.link import BrokerError, BrokerLink, BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HaConf, load_ha_conf, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, PREPARED, PREPARING_FAILED, Record, State, Vm

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
    reason = reason_of(request)
    wait = request.seconds("--wait", _WAIT_SECONDS[mode])
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    with link_to_broker(paths, LOOK_SECONDS) as link:
        if mode == "global":
            _enter_global(paths, link, reason)
        elif mode == "local":
            _enter_local(paths, link, reason)
        else:
            _leave_both(paths, link, reason)
    if wait is not None:
        wait_for(paths, SystemClock().wait_floor(wait), _CONDITIONS[mode](conf.host_id))
    elif mode == "global":
        _show_who_has_seen(paths)
    return 0


# --- what is waited for --------------------------------------------------------------------------------------------


def left(own_id: int) -> Condition:
    """This host says that it is in maintenance: the VM has left. Raises Refusal when it cannot leave."""

    def condition(_snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        own = hosts.records().get(own_id)
        if own is None or own_id not in hosts.alive:
            return "this host's agent does not report", False
        found = upkeep.of_host(own)
        if found["state"] == PREPARED:
            return "in maintenance", True
        if found["state"] == PREPARING_FAILED:
            raise Refusal(
                "error-in-preparing",
                f"Error in preparing: the engine VM cannot leave this host and goes on here: "
                f"{found['why'] or own.get('problem') or own.get('state')}. This host stays on its way into "
                "maintenance; --mode=none ends that, and --mode=local after it tries anew",
            )
        if found["state"] and hosts.global_maintenance.value:
            raise Refusal(
                "global-maintenance",
                "Preparing, and the engine VM does not move: global maintenance is on. Local maintenance stays asked, "
                "and goes on when global maintenance ends; --mode=none ends both",
            )
        return upkeep.text_of(found) or f"the agent has not begun yet ({own.get('phase') or own.get('state')})", False

    return condition


def _seen(_own_id: int) -> Condition:
    return _agents("have seen it", upkeep.has_seen)


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


_CONDITIONS: Dict[str, Callable[[int], Condition]] = {"local": left, "global": _seen, "none": _back}


# --- what is written -----------------------------------------------------------------------------------------------


def reason_of(request: Request) -> str:
    """Raises Refusal for one that does not fit into a slot."""
    # The slot is ASCII, its fields end at a bar, and nothing in it may steer the terminals of other hosts.
    words = " ".join((request.value("--reason") or "").split())
    reason = plain(words).encode("ascii", "replace").decode().replace("|", "/")
    if len(reason) > _REASON_LENGTH:
        raise Refusal("usage", f"--reason: expected at most {_REASON_LENGTH} characters, found {len(reason)}")
    return reason


def set_global(paths: HostPaths, link: BrokerLink, reason: str) -> None:
    """The cluster's flag, read back; and in this host's file, when and why. Raises what ``write_global`` does."""
    write_global(link, True)
    try:
        # After the flag, and a second later: words from before it was last seen to be off belong to an earlier one.
        save_ha_conf(paths.ha_conf, global_since=int(SystemClock().wall()) + 1, global_reason=reason)
    except (ConfigError, OSError) as error:
        warn(f"When and why it was asked is not kept: {explain(error)}")  # the cluster's flag is on all the same


def _enter_global(paths: HostPaths, link: BrokerLink, reason: str) -> None:
    require_answer(link)
    set_global(paths, link, reason)
    say(
        "Global maintenance is on, read back from the shared volume: no host starts, stops or moves the engine VM"
        + (f" ({reason})" if reason else "")
    )
    conf = _attempt(lambda: load_ha_conf(paths.ha_conf), [])
    if conf is not None and conf.maintenance:
        say("This host stays in local maintenance as well; --mode=none ends both")


def _show_who_has_seen(paths: HostPaths) -> None:
    """At this moment; who wants all of them waits. The flag is on, whoever cannot be asked now."""
    try:
        with link_to_broker(paths, LOOK_SECONDS) as link:
            say(upkeep.seen_line(read_hosts(link.snapshot(), link.is_host_alive())))
    except BrokerError as error:
        warn(f"Which hosts have seen it is not known: {explain(error)}")
        return
    say("Every live host sees it within 20 s: --vm-status shows who has, --wait waits for all")


def _enter_local(paths: HostPaths, link: BrokerLink, reason: str) -> None:
    save_ha_conf(paths.ha_conf, local_maintenance=True, manual=True, reason=reason, end_reason="")
    say("Local maintenance is on: this host takes no engine VM" + (f" ({reason})" if reason else ""))
    try:
        snapshot = link.snapshot()
    except BrokerError as error:
        # Written is written: the agent reads the file when it runs again.
        warn(f"It takes effect when the daemons run. {explain(error)}")
        return
    engine, flag = snapshot.monitors.engine.value, global_flag(snapshot).value
    if engine is not None and engine.status.vm is Vm.UP and not flag:
        say("The engine VM runs here and moves to another host now; --vm-status shows when it has left")
    if flag:
        say("Global maintenance is on and stays on; nothing moves while it is; --mode=none ends both")
    else:
        say("Global maintenance is not changed: it is off" if flag is False else "Global maintenance is not changed")


def _leave_both(paths: HostPaths, link: BrokerLink, reason: str) -> None:
    """Tries both, whatever becomes of the first. Raises Refusal with every failure, after saying what was done."""
    failures: List[Exception] = []
    before = _attempt(lambda: load_ha_conf(paths.ha_conf), failures)
    if before is not None and _attempt(lambda: _clear_local(paths, before, reason), failures) is not None:
        say("Local maintenance of this host is off" + ("" if before.maintenance else ", as it was"))
    cleared = _attempt(lambda: _clear_global(link), failures)
    if cleared is not None:
        say(f"Global maintenance of the cluster is {cleared}")
        _attempt(lambda: _name_who_stays(link), [])
    if failures:
        refusals = [explain(failure) for failure in failures]
        raise Refusal(refusals[0].code, "\n".join(str(refusal) for refusal in refusals))


def _clear_global(link: BrokerLink) -> str:
    require_answer(link)
    was_on = _attempt(lambda: global_flag(link.snapshot()).value, [])
    write_global(link, False)
    return "off, as it was" if was_on is False else "off"


def _clear_local(paths: HostPaths, before: HaConf, reason: str) -> HaConf:
    if before == HaConf() and not reason:
        return before  # nothing to change, nothing to write: a host that never was in maintenance has no such file
    return save_ha_conf(
        paths.ha_conf,
        local_maintenance=False,
        manual=False,
        reason="",
        end_reason=reason,
        global_reason="",
        global_since=0,
    )


def _name_who_stays(link: BrokerLink) -> None:
    """One host's local maintenance is that host's affair."""
    snapshot = link.snapshot()
    hosts = read_hosts(snapshot, ())
    others = [hosts.name(h) for h, one in hosts.records().items() if one.maintenance and h != snapshot.host_id]
    if others:
        say(f"Still in local maintenance: {', '.join(others)}; --mode=none there ends it")


def write_global(link: BrokerLink, wanted: bool) -> bool:
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
