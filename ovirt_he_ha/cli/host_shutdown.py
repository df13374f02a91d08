"""--host-shutdown: before this host goes down the engine VM moves to another one, or ends in order.

The agent does it, as it does everything; this verb tells it, and holds the shutdown up until it is done, or for as long
as it may. ovirt-ha-host-shutdown.service runs it, before systemd stops anything that a move needs.
"""

import subprocess
import time
from typing import Optional, Tuple

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, link_to_broker
from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import Hosts, global_flag
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.cli.waiting import Condition, wait_for
from ovirt_he_ha.client.link import BrokerError, BrokerSnapshot
from ovirt_he_ha.config import host_shutdown as word
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import PREPARED, Vm
from ovirt_he_ha.core.timers import Timers

_LONGEST = 3600  # product seconds: what core/timers.py allows
_ANSWER = 5.0  # wall seconds that systemd may take to answer
_SILENCE = 30.0  # product seconds in which an agent that runs publishes twice
_MORE = 5.0  # wall seconds beyond the agent's own limit: its word has to get here


def host_shutdown(request: Request) -> int:
    """0: the VM is not here any more, or systemd says that this host does not go down."""
    paths, clock = HostPaths.from_env(), SystemClock()
    limit = request.seconds("--wait", Timers().host_shutdown, _LONGEST) or Timers().host_shutdown
    conf = deployed_conf(paths)
    if request.has("--cancel"):
        called_off = word.cancel(paths)
        say("This host does not go down any more" if called_off else "Nobody said that this host goes down")
        return 0
    if request.has("--if-going-down") and goes_down() is False:
        say("systemd does not stop this host: the engine VM stays")
        return 0
    _may_act(paths)
    seconds = clock.wall_seconds(limit)
    word.announce(paths, seconds)
    try:
        wait_for(paths, seconds + _MORE, _without_vm(conf.host_id, clock.wait_floor(_SILENCE)))
    except KeyboardInterrupt:
        warn("This host counts as going down all the same: hosted-engine --host-shutdown --cancel ends that")
        raise
    say("The engine VM is not on this host: it may go down")
    return 0


def goes_down() -> Optional[bool]:
    """Whether systemd is stopping the whole host; None where it does not say."""
    command = ["systemctl", "is-system-running"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    answer = done.stdout.strip()
    return None if answer in ("", "unknown", "offline") else answer == "stopping"


def _may_act(paths: HostPaths) -> None:
    """Raises Refusal where nobody would move the VM: then there is nothing to wait for."""
    try:
        with link_to_broker(paths, LOOK_SECONDS) as link:
            flag = global_flag(link.snapshot())
    except BrokerError as error:
        raise Refusal("broker", f"The engine VM is not moved: {explain(error)}") from error
    if flag.value is True:
        raise Refusal(
            "global-maintenance",
            "The engine VM is not moved: global maintenance is on. It ends with this host, and no host starts it; "
            "hosted-engine --set-maintenance --mode=none first lets it move",
        )


def _without_vm(own_id: int, patience: float) -> Condition:
    """``patience``: wall seconds that an agent which does not report is waited for."""
    began = time.monotonic()

    def condition(snapshot: BrokerSnapshot, hosts: Hosts) -> Tuple[str, bool]:
        own = hosts.records().get(own_id)
        engine = snapshot.monitors.engine.value
        if own is None or own.stopped or own_id not in hosts.alive:
            if engine is not None and engine.status.vm in (Vm.DOWN, Vm.DOWN_MISSING, Vm.DOWN_UNEXPECTED):
                return "the engine VM is not here", True
            if time.monotonic() - began > patience:
                raise Refusal("agent", "The engine VM is not moved: this host's agent does not report")
            return "this host's agent does not report", False
        found = upkeep.of_host(own)
        return upkeep.text_of(found) or "the agent has not begun yet", found["state"] == PREPARED

    return condition
