"""The agent as it is put together: its guard runs, sees and kills whatever else is missing."""

import importlib.util
import os
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, List

import pytest

from ovirt_he_ha.agent import service
from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.service import Agent, compose
from ovirt_he_ha.client.link import BrokerUnavailable
from ovirt_he_ha.core.model import Action, ActionKind, EngineFacts, EngineStatus, Fence, Health, Reading, Vm
from ovirt_he_ha.hypervisor.process import EngineProcess, Gone, ProcessTable
from tests.agent.test_service import write_conf

pytestmark = [
    pytest.mark.system_python,
    pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing"),
]


class Engine:
    """A process that looks like the VM's qemu; nobody else's has this uuid."""

    def __init__(self, vmid: str) -> None:
        code = "import sys; print('here', flush=True); sys.stdin.read()"
        self.process = subprocess.Popen(
            ["qemu-kvm", "-c", code, "-uuid", vmid],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == b"here\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def vmid() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def engines(vmid: str) -> Iterator[List[Engine]]:
    started = [Engine(vmid), Engine(vmid)]
    yield started
    for engine in started:
        engine.end()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmid: str) -> Agent:
    """Twenty times as fast; no broker, no libvirt, no storage."""
    monkeypatch.setenv("HE_TIME_SCALE", "20")
    return compose(write_conf(tmp_path, {"vmid": vmid}))


@pytest.fixture
def dead_sanlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket at which nobody listens any more."""
    monkeypatch.setenv("SANLOCK_RUN_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind("sanlock.sock")


class Running:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._thread = threading.Thread(target=agent.run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._agent.stop()
        self._thread.join(10)
        self._agent._guard.stop()  # the process would end here


@pytest.mark.usefixtures("dead_sanlock")
def test_s11_the_guard_of_the_agent_kills_without_broker_libvirt_and_storage(
    agent: Agent, engines: List[Engine]
) -> None:
    with Running(agent):
        for engine in engines:
            assert engine.process.wait(20) == -9


def test_s11_the_guard_looks_before_the_first_cycle_has_come_to_its_end(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that does not answer keeps the first cycle for 20 s, a disk the budgets for as long as it likes."""
    looked, go_on = threading.Event(), threading.Event()

    def find() -> List[EngineProcess]:
        looked.set()
        return []

    monkeypatch.setattr(agent._guard, "_seams", replace(agent._guard._seams, find=find))
    monkeypatch.setattr(agent, "_load_budgets", lambda: go_on.wait(20))
    try:
        with Running(agent):
            assert looked.wait(10)
            go_on.set()
    finally:
        go_on.set()


def test_s12_the_copy_that_was_meant_is_killed_and_no_other(agent: Agent, engines: List[Engine]) -> None:
    """During a migration to this host, or when somebody started a second one: the guarded copy lives."""
    meant, other = engines
    assert agent._kill_engine(Fence("no lease", 5.0, meant.process.pid), 5.0)
    assert meant.process.wait(5) == -9
    assert other.process.poll() is None


def test_s2_without_a_pid_every_copy_is_killed(agent: Agent, vmid: str, engines: List[Engine]) -> None:
    assert agent._kill_engine(Fence("paused", 5.0), 5.0)
    assert ProcessTable().find(vmid) == []


def test_s2_a_kill_that_finds_no_process_is_no_end_while_the_guard_knows_one(
    agent: Agent, engines: List[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs with its memory locked does not tell its name any more."""
    assert len(agent._scan.find()) == len(engines)
    monkeypatch.setattr(service, "kill_engine", lambda *_: Gone())
    assert not agent._kill_engine(Fence("paused", 5.0), 5.0)


def test_s12_our_own_action_and_a_migration_that_is_seen_suspend_the_audit(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(agent._guard, "suspend", lambda seconds, who: asked.append((seconds > 0, who)))
    decided = SimpleNamespace(wake_at=0.0)
    monkeypatch.setattr(agent._cycle, "decided", decided)
    monkeypatch.setattr(agent._cycle, "run_one_cycle", lambda: decided)
    status = EngineStatus(Vm.UP, Health.GOOD)
    for facts in (EngineFacts(status), EngineFacts(status, outgoing=True)):
        before = SimpleNamespace(monitors=SimpleNamespace(engine=Reading.of(facts)))
        monkeypatch.setattr(agent._cycle, "before", before)
        agent._one_turn()
    assert asked == [(True, "migration")]
    monkeypatch.setattr(agent._vm, "migrate", lambda action, deadline: None)
    agent._actions._migrate(Action(ActionKind.MIGRATE, 2, deadline=60.0))
    assert asked == [(True, "migration"), (True, "action"), (True, "action")]


def test_s5_a_start_is_off_when_the_broker_cannot_be_asked(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> str:
        raise BrokerUnavailable("/run/broker.socket", "snapshot", "refused")

    monkeypatch.setattr(Cycle, "objection_to_start", lost)
    assert agent._objection()


class Systemd:
    """Hears what a service says of itself."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(directory)
        monkeypatch.setenv("NOTIFY_SOCKET", "notify")
        monkeypatch.setenv("WATCHDOG_USEC", "150000")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("notify")

    def hears(self, word: bytes, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
            if self._socket.recv(1000) == word:
                return True
        return False

    def close(self) -> None:
        self._socket.close()
        os.unlink("notify")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    heard = Systemd(tmp_path, monkeypatch)
    yield heard
    heard.close()


def test_s11_the_guard_is_what_systemd_hears(systemd: Systemd, agent: Agent) -> None:
    with Running(agent):
        assert systemd.hears(b"WATCHDOG=1", 10)
        assert systemd.hears(b"WATCHDOG=1", 10)


def test_s11_a_loop_that_hangs_silences_the_guard(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vmid: str
) -> None:
    """systemd starts the agent again, although its guard works."""
    monkeypatch.setattr(service, "CYCLE_LIMIT", 0.5)
    monkeypatch.setenv("HE_TIME_SCALE", "20")  # the guard comes round ten times in a second
    agent = compose(write_conf(tmp_path, {"vmid": vmid}))
    go_on = threading.Event()
    monkeypatch.setattr(agent, "_one_turn", lambda: float(go_on.wait(20)))
    end = time.monotonic() + 30.0
    try:
        with Running(agent):
            while systemd.hears(b"WATCHDOG=1", 1.0):
                assert time.monotonic() < end
            go_on.set()
            assert systemd.hears(b"WATCHDOG=1", 30.0)
    finally:
        go_on.set()
