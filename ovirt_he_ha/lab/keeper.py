"""The first process of the lab: `python -m ovirt_he_ha.lab.keeper DIRECTORY CLAIM_FD READY_FD`.

It holds the lab's PID, network and mount namespaces: the switches, the observer, each host's storage view and watchdog,
and one nested set of namespaces per host. Killing it ends everything that the lab runs, at once and for certain,
whatever state that was in.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Mapping, NamedTuple

from ovirt_he_ha.lab import mounted_view, network, process, view, watchdog
from ovirt_he_ha.lab.control import ControlServer, Handler, listen
from ovirt_he_ha.lab.layout import Lab, LabError, LabHost
from ovirt_he_ha.lab.mounted_view import MountedView
from ovirt_he_ha.lab.observer import Journal
from ovirt_he_ha.lab.services import Service, environment
from ovirt_he_ha.lab.state import load_lab
from ovirt_he_ha.lab.supervisor import Loop, Supervisor

log = logging.getLogger(__name__)

UNSHARE = (
    *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount", "--mount-proc"),
    *("--net", "--uts", "--ipc", "--propagation", "private", "--"),
)
# The end of a namespace takes 50 to 250 ms. Should a process hang in the kernel, the rest of the lab must not wait.
POWER_OFF_WAIT = 5.0


class AlreadyOn(LabError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is powered on already.")


class AlreadyOff(LabError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is powered off already.")


class HostFailed(LabError):
    def __init__(self, host: LabHost) -> None:
        path = host.directory / "init.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        last = f" ({lines[-1].strip()})" if lines else ""
        super().__init__(f"{host.name} ended while it was started{last}: see {path}.")


class Powered(NamedTuple):
    """``outer`` is `unshare`, which ends with the host's first process ``init``."""

    outer: "subprocess.Popen[bytes]"
    init: process.ProcessId
    view: MountedView

    def cut(self) -> None:
        """Power loss, on any thread. The view goes too: what hangs in it could not die."""
        process.kill(self.init)
        self.view.cut()


class Keeper:
    """``claim`` is the machine-wide name that only one lab can have; whoever asks there learns where that lab is."""

    def __init__(self, lab: Lab, claim: socket.socket) -> None:
        self._lab = lab
        self._claim = claim
        self._hosts: Dict[int, Powered] = {}
        lab.log.mkdir(parents=True, exist_ok=True)
        watch = (lab.interpreter, "-m", "ovirt_he_ha.lab.observer", lab.directory)
        self._own = Supervisor([Service("observer", watch)], environment(lab.host(1)), lab.log)
        # Beside the observer's records; both append whole lines.
        self._journal = Journal(open(lab.observations, "a", encoding="utf-8"))  # noqa: SIM115 (as long as we live)
        self._watcher = watchdog.Watcher(lab.scale, self._fire)

    def run(self) -> None:
        network.batch(network.fabric_commands(self._lab))
        mounted_view.mount_connections(self._lab)
        self._watcher.start()
        where = ControlServer(self._claim, {"where": lambda _: self._lab.directory})
        control = ControlServer(listen(self._lab.control), self._handlers())
        on_wake = lambda: self._own.start_due(time.monotonic())  # noqa: E731
        Loop([where, control], self._exited, on_wake, self._own.next_due).run()

    def _handlers(self) -> Dict[str, Handler]:
        return {
            "status": self._status,
            "power-on": self._power_on,
            "power-off": self._power_off,
            "storage": self._storage,
        }

    def _fire(self, host_id: int, keepalive: float) -> None:
        """The watchdog's reset, on its thread; the loop notices the end of the host."""
        powered = self._hosts.get(host_id)
        if powered is None:
            return  # its power was cut in this moment
        at = time.monotonic()
        powered.cut()
        self._journal.write("watchdog", host=host_id, fired=round(at, 4), keepalive=round(keepalive, 4))

    def _exited(self, pid: int, status: int) -> None:
        if self._own.exited(pid, status):
            return
        for host_id, powered in list(self._hosts.items()):
            if powered.outer.pid == pid:
                powered.outer.returncode = status
                self._forget(host_id)
            elif powered.view.server.pid == pid:
                powered.view.server.returncode = status
                powered.view.lost()
                log.info("the server of h%s's view ended with %s", host_id, os.waitstatus_to_exitcode(status))

    def _forget(self, host_id: int) -> None:
        powered = self._hosts.pop(host_id)
        self._watcher.forget(host_id)
        powered.view.cut()
        self._lab.host(host_id).namespace_file.unlink(missing_ok=True)
        self._journal.write("power", host=host_id, on=False)
        log.info("h%s is off", host_id)

    def _status(self, _request: Mapping[str, Any]) -> Dict[str, Any]:
        hosts = {
            host_id: {"storage": powered.view.facts(), "watchdog": self._watcher.facts(host_id)}
            for host_id, powered in self._hosts.items()
        }
        return {"on": sorted(self._hosts), "at": time.monotonic(), "hosts": hosts}

    def _storage(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Switch a host's view; without ``mode`` only tell. ``at``: the moment before."""
        host = self._lab.host(int(request["host"]))
        if host.host_id not in self._hosts:
            raise AlreadyOff(host.name)
        mounted = self._hosts[host.host_id].view
        at = time.monotonic()
        if "mode" in request:
            wanted = view.request(host, str(request["mode"]), _parameters(request))
            mounted.switch(wanted["mode"], wanted["milliseconds"])
            self._journal.write("storage", host=host.host_id, since=round(at, 4), **mounted.facts())
        return {"at": at, **mounted.facts()}

    def _power_on(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        hosts = [self._lab.host(int(host_id)) for host_id in request["hosts"]]
        for host in hosts:
            if host.host_id in self._hosts:
                raise AlreadyOn(host.name)
        for host in hosts:
            network.await_unplugged(host)
        at = time.monotonic()
        for host in hosts:
            self._boot(host)
        return {"at": at}

    def _boot(self, host: LabHost) -> None:
        host.directory.mkdir(parents=True, exist_ok=True)
        mounted = MountedView(host)
        try:
            self._start(host, mounted)
        except BaseException:
            mounted.cut()
            raise
        if watchdog.is_present(host):
            self._watcher.watch(host.host_id, watchdog.OpenDevice(host.watchdog))
        self._journal.write("power", host=host.host_id, on=True)

    def _start(self, host: LabHost, mounted: MountedView) -> None:
        watchdog.make_device(host.watchdog)
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
            self._hosts[host.host_id] = Powered(outer, first, mounted)
            os.write(writer, b"\n")
        except BaseException:
            outer.kill()  # and with it what would disturb the next boot
            outer.wait()
            raise
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
            self._hosts[host_id].cut()
        gone = [self._wait_gone(host_id) for host_id in chosen]
        return {"at": at, "gone": time.monotonic() if all(gone) else None}

    def _wait_gone(self, host_id: int) -> bool:
        try:
            self._hosts[host_id].outer.wait(POWER_OFF_WAIT)
        except subprocess.TimeoutExpired:
            return False  # the loop notices its end later
        self._forget(host_id)
        return True


def _parameters(request: Mapping[str, Any]) -> Dict[str, float]:
    return {"milliseconds": request["milliseconds"]} if request["mode"] == view.SLOW else {}


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
