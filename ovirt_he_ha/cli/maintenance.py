"""--set-maintenance: what the operator asks, on this host and for the cluster."""

from typing import Callable, List, Optional, TypeVar

from ovirt_he_ha.cli.deployment import deployed_conf, link_to_broker
from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import global_flag
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.client.link import BrokerError, BrokerLink
from ovirt_he_ha.config.files import HaConf, load_ha_conf, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, Vm

T = TypeVar("T")

_MODES = ("global", "local", "none")
_WRITE_SECONDS = 30.0  # wall: the write is acknowledged when it was read back, and the volume may be slow
_REASON_LENGTH = 200  # characters: it travels in this host's slot


def set_maintenance(request: Request) -> int:
    """One flag is never changed on the way to the other: a host that enters local maintenance does not end the
    cluster's."""
    mode = request.value("--mode") or ""
    if mode not in _MODES:
        found = repr(mode[:40]) if mode else "nothing"
        raise Refusal("usage", f"--mode: expected global, local or none, found {found}")
    reason = _reason(request, mode)
    paths = HostPaths.from_env()
    deployed_conf(paths)
    with link_to_broker(paths) as link:
        if mode == "global":
            _enter_global(paths, link)
        elif mode == "local":
            _enter_local(paths, link, reason)
        else:
            _leave_both(paths, link)
    return 0


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
