"""The first process of the lab: `python -m ovirt_he_ha.lab.keeper DIRECTORY CLAIM_FD READY_FD`.

It holds the lab's PID, network and mount namespaces: the switches, the observer, and one nested set of namespaces per
host. Killing it ends everything that the lab runs, at once and for certain, whatever state that was in.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Mapping, NamedTuple

from ovirt_he_ha.lab import network, process
from ovirt_he_ha.lab.control import ControlServer, listen
from ovirt_he_ha.lab.layout import Lab, LabError, LabHost
from ovirt_he_ha.lab.services import Service, environment
from ovirt_he_ha.lab.state import load_lab
from ovirt_he_ha.lab.supervisor import Loop, Supervisor

log = logging.getLogger(__name__)

UNSHARE = (
    *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount", "--mount-proc"),
    *("--net", "--uts", "--ipc", "--propagation", "private", "--"),
)
# A process that hangs in a storage fault delays its namespace's end; the rest of the lab must not wait for it.
POWER_OFF_WAIT = 5.0


class AlreadyOn(LabError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is powered on already.")


class AlreadyOff(LabError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is powered off already.")


class HostFailed(LabError):
    def __init__(self, host: LabHost) -> None:
        super().__init__(f"{host.name} ended while it was started: see {host.directory / 'init.log'}.")


class Powered(NamedTuple):
    """``outer`` is `unshare`, which ends with the host's first process ``init``."""

    outer: "subprocess.Popen[bytes]"
    init: process.ProcessId


class Keeper:
    """``claim`` is the machine-wide name that only one lab can have; whoever asks there learns where that lab is."""

    def __init__(self, lab: Lab, claim: socket.socket) -> None:
        self._lab = lab
        self._claim = claim
        self._hosts: Dict[int, Powered] = {}
        lab.log.mkdir(parents=True, exist_ok=True)
        watch = (lab.interpreter, "-m", "ovirt_he_ha.lab.observer", lab.directory)
        self._own = Supervisor([Service("observer", watch)], environment(lab.host(1)), lab.log)

    def run(self) -> None:
        network.batch(network.fabric_commands(self._lab))
        where = ControlServer(self._claim, {"where": lambda _: self._lab.directory})
        handlers = {"status": self._status, "power-on": self._power_on, "power-off": self._power_off}
        control = ControlServer(listen(self._lab.control), handlers)
        on_wake = lambda: self._own.start_due(time.monotonic())  # noqa: E731
        Loop([where, control], self._exited, on_wake, self._own.next_due).run()

    def _exited(self, pid: int, status: int) -> None:
        if self._own.exited(pid, status):
            return
        for host_id, powered in list(self._hosts.items()):
            if powered.outer.pid == pid:
                powered.outer.returncode = status
                self._forget(host_id)

    def _forget(self, host_id: int) -> None:
        del self._hosts[host_id]
        self._lab.host(host_id).namespace_file.unlink(missing_ok=True)
        log.info("h%s is off", host_id)

    def _status(self, _request: Mapping[str, Any]) -> Dict[str, Any]:
        return {"on": sorted(self._hosts), "at": time.monotonic()}

    def _power_on(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        hosts = [self._lab.host(int(host_id)) for host_id in request["hosts"]]
        for host in hosts:
            if host.host_id in self._hosts:
                raise AlreadyOn(host.name)
        at = time.monotonic()
        for host in hosts:
            self._boot(host)
        return {"at": at}

    def _boot(self, host: LabHost) -> None:
        host.directory.mkdir(parents=True, exist_ok=True)
        reader, writer = os.pipe()
        init = (self._lab.interpreter, "-m", "ovirt_he_ha.lab.host_init")
        with open(host.directory / "init.log", "ab") as output:
            outer = subprocess.Popen(
                [*UNSHARE, *init, self._lab.directory, str(host.host_id), str(reader)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(reader,),
                env=environment(host),
                cwd="/",
                start_new_session=True,
            )
        os.close(reader)
        try:
            first = _first_child(outer, host)
            network.batch(network.plug_commands(host, first.pid))
            host.namespace_file.write_text(process.pid_namespace(first.pid))
            self._hosts[host.host_id] = Powered(outer, first)
            os.write(writer, b"\n")
        finally:
            os.close(writer)

    def _power_off(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Kill the first processes of the hosts named, then wait until nothing of them is left. ``at``: the moment
        before the first kill; ``gone``: None when something of a host hangs in the kernel."""
        chosen: List[int] = [int(host_id) for host_id in request["hosts"]]
        for host_id in chosen:
            if host_id not in self._hosts:
                raise AlreadyOff(self._lab.host(host_id).name)
        at = time.monotonic()
        for host_id in chosen:
            process.kill(self._hosts[host_id].init)
        gone = [self._wait_gone(host_id) for host_id in chosen]
        return {"at": at, "gone": time.monotonic() if all(gone) else None}

    def _wait_gone(self, host_id: int) -> bool:
        try:
            self._hosts[host_id].outer.wait(POWER_OFF_WAIT)
        except subprocess.TimeoutExpired:
            return False  # the loop notices its end later
        self._forget(host_id)
        return True


def _first_child(outer: "subprocess.Popen[bytes]", host: LabHost) -> process.ProcessId:
    """`unshare` forks once: that child is the host's first process. It waits for us, so this is quick."""
    while outer.poll() is None:
        for pid in process.children(outer.pid):
            found = process.identify(pid)
            if found is not None:
                return found
        time.sleep(0.002)
    raise HostFailed(host)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    directory, claim_fd, ready_fd = sys.argv[1:4]
    # Nobody would ever find us if the command that makes us died before it wrote down who we are.
    if os.read(int(ready_fd), 1) != b"\n":
        sys.exit("the command that started the lab went away")
    os.close(int(ready_fd))
    Keeper(load_lab(directory), socket.socket(fileno=int(claim_fd))).run()


if __name__ == "__main__":
    main()
